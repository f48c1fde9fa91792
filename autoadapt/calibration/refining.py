"""Refining: steps on the loss of the head, from the closed form, as many as are best for images held out."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from autoadapt.calibration.held_out_maps import Fitting, HeldOutMaps
from autoadapt.calibration.honesty import honest_after
from autoadapt.calibration.judging import TOGETHER, Judge, Score
from autoadapt.calibration.solvers import AffineMap, deviations

Refine: TypeAlias = Literal["auto"] | int
"""At most so many steps; `auto` decides whether to take any."""

LIMITS = (64, 512)
"""Of `auto`: it takes the second where after the first the loss still falls."""
RATE = 5e-3
WIDTH = 64
"""Channels for which the rate holds; the more there are, the less each has to move."""
RATE_OF_SCALES = 0.02

# ruff: noqa: N815 - shapes stand in the names of tensors
# Dimension letters: C channels of the new features, D channels of the old ones.


@dataclass(frozen=True)
class Refined:
    """How many steps on the head are best, and its loss before and after on the same held-out images."""

    tried: _Tried
    images: int
    before: Score

    @property
    def held_out_maps(self) -> HeldOutMaps:
        """Where the steps end on all folds but one, by the fold that is held out."""
        return self.tried.maps

    @property
    def text(self) -> str:
        """What was done, in words."""
        return f"{self.tried.steps} steps on the head" + (
            ", scales of channels alone" if self.tried.only_scales else ""
        )

    def honest(self, chosen: Score | None, honest: Score | None) -> tuple[Score, Score]:
        """The score before and after, less what the choice of the maps had flattered itself with."""
        return honest_after(self.before, chosen, honest), honest_after(self.tried.score, chosen, honest)


def steps_of(refine: Refine) -> int:
    """The most steps that are taken."""
    return LIMITS[-1] if refine == "auto" else refine


def refined(judge: Judge, fitting: Fitting, start: HeldOutMaps, refine: Refine, seed: int) -> Refined | None:
    """How many steps on the head are best for held-out images; None if they gain no more than a standard error.

    For each fold that is held out steps go over the images of the others: steps of whole maps, and steps of nothing but
    the scale of each old channel around its mean, for which few images tell enough. On digits, 32 of which leave the
    closed form at a KL of 0.07 to 0.15 on others, scales bring it to 0.06 to 0.11; offsets are worse where a class is
    missing among the few.

    Args:
        judge: Tries maps, and says which way is down.
        fitting: What the closed form came from.
        start: The maps to start from, by the fold that is held out.
        refine: At most how many steps.
        seed: For the order of images.
    """
    before = judge.score(start, on_all=True)
    best: _Tried | None = None
    limits = LIMITS if refine == "auto" else (refine,)
    for only_scales, path in ((True, limits[:1]), (False, limits)):
        for limit in path:
            tried = _tried(judge, fitting, start, limit, seed, only_scales=only_scales, gives_up=refine == "auto")
            if tried is not None and (best is None or tried.score.loss < best.score.loss):
                best = tried
            if tried is None or tried.steps < limit:
                break
    if best is None or not best.score.loss < before.loss or before.is_as_good_as(best.score):
        return None
    return Refined(best, len(judge.numbers(fitting.folds.numbers)), before)


def stepped(judge: Judge, fitting: Fitting, maps: Sequence[AffineMap], found: Refined, seed: int) -> list[AffineMap]:
    """The maps of all images after as many steps over all of them as were found best."""
    descent, tried = _Descent(judge, fitting, fitting.folds.numbers, seed), found.tried
    path = descent.steps(maps, _counts(tried.limit), only_scales=tried.only_scales)
    return next(reached for count, reached in path if count == tried.steps)


@dataclass(frozen=True)
class _Tried:
    """How good steps are on the images that they have not seen: as many as are best, of those that a limit allows."""

    limit: int
    """For which the rate was to fall to zero."""
    steps: int
    maps: HeldOutMaps
    score: Score
    only_scales: bool


def _tried(
    judge: Judge, fitting: Fitting, start: HeldOutMaps, limit: int, seed: int, *, only_scales: bool, gives_up: bool
) -> _Tried | None:
    """Steps for each fold that is held out; None where one gives up after the first fold, since nothing is gained."""
    counts = _counts(limit)
    paths: dict[int, dict[int, list[AffineMap]]] = {}
    for fold, maps in start.items():
        descent = _Descent(judge, fitting, fitting.folds.others(fold), seed)
        paths[fold] = dict(descent.steps(maps, counts, only_scales=only_scales))
        if gives_up and len(paths) == 1:
            before = judge.score({fold: maps}, on_all=True).loss
            if not any(judge.score({fold: one}, on_all=True).loss < before for one in paths[fold].values()):
                return None
    by_count = {count: {fold: path[count] for fold, path in paths.items()} for count in counts}
    scores = {count: judge.score(maps, on_all=True) for count, maps in by_count.items()}
    best = min(counts, key=lambda count: scores[count].loss)
    return _Tried(limit, best, by_count[best], scores[best], only_scales)


def _counts(limit: int) -> list[int]:
    """Numbers of steps that are compared."""
    return sorted({limit, *(2**power for power in range(limit.bit_length()))})


class _Descent:
    """Steps of Adam over minibatches, the rate falling to zero along a cosine.

    Maps are written in standardised channels around their means, so that a step means the same whatever the scales of
    the features are. Kingma and Ba, Adam (2015); Loshchilov and Hutter, SGDR (2017).
    """

    def __init__(self, judge: Judge, fitting: Fitting, folds: Sequence[int], seed: int) -> None:
        self._judge = judge
        self._numbers = judge.numbers(folds)
        self._seed = seed
        self._scales = [_Scales.of(fitting, projection, folds) for projection in fitting.projections]

    def steps(
        self, maps: Sequence[AffineMap], counts: Sequence[int], *, only_scales: bool
    ) -> Iterator[tuple[int, list[AffineMap]]]:
        """Maps after so many steps each."""
        starts = [scales.standardised(fitted) for scales, fitted in zip(self._scales, maps, strict=True)]
        moves = [_Move.of(one, only_scales=only_scales) for one in starts]
        rates = [move.rate for move in moves]
        groups = [{"params": list(move.learned), "lr": move.rate} for move in moves]
        optimiser, minibatches = torch.optim.Adam(groups), self._minibatches()
        for step in range(1, counts[-1] + 1):
            self._judge.says(f"refining, step {step} of {counts[-1]}")
            free = [move.moved(one) for move, one in zip(moves, starts, strict=True)]
            slopes = self._judge.gradients(self._plain(free), next(minibatches))
            optimiser.zero_grad()
            for move, scales, one, slope in zip(moves, self._scales, free, slopes, strict=True):
                move.learn(one, scales.slopes(slope))
            for group, rate in zip(optimiser.param_groups, rates, strict=True):
                group["lr"] = rate * (1 + math.cos(math.pi * (step - 1) / counts[-1])) / 2
            optimiser.step()
            if step in counts:
                yield step, self._plain([move.moved(one) for move, one in zip(moves, starts, strict=True)])

    def _plain(self, free: Sequence[AffineMap]) -> list[AffineMap]:
        """The maps in the features' own channels."""
        return [scales.plain(one) for scales, one in zip(self._scales, free, strict=True)]

    def _minibatches(self) -> Iterator[list[int]]:
        """Numbers of images in an order by chance, epoch after epoch; the same on every worker."""
        shuffle = random.Random(self._seed).sample
        parts = math.ceil(len(self._numbers) / TOGETHER)
        while True:
            order = shuffle(self._numbers, len(self._numbers))
            yield from (order[part::parts] for part in range(parts))


