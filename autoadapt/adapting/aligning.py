"""Aligning: levels of two modules paired in order, by depth and stride together."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

__all__ = ["WHOLE", "Level", "Stage", "align", "levels_in_order", "stages"]

WHOLE = 5.0
"""The depth of a whole network, in octaves: its last stride is 32."""

DEPTH = 1.0
STRIDE = 0.5
SHARED = 0.6


@dataclass(frozen=True)
class Level:
    """A feature map, as far as aligning needs it."""

    octaves: float
    """Binary logarithm of its stride, to a half."""
    depth: float
    """What lies behind it: as many octaves as its stride has, and more in a dilated network."""
    tokens: bool = False
    """Whether it lists all its cells along one axis."""

    @property
    def extra(self) -> float:
        """How much deeper it is than its stride tells."""
        return self.depth - self.octaves


@dataclass(frozen=True)
class Stage:
    """Sources of one stride and depth; or all that stand behind a patch embedding, which have no stages."""

    level: Level
    sources: tuple[str, ...]
    even: bool = False
    """Whether any depth can be had from it, since its blocks are shared out."""
    reach: float = 0.0
    """How deep its deepest source is by itself: in a decoder deeper than its place in the order of strides tells."""

    def beyond(self, depth: float) -> float:
        """How much deeper or shallower than all its sources a depth is; 0 within them."""
        return 0.0 if self.even else max(self.level.depth - depth, depth - max(self.reach, self.level.depth), 0.0)


def levels_in_order(levels: Mapping[str, Level]) -> dict[str, Level]:
    """Levels of one module with depths that fit together, finest first and shallow before deep.

    No level is deeper than a whole network, nor dilated more than a coarser one is: where fine levels hang on deep
    ones, as in top-down paths, decoders and parallel branches, they come in the order of their strides.
    """
    found: dict[str, Level] = {}
    for path, level in sorted(levels.items(), key=lambda item: -item[1].octaves):
        coarser = [max(one.extra, 0) for one in found.values() if one.octaves > level.octaves]
        most = min([max(WHOLE - level.octaves, 0), *coarser])
        found[path] = replace(level, depth=min(level.depth, level.octaves + most))
    order = {path: i for i, path in enumerate(levels)}
    return dict(sorted(found.items(), key=lambda item: (item[1].octaves, item[1].depth, order[item[0]])))


def stages(levels: Mapping[str, Level]) -> list[Stage]:
    """Sources in groups, from shallow to deep; equal parts of octaves count as one."""
    ordered = levels_in_order(levels)
    even = _even(ordered.values())
    groups: dict[tuple[float, float], list[str]] = {}
    for path, level in ordered.items():
        extra = 0 if level.octaves in even else max(math.floor(level.extra), 0)
        groups.setdefault((level.octaves + extra, level.octaves), []).append(path)
    order = {path: i for i, path in enumerate(levels)}
    return [
        Stage(
            Level(octaves, depth),
            tuple(sorted(paths, key=order.__getitem__)),
            octaves in even,
            max(levels[path].depth for path in paths),
        )
        for (depth, octaves), paths in sorted(groups.items())
    ]


def _even(levels: Collection[Level]) -> set[float]:
    """Strides at which blocks of all depths stand: tokens, or maps of which one is less deep than its stride tells.

    Convolutions in front of them have one depth, and dilated ones are as deep as their stride tells, or deeper.
    """
    listed = {level.octaves for level in levels if level.tokens}
    depths: dict[float, set[float]] = {}
    for level in levels:
        depths.setdefault(level.octaves, set()).add(level.depth)
    several = {octaves: min(found) for octaves, found in depths.items() if len(found) > 1}
    return {octaves for octaves, least in several.items() if least < octaves or octaves in listed}


def align(
    targets: Sequence[Level],
    offered: Sequence[Stage],
    distances: Sequence[Sequence[float]],
    *,
    deepest: float = WHOLE,
) -> list[int]:
    """For each target the stage that serves it, so that deeper targets never get shallower stages, at least cost.

    A pair costs 1 for each octave of depth between both, and 0.5 for each octave of stride: what a stage has not seen,
    no layer brings back, while a stride is resampled. A stage that holds what a decoder returns is as shallow as its
    stride and as deep as the decoder: it serves levels of a pyramid, and those of another decoder. A target that is
    as deep as a whole network although its stride is not asks for the deepest stage there is. Two targets of one stride
    that differ in depth cost 0.6 if one stage serves both. Equal costs go to the shallower stage.

    Args:
        targets: In the order of `levels_in_order`.
        offered: In the order of `stages`.
        distances: For each target and each stage the octaves of stride between them; infinite where the stage can
            not serve the target.
        deepest: Depth of the stage behind which nothing is learned any more.

    Example:
        >>> pyramid = [Stage(Level(octaves, octaves), (str(octaves),)) for octaves in (2, 3, 4, 5)]
        >>> dilated, cut = Level(3, 5), Level(3, 3)
        >>> align([dilated], pyramid, [[1, 0, 1, 2]]), align([cut], pyramid, [[1, 0, 1, 2]])
        ([3], [1])
    """
    best: list[tuple[float, list[int]]] = [(0.0, [])] * len(offered)
    for i, target in enumerate(targets):
        made = []
        for j, stage in enumerate(offered):
            options = [
                (cost + _shared(targets, i, stage, j in before[-1:]), before)
                for cost, before in best
                if not before or before[-1] <= j
            ]
            cost, before = min(options, default=(math.inf, []))
            made.append((round(cost + _cost(target, stage, distances[i][j], deepest), 3), [*before, j]))
        best = made
    return min(best)[1]


def _cost(target: Level, stage: Stage, distance: float, deepest: float) -> float:
    if math.isinf(distance):
        return math.inf
    whole = target.depth >= WHOLE and target.extra > 0
    wanted = max(target.depth, deepest) if whole else target.depth
    return STRIDE * distance + DEPTH * stage.beyond(wanted)


def _shared(targets: Sequence[Level], i: int, stage: Stage, again: bool) -> float:
    if not again or stage.even or i == 0 or targets[i].octaves != targets[i - 1].octaves:
        return 0.0
    return SHARED if targets[i].depth != targets[i - 1].depth else 0.0
