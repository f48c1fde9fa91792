"""Image batches: those that are fitted on, and those held out, on which the head tells how well a candidate serves."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autoadapt.calibration.calls import fields
from autoadapt.calibration.judging import Head, copied_head, divergence
from autoadapt.calibration.paired_runs import explained
from autoadapt.calibration.samples import cut, joined
from autoadapt.contracts.capturing import Arguments, bind
from autoadapt.contracts.trees import flatten
from autoadapt.contracts.views import eval_copy
from autoadapt.ranking.fingerprints import of_tensors

EVERY = 4
"""One image of so many is held out."""


@dataclass(frozen=True)
class Batch:
    """Some images, as a call of the old backbone."""

    arguments: Arguments
    images: int

    def part(self, numbers: Sequence[int]) -> Batch | None:
        """Only some of the images; None where none is left, or where they cannot be put together."""
        cuts = [cut(self.arguments.values, number, self.images) for number in numbers]
        whole = joined(cuts) if cuts else None
        return None if whole is None else Batch(Arguments(whole.value, self.arguments.positional), len(numbers))


def first_of(batches: Sequence[Batch], images: int) -> list[Batch]:
    """The first so many images."""
    found, seen = list[Batch](), 0
    for batch in batches:
        part = batch if seen + batch.images <= images else batch.part(range(images - seen))
        found += [part] if part is not None and seen < images else []
        seen += batch.images
    return found


def gathered(data: Iterable[object], old: nn.Module, images: int) -> list[Batch]:
    """The first images of a caller's batches, kept, so that every candidate sees the same ones.

    Raises:
        CalibrationError: A batch does not fit the old backbone's `forward`.
    """
    kept: list[Batch] = []
    seen = 0
    for number, value in enumerate(data):
        with explained(f"batch {number}", "a call of the old backbone", "data=(images for images, labels in loader)"):
            arguments = bind(old, fields(value, old))
            whole = Batch(arguments, _count(arguments))
        part = whole if seen + whole.images <= images else whole.part(range(images - seen))
        kept += [] if part is None else [part]
        seen += whole.images
        if seen >= images:
            break
    return kept


def _count(arguments: Arguments) -> int:
    """Images in a call: the length of its first tensor, or of its first list."""
    first = next(iter(arguments.values.values()), None)
    if isinstance(first, list):
        return len(first)
    tensors = flatten(arguments.values)[1]
    return int(tensors[0].shape[0]) if tensors and tensors[0].dim() else 1


def split(batches: Sequence[Batch]) -> tuple[list[Batch], list[Batch]]:
    """Those to fit on, and every fourth image, which is held out."""
    fitted: list[Batch | None] = []
    held: list[Batch | None] = []
    first = 0
    for batch in batches:
        numbers = range(batch.images)
        fitted.append(batch.part([i for i in numbers if (first + i) % EVERY != EVERY - 1]))
        held.append(batch.part([i for i in numbers if (first + i) % EVERY == EVERY - 1]))
        first += batch.images
    return [one for one in fitted if one is not None], [one for one in held if one is not None]


class HeldOutImages:
    """Images that nothing is fitted on, with what the head answered on the old backbone's features of them."""

    def __init__(self, batches: Sequence[Batch], old: nn.Module, head: Head) -> None:
        self._batches = batches
        self._head = copied_head(head)
        self._answers = [*self._answered(eval_copy(old), "old backbone")]
        self.images = sum(batch.images for batch in batches)
        flat = [tensor for answer in self._answers for tensor in flatten(answer)[1]]
        self.fingerprint = of_tensors(flat)

    def score(self, net: nn.Module) -> tuple[float, float]:
        """Divergence in nats, and agreement, of the head's answers on a candidate, mean over images.

        Raises:
            CalibrationError: The candidate or the head raises.
        """
        losses, agreements = [], []
        for batch, expected, found in zip(self._batches, self._answers, self._answered(net, "candidate"), strict=True):
            loss, agreement = divergence(found, expected, batch.images)
            losses.append(loss)
            agreements.append(agreement)
        return float(torch.cat(losses).mean()), float(torch.cat(agreements).mean())

    def _answered(self, backbone: nn.Module, name: str) -> Iterator[Any]:
        for batch in self._batches:
            with torch.no_grad(), explained(f"the head on the {name}", "an answer"):
                yield self._head(batch.arguments.call(backbone))
