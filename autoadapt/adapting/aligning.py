"""Aligning: pairing the levels of two modules in order, by depth and stride together."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

WHOLE = 5.0
"""The depth of a whole network, in octaves: its last stride is 32."""

DEPTH = 1.0
"""The cost of an octave of depth."""
STRIDE = 0.5
"""The cost of an octave of stride."""
SHARED = 0.6
"""The cost of one stage for two targets of different strides or depths."""
ROUNDING = 0.5
"""Octaves by which depths may differ at the very same stride: strides are rounded to this, and widths double or not."""


@dataclass(frozen=True)
class Level:
    """A feature map, as far as aligning needs it."""

    octaves: float
    """Binary logarithm of its stride, rounded to a half."""
    depth: float
    """How much of the network it depends on, in octaves: those of its stride, and more in a dilated network."""
    tokens: bool = False
    """Whether it lists all its cells along one axis."""

    @property
    def extra(self) -> float:
        """How much deeper it is than its stride alone says."""
        return self.depth - self.octaves


@dataclass(frozen=True)
class Stage:
    """Sources of one stride and depth; or all of one stride, where depth does not divide them into stages."""

    level: Level
    sources: tuple[str, ...]
    even: bool = False
    """Whether it has sources of all depths, as the blocks behind a patch embedding."""
    reach: float = 0.0
    """The depth of its deepest source before `levels_in_order` limits it, as in a decoder."""

    def beyond(self, depth: float) -> float:
        """The distance of a depth from the range of its sources' depths; 0 within it."""
        return 0.0 if self.even else max(self.level.depth - depth, depth - max(self.reach, self.level.depth), 0.0)


def levels_in_order(levels: Mapping[str, Level]) -> dict[str, Level]:
    """Levels of one module, finest first and shallow before deep, with depths that are limited to fit that order.

    No level is deeper than a whole network, or has more extra depth than a coarser one: fine levels that depend on deep
    ones, as in top-down paths, decoders and parallel branches, are ordered by their strides.
    """
    found: dict[str, Level] = {}
    for path, level in sorted(levels.items(), key=lambda item: -item[1].octaves):
        coarser = [max(one.extra, 0) for one in found.values() if one.octaves > level.octaves]
        most = min([max(WHOLE - level.octaves, 0), *coarser])
        found[path] = replace(level, depth=min(level.depth, level.octaves + most))
    order = {path: i for i, path in enumerate(levels)}
    return dict(sorted(found.items(), key=lambda item: (item[1].octaves, item[1].depth, order[item[0]])))


def stages(levels: Mapping[str, Level]) -> list[Stage]:
    """Sources in stages, from shallow to deep; depths are rounded down to whole octaves beyond the stride."""
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
    """Strides with blocks of several depths and no stages: of tokens, or with a map that is less deep than its stride.

    In all other networks maps are as deep as their stride says, or deeper.
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
    """The stage for each target at the least total cost, where deeper targets never get shallower stages.

    A pair costs 1 for each octave of depth between both, and 0.5 for each octave of stride: a stride can be resampled,
    but no layer replaces missing depth. A stage with outputs of a decoder covers the depths from its stride's to the
    decoder's, so that it serves levels of a pyramid and of another decoder. A target as deep as a whole network
    although its stride is finer gets the deepest stage there is. One stage for two targets that differ costs 0.6. At
    the very same stride, half an octave of depth costs nothing. Of equal costs the shallower stage is taken.

    Args:
        targets: In the order of `levels_in_order`.
        offered: In the order of `stages`.
        distances: For each target and each stage the octaves of stride between them; infinite where the stage cannot
            serve the target.
        deepest: The depth of the deepest stage.

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
    whole = target.depth >= WHOLE and target.extra > 0
    beyond = stage.beyond(max(target.depth, deepest) if whole else target.depth)
    return STRIDE * distance + DEPTH * (beyond if distance or beyond > ROUNDING else 0)


def _shared(targets: Sequence[Level], i: int, stage: Stage, again: bool) -> float:
    if not again or stage.even or i == 0 or targets[i] == targets[i - 1]:
        return 0.0
    return SHARED
