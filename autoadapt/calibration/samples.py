"""Samples: a bounded choice of images that the head is tried on, cut out of their batches."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from autoadapt.trees import Tree, flatten, rebuild

__all__ = ["Cut", "Sample", "Samples", "cut", "joined", "priority"]

IMAGES = 64
BYTES = 128 << 20


@dataclass(frozen=True)
class Cut:
    """The part of a value that belongs to one image."""

    tree: Tree
    tensors: tuple[torch.Tensor, ...]
    by_image: tuple[bool, ...]
    """Which of them have an axis of images."""
    joins: bool = True
    """Whether such values of several images can be put into one batch."""

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
    picked = _picked(value, image, images) if listed and images > 1 else value
    tree, tensors = flatten(picked)
    if picked is not value:
        return Cut(tree, tuple(tensor.clone() for tensor in tensors), (True,) * len(tensors), joins=False)
    own = tuple(_has_axis(tensor, images) for tensor in tensors)
    parts = (t[image : image + 1].clone() if mine else t for t, mine in zip(tensors, own, strict=True))
    return Cut(tree, tuple(parts), own)


def _picked(value: object, image: int, images: int) -> object:
    """The value itself, unless it holds lists with one entry an image."""
    if type(value) is dict:
        made = {key: _picked(child, image, images) for key, child in value.items()}
        return made if any(made[key] is not child for key, child in value.items()) else value
    if type(value) is list and len(value) == images and not _is_batched(value, images):
        return [value[image]]
    return value


def _is_batched(values: list[object], images: int) -> bool:
    """Whether the tensors in a list have an axis of images; one of three axes is taken for an image itself."""
    return all(_has_axis(tensor, images) and tensor.dim() != 3 for tensor in flatten(values)[1])


def _has_axis(tensor: torch.Tensor, images: int) -> bool:
    return tensor.dim() > 0 and tensor.shape[0] == images


def joined(cuts: Sequence[Cut]) -> Cut | None:
    """Values of several images as one batch; None where they do not fit together."""
    first = cuts[0]
    alike = all(
        one.joins and one.tree == first.tree and [t.shape for t in one.tensors] == [t.shape for t in first.tensors]
        for one in cuts
    )
    if not alike:
        return first if len(cuts) == 1 else None
    columns = zip(*(one.tensors for one in cuts), strict=True)
    tensors = [torch.cat(c) if own else c[0] for c, own in zip(columns, first.by_image, strict=True)]
    return Cut(first.tree, tuple(tensors), first.by_image)


def priority(seed: int, number: int) -> float:
    """Which images are chosen: those of least priority, whatever order and worker they come in."""
    return random.Random(f"{seed}:{number}").random()


class Samples:
    """The images of least priority, equally many of each fold, within a bound on images and bytes."""

    def __init__(self, folds: int, seed: int) -> None:
        self._folds = folds
        self._seed = seed
        self._limit = IMAGES // folds
        self._kept: dict[int, Sample] = {}

    def wants(self, number: int, fold: int) -> bool:
        """Whether an image would be kept."""
        rivals = [self._priority(other) for other in self._kept.values() if other.fold == fold]
        return len(rivals) < self._limit or priority(self._seed, number) < max(rivals)

    def add(self, sample: Sample) -> None:
        """Keep an image, and let others go where there are too many."""
        self._kept[sample.number] = sample
        largest = max(other.bytes for other in self._kept.values())
        self._limit = min(self._limit, max(1, BYTES // max(largest, 1) // self._folds))
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

    def take(self, fold: int) -> list[Sample]:
        """The images of a fold, which are kept here no longer."""
        taken = self.of(fold)
        for sample in taken:
            del self._kept[sample.number]
        return taken

    @property
    def numbers(self) -> dict[int, int]:
        """The fold of each image that is kept."""
        return {number: sample.fold for number, sample in sorted(self._kept.items())}

    def chosen(self, everyone: Mapping[int, int]) -> list[int]:
        """Which of the images that all workers keep stay, by number and fold."""
        ranked = sorted(everyone, key=lambda number: priority(self._seed, number))
        folds = {fold: [number for number in ranked if everyone[number] == fold] for fold in range(self._folds)}
        return [number for numbers in folds.values() for number in numbers[: self._limit]]

    @property
    def bytes(self) -> int:
        """Memory of all of them."""
        return sum(sample.bytes for sample in self._kept.values())

    def _priority(self, sample: Sample) -> float:
        return priority(self._seed, sample.number)