@dataclass(frozen=True)
class _Move:
    """What is learned of a standardised map: how far it is to move, or logarithms of what to scale its channels by."""

    learned: tuple[torch.Tensor, ...]
    """Of weight and offset, or the scale of each channel around its mean."""
    rate: float

    @classmethod
    def of(cls, start: AffineMap, *, only_scales: bool) -> _Move:
        rate = RATE_OF_SCALES if only_scales else RATE * min(1.0, (WIDTH / start.weight_CD.shape[0]) ** 0.5)
        like = (start.bias_D,) if only_scales else (start.weight_CD, start.bias_D)
        return cls(tuple(torch.zeros_like(one).requires_grad_() for one in like), rate)

    @torch.enable_grad()
    def moved(self, start: AffineMap) -> AffineMap:
        if len(self.learned) == 1:
            return AffineMap(start.weight_CD * self.learned[0].exp(), start.bias_D)
        weight_CD, bias_D = self.learned
        return AffineMap(start.weight_CD + weight_CD, start.bias_D + bias_D)

    def learn(self, moved: AffineMap, slopes: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Take the gradients by a moved map as those by what is learned."""
        tensors = (moved.weight_CD, moved.bias_D)[: len(self.learned)]
        torch.autograd.backward(tensors, slopes[: len(self.learned)])


@dataclass(frozen=True)
class _Scales:
    """Means of the new features, and standard deviations of both."""

    mean_x_C: torch.Tensor
    scale_CD: torch.Tensor
    """What a standardised weight is multiplied by."""
    scale_D: torch.Tensor

    @classmethod
    def of(cls, fitting: Fitting, projection: int, folds: Sequence[int]) -> _Scales:
        moments = fitting.moments(projection, folds, shared=True)
        x_C, y_D = deviations(moments.xx_CC.diagonal(), moments.count), deviations(moments.yy_D, moments.count)
        return cls(moments.mean_x_C, y_D / x_C[:, None], y_D)

    def standardised(self, fitted: AffineMap) -> AffineMap:
        """The map between standardised channels."""
        weight_CD = fitted.weight_CD.double()
        offset_D = fitted.bias_D + self.mean_x_C @ weight_CD
        return AffineMap(weight_CD / self.scale_CD, offset_D / self.scale_D)

    @torch.no_grad()
    def plain(self, fitted: AffineMap) -> AffineMap:
        """The map between channels as they are."""
        weight_CD = fitted.weight_CD * self.scale_CD
        return AffineMap(weight_CD, fitted.bias_D * self.scale_D - self.mean_x_C @ weight_CD)

    def slopes(self, slope: AffineMap) -> tuple[torch.Tensor, torch.Tensor]:
        """Gradients by the standardised map, from those by the plain one."""
        around_mean_CD = slope.weight_CD - torch.outer(self.mean_x_C, slope.bias_D)
        return around_mean_CD * self.scale_CD, slope.bias_D * self.scale_D
