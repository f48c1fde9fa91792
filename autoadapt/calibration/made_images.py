"""Made images: images beside those of the caller, mixed of them or out of nothing, to fit on where there are few."""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

import numpy as np
import torch

from autoadapt.calibration import workers
from autoadapt.calibration.image_folds import Folds
from autoadapt.calibration.made_inputs import Inputs, kind_of
from autoadapt.calibration.paired_runs import explained
from autoadapt.calibration.samples import Cut, Sample, Samples, joined
from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.trees import flatten
from autoadapt.versions import install_line, package_version

Augment: TypeAlias = Literal["auto", 0] | Callable[[Any], Any]
"""Which images are made: mixes and synthetic pictures where they help, none, or what a function makes of a batch."""

ENOUGH = 1024
"""Different images, with mixes of them, from which on more gain little."""
FEW = 256
"""Different images from which on synthetic pictures gain nothing."""
MADE = ENOUGH - FEW
"""Mixes, at most: with few images, synthetic pictures among them, there are as many as are enough."""
BATCH = 16
"""Made images that run at once, or fewer where the caller's come in smaller batches."""
PARENTS = 4


@dataclass(frozen=True)
class Batch:
    """Made images that are of one fold, or of none."""

    number: int
    """Among all that are made."""
    part: int
    """The fold of their parents; one more than the last where they have none."""
    first: int
    """Number of its first image in its part."""
    count: int


class Making:
    """What is made of the images that were kept.

    Attributes:
        remark: Why nothing is made where something was asked for; empty else.
    """

    def __init__(
        self, augment: Augment, samples: Samples, folds: Folds, images: int, seed: int, together: int = BATCH
    ) -> None:
        self._augment = augment
        self._folds = folds
        self._seed = seed
        # Every fold that mixes are made of is a set of moments, and with two of them only the larger counts.
        self._parents = {fold: samples.of(fold) for fold in ((1,) if folds.holds_one_out else folds.numbers)}
        self._images = images
        self._together = min(together, BATCH)
        self._inputs, self.remark = self._read(samples.all)

    def _read(self, samples: Sequence[Sample]) -> tuple[Inputs | None, str]:
        """How the inputs are read, or why they cannot be."""
        if self._augment != "auto" or self._wanted() == 0 or not samples:
            return None, ""
        kinds = {kind_of(sample.arguments) for sample in samples}
        kind = next(iter(kinds))
        if len(kinds) > 1 or kind is None:
            return None, ""
        if kind.role == "picture" and not package_version("torchvision"):
            return None, f"no images were made, since torchvision is not installed: {install_line('demo')}"
        return Inputs(kind, [sample.arguments for sample in samples]), ""

    def _wanted(self) -> int:
        """How many mixes, over all workers."""
        return min(MADE, FEW if callable(self._augment) else max(ENOUGH - self._images, 0))

    @property
    def digest(self) -> str:
        """Of what is made of what: where it is the same, so are the images."""
        numbers = {fold: [sample.number for sample in kept] for fold, kept in self._parents.items()}
        facts = json.dumps([numbers, self._images, self._seed, MADE, callable(self._augment), self._together])
        return hashlib.sha256(facts.encode()).hexdigest()[:12]

    @property
    def batches(self) -> list[Batch]:
        """What this worker makes, in order."""
        if self._inputs is None and not callable(self._augment):
            return []
        share = -(-self._wanted() // workers.count())
        kept = [fold for fold, parents in self._parents.items() if parents]
        parts = [(fold, len(range(index, share, len(kept)))) for index, fold in enumerate(kept)]
        if kept and self._inputs is not None and self._inputs.can_be_synthetic:
            pictures = min(share, -(-max(FEW - self._images, 0) // workers.count()))
            parts.append((len(self._folds.numbers), pictures))
        step = self._together
        spans = [(part, first, min(step, count - first)) for part, count in parts for first in range(0, count, step)]
        return [Batch(number, *span) for number, span in enumerate(spans)]

    def calls(self, batch: Batch) -> Iterator[Arguments]:
        """The calls that run a batch; several where images are of different sizes."""
        if callable(self._augment):
            mine = self._parents[batch.part]
            chosen = [mine[(batch.first + index) % len(mine)] for index in range(batch.count)]
            alike = joined([sample.arguments for sample in chosen])
            self._set_seed(batch.part, batch.first)
            for given in [sample.arguments for sample in chosen] if alike is None else [alike]:
                yield _called(self._augment, given, chosen[0].positional)
            return
        cuts = [self._made(batch.part, batch.first + index) for index in range(batch.count)]
        positional = self._any_parents()[0].positional
        whole = joined(cuts)
        for cut in cuts if whole is None else [whole]:
            yield Arguments(cut.value, positional)

    def _made(self, part: int, number: int) -> Cut:
        """One image; a matter of its part, its number and its parents alone."""
        assert self._inputs is not None, "there are batches"
        self._set_seed(part, number)
        if part not in self._parents:
            every = self._any_parents()
            return self._inputs.synthetic(number, every[number % len(every)].arguments)
        mine = self._parents[part]
        others = random.sample(mine, min(PARENTS, len(mine)))
        return self._inputs.mixed(number, [mine[number % len(mine)].arguments, *(one.arguments for one in others)])

    def _any_parents(self) -> list[Sample]:
        return [sample for kept in self._parents.values() for sample in kept]

    def _set_seed(self, part: int, number: int) -> None:
        """Whatever draws next draws the same again; the caller's generators are put back at the end of calibration."""
        own = random.Random(f"{self._seed}:{part}:{number}:{workers.number()}").getrandbits(32)
        random.seed(own)
        np.random.seed(own)
        torch.manual_seed(own)


def _called(augment: Callable[[Any], Any], given: Cut, positional: int) -> Arguments:
    """What the caller's function makes of images, in tensors of its own that it may write into."""
    values = replace(given, tensors=tuple(tensor.clone() for tensor in given.tensors)).value
    with explained("augment", "a batch as the model takes it", "augment=lambda images: images.flip(-1)"):
        name = next(iter(values))
        made = dict(augment(values)) if len(values) > 1 else {name: augment(values[name])}
        if not all(tensor.numel() for tensor in flatten(made)[1]):
            raise ValueError("an empty batch")
        return Arguments(made, positional)
