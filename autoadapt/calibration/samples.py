"""Samples: a bounded choice of images that the head is tried on, cut out of their batches."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache, reduce
from typing import Any, TypeAlias

import torch

from autoadapt.calibration.detections import are_detections
from autoadapt.contracts.trees import Tree, flatten, rebuild

IMAGES = 64
"""That recipes are tried on, at most."""
REPORTED = 256
"""That the figures of a report are made of, at most: of 64 the agreement has a standard error of .06."""
BYTES = 128 << 20


Place: TypeAlias = tuple[str, ...]
"""Keys that lead to a part of a value through dicts."""


@dataclass(frozen=True)
class Cut:
    """The part of a value that belongs to one image."""

    tree: Tree
    tensors: tuple[torch.Tensor, ...]
    by_image: tuple[bool, ...]
    """Which of them have an axis of images."""
    lists: tuple[Place, ...] = ()
    """Where lists stand that have one entry an image, such as detectors take and return."""

    @property
    def value(self) -> Any:
        """The value itself, in containers of its own."""
        return rebuild(self.tree, self.tensors)

    @property
    def bytes(self) -> int:
        """Memory of the tensors that are not shared between images."""
        return sum(t.numel() * t.element_size() for t, own in zip(self.tensors, self.by_image, strict=True) if own)


@dataclass(frozen=True)
class Sample:
    """One image: how the model was called, what the backbone returned, and what the old model answered."""

    number: int
    fold: int
    positional: int
    arguments: Cut
    features: tuple[Cut, ...]
    """One for each call of the backbone."""
    answer: Cut

    @property
    def bytes(self) -> int:
        """Memory it takes."""
        return sum(part.bytes for part in (self.arguments, *self.features, self.answer))


def cut(value: object, image: int, images: int, *, listed: bool = True) -> Cut:
    """What belongs to one image of a batch.

    Tensors are cut along axis 0 where it has as many entries as there are images. Anything else belongs to every
    image.

    Args:
        value: Tensors in containers.
        image: Which image.
        images: How many the batch has.
        listed: Lists may have one entry an image, such as detectors take and return.

    Example:
        >>> cut({"x": torch.zeros(2, 3), "scale": torch.ones(())}, 0, 2).by_image
        (True, False)
    """
    lists = tuple(_lists(value, images, ())) if listed else ()
    if lists:
        tree, tensors = flatten(_changed(value, lists, (), lambda entries: [entries[image]]))
        return Cut(tree, tuple(tensor.clone() for tensor in tensors), (True,) * len(tensors), lists)
    tree, tensors = flatten(value)
    own = tuple(_has_axis(tensor, images) for tensor in tensors)
    parts = (t[image : image + 1].clone() if mine else t for t, mine in zip(tensors, own, strict=True))
    return Cut(tree, tuple(parts), own)


def _lists(value: Any, images: int, place: Place) -> Iterator[Place]:
    """Where lists stand that have one entry an image."""
    if type(value) is dict:
        for key, child in value.items():
            yield from _lists(child, images, (*place, key))
    elif type(value) in (list, tuple) and len(value) == images and _has_entries_by_image(value, images):
        yield place


def _has_entries_by_image(values: Sequence[Any], images: int) -> bool:
    """Detections, or tensors that have no axis of images; one of three axes is taken for an image itself."""
    if are_detections(values):
        return True
    tensors = flatten(list(values))[1]
    return bool(tensors) and not all(_has_axis(t, images) and (t.dim() != 3 or images == 1) for t in tensors)


def _changed(value: Any, places: Sequence[Place], here: Place, change: Callable[[Any], Any]) -> Any:
    """A value with other things at some places."""
    if here in places:
        return change(value)
    if type(value) is dict:
        return {key: _changed(child, places, (*here, key), change) for key, child in value.items()}
    return value


def _at(value: Any, place: Place) -> Any:
    return reduce(lambda inner, key: inner[key], place, value)


def _has_axis(tensor: torch.Tensor, images: int) -> bool:
    return tensor.dim() > 0 and tensor.shape[0] == images


def joined(cuts: Sequence[Cut], *, shapes_differ: bool = False) -> Cut | None:
    """Values of several images as one batch; None where they do not fit together.

    Args:
        cuts: One an image.
        shapes_differ: Entries of lists may be of different shapes, as detections are, and images must not be.
    """
    first = cuts[0]
    if len(cuts) == 1:
        return first
    alike = all([t.shape for t in one.tensors] == [t.shape for t in first.tensors] for one in cuts)
    if any(one.lists != first.lists for one in cuts) or not (alike or (first.lists and shapes_differ)):
        return None
    if first.lists:
        values = [one.value for one in cuts]
        places = iter(first.lists)
        merged = _changed(
            values[0], first.lists, (), lambda _: [_at(value, place)[0] for place in [next(places)] for value in values]
        )
        tree, tensors = flatten(merged)
        return Cut(tree, tuple(tensors), (True,) * len(tensors), first.lists)
    if any(one.tree != first.tree for one in cuts):
        return None
    columns = zip(*(one.tensors for one in cuts), strict=True)
    joint = [torch.cat(c) if own else c[0] for c, own in zip(columns, first.by_image, strict=True)]
    return Cut(first.tree, tuple(joint), first.by_image)


@lru_cache(4096)  # asked for each image that is kept whenever another comes
def priority(seed: int, number: int) -> float:
    """Which images are chosen: those of least priority, whatever order and worker they come in."""
    return random.Random(f"{seed}:{number}").random()


class Samples:
    """The images of least priority, equally many of each fold, within a bound on images and bytes."""

    def __init__(self, folds: int, seed: int, images: int = IMAGES) -> None:
        self._folds = folds
        self._seed = seed
        self._limit = max(1, images // folds)
        self._kept: dict[int, Sample] = {}

    def wants(self, number: int, fold: int) -> bool:
        """Whether an image would be kept."""
        rivals = [self._priority(other) for other in self._kept.values() if other.fold == fold]
        return len(rivals) < self._limit or priority(self._seed, number) < max(rivals)

    def add(self, sample: Sample) -> None:
        """Keep an image, and let others go where there are too many."""
        self._kept[sample.number] = sample
        self._limit = min(self._limit, max(1, BYTES // max(sample.bytes, 1) // self._folds))
        for fold in range(self._folds):
            ranked = sorted((s for s in self._kept.values() if s.fold == fold), key=self._priority)
            for sample in ranked[self._limit :]:
                del self._kept[sample.number]

    def only(self, numbers: Iterable[int]) -> None:
        """Let all others go."""
        kept = set(numbers)
        self._kept = {number: sample for number, sample in self._kept.items() if number in kept}

    def of(self, fold: int) -> list[Sample]:
        """The images of a fold, in the order of their numbers."""
        return sorted((s for s in self._kept.values() if s.fold == fold), key=lambda sample: sample.number)

    def some(self, numbers: Iterable[int]) -> list[Sample]:
        """Those of some numbers that are kept here, in the order given."""
        return [self._kept[number] for number in numbers if number in self._kept]

    @property
    def all(self) -> list[Sample]:
        """The images, in the order of their numbers."""
        return [sample for _, sample in sorted(self._kept.items())]

    @property
    def numbers(self) -> dict[int, int]:
        """The fold of each image that is kept."""
        return {number: sample.fold for number, sample in sorted(self._kept.items())}

    def chosen(self, everyone: Mapping[int, int], images: int | None = None) -> list[int]:
        """Which of the images that all workers keep stay, by number and fold; at most so many."""
        limit = self._limit if images is None else min(self._limit, max(1, images // self._folds))
        ranked = sorted(everyone, key=lambda number: priority(self._seed, number))
        folds = {fold: [number for number in ranked if everyone[number] == fold] for fold in range(self._folds)}
        return [number for numbers in folds.values() for number in numbers[:limit]]

    @property
    def bytes(self) -> int:
        """Memory of all of them."""
        return sum(sample.bytes for sample in self._kept.values())

    def _priority(self, sample: Sample) -> float:
        return priority(self._seed, sample.number)
