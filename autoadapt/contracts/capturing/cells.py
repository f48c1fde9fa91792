"""Cells: the centres of each tensor's cells as a spec states them, where the runs agree on them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from autoadapt.contracts.capturing.cell_axes import Grid
from autoadapt.contracts.capturing.class_tokens import ALONE, Joined
from autoadapt.contracts.capturing.inner_leaves import InnerKey
from autoadapt.contracts.capturing.probing import Observation
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import Centres, Merged, is_sequence, listed_along

Run = tuple[Mapping[str, int], Observation]
"""Sizes of the input axes, and what was observed at them."""


def centres_of(
    outputs: Sequence[Sequence[Dim]],
    inner: Mapping[InnerKey, Sequence[Dim]],
    merged: Sequence[Merged | None],
    leading: Mapping[InnerKey | int, int],
    runs: Sequence[Run],
) -> dict[InnerKey | int, tuple[Centres, ...]]:
    """For each output, by number, and each inner output the centres on which the runs agree.

    Args:
        outputs: The dims of each output.
        inner: The dims of each inner output.
        merged: The merged axis of each output that has one.
        leading: As from `leading_tokens`.
        runs: Runs in which cells were followed; may be empty.
    """
    outer = [
        _agreed(
            [_centres(dims, run.grids[number], sizes, merged[number], leading.get(number, 0)) for sizes, run in runs]
        )
        for number, dims in enumerate(outputs)
    ]
    return dict[InnerKey | int, tuple[Centres, ...]]([*enumerate(outer), *_inner_centres(inner, leading, runs).items()])


def _inner_centres(
    inner: Mapping[InnerKey, Sequence[Dim]], leading: Mapping[InnerKey | int, int], runs: Sequence[Run]
) -> dict[InnerKey, tuple[Centres, ...]]:
    """Those of inner outputs, most of which share the objects of their dims and cells with another."""
    known: dict[tuple[int, ...], tuple[Centres, ...]] = {}

    def of(dims: Sequence[Dim], grid: Grid, sizes: Mapping[str, int], extra: int) -> tuple[Centres, ...]:
        objects = (extra, *map(id, (sizes, grid, *dims)))
        if objects not in known:
            known[objects] = _centres(dims, grid, sizes, leading=extra)
        return known[objects]

    return {
        key: _agreed(
            [of(dims, run.inner[key].grid, sizes, leading.get(key, 0)) for sizes, run in runs if key in run.inner]
        )
        for key, dims in inner.items()
    }


def class_tokens(dims: Mapping[InnerKey | int, Sequence[Dim]], runs: Sequence[Run]) -> set[InnerKey | int]:
    """The vectors that are computed from class tokens alone in all runs; outputs by their number."""

    vectors = [key for key, of_one in dims.items() if not any(dim.axes - {"B"} for dim in of_one[1:])]
    return {key for key in vectors if runs and all(_joined(run, key) is ALONE for _, run in runs)}


def leading_tokens(dims: Mapping[InnerKey | int, Sequence[Dim]], runs: Sequence[Run]) -> dict[InnerKey | int, int]:
    """How many learned tokens stand before the cells of each sequence in all runs; those with none are left out."""
    lengths = {key: [dim for dim in of_one if is_sequence(dim)] for key, of_one in dims.items() if len(of_one) == 3}
    found = {
        key: {_leading(_joined(run, key), dims[key], told[0], sizes) for sizes, run in runs}
        for key, told in lengths.items()
        if len(told) == 1
    }
    return {key: count for key, counts in found.items() if len(counts) == 1 and (count := counts.pop())}


def _leading(joined: Joined | None, dims: Sequence[Dim], length: Dim, sizes: Mapping[str, int]) -> int:
    shape, size = [dim.evaluate(sizes) for dim in dims], length.evaluate(sizes)
    is_told = joined is not None and joined.learned and joined.size == size and shape.count(size) == 1
    return joined.front if joined is not None and is_told else 0


def _joined(run: Observation, key: InnerKey | int) -> Joined | None:
    if isinstance(key, int):
        return run.joined[key] if run.joined else None
    return run.inner[key].joined if key in run.inner else None


def _centres(
    dims: Sequence[Dim], grid: Grid, sizes: Mapping[str, int], merged: Merged | None = None, leading: int = 0
) -> tuple[Centres, ...]:
    """The centres along each input axis on which one axis of a tensor depends alone, or one side of its token axis."""
    found = {}
    for factor in (factor for axis in range(len(dims)) for factor in listed_along(dims, axis, merged, leading)[1]):
        name = next(iter(factor.axes)) if len(factor.axes) == 1 else ""
        count = int(factor.evaluate(sizes)) if name in grid and grid[name].in_order else 0
        if count > 0 and (count == grid[name].count or grid[name].is_regrouped(count)):
            cells = grid[name].grouped(count)
            found[name] = Centres(axis=name, first=float(cells.first), step=float(cells.step), reversed=cells.reversed)
    return tuple(found[name] for name in sorted(found))


def _agreed(told: Sequence[tuple[Centres, ...]]) -> tuple[Centres, ...]:
    """The centres that are the same in all runs which tell them, at least half of all.

    They differ where padding depends on the size. Where strides begin at the last cell, as behind `flip`, the size
    decides which cells are passed over, and the middle of these places is told, at most half a step from each. A run
    tells none where a map had as many rows and columns as channels, so that its axes could not be told apart.
    """
    if not told or all(one == told[0] for one in told[1:]):
        return told[0] if told else ()
    by_axis: dict[str, list[Centres]] = {}
    for one in itertools.chain.from_iterable(told):
        by_axis.setdefault(one.axis, []).append(one)
    enough = [ones for _, ones in sorted(by_axis.items()) if 2 * len(ones) >= len(told)]
    return tuple(one for one in map(_as_one, enough) if one is not None)


def _as_one(told: Sequence[Centres]) -> Centres | None:
    """What the runs tell of one axis; None where they differ."""
    least, most = (choose(one.first for one in told) for choose in (min, max))
    is_turned = all(one.reversed for one in told) and most - least < told[0].step
    alike = all((one.step, one.reversed) == (told[0].step, told[0].reversed) for one in told)
    return told[0].model_copy(update={"first": (least + most) / 2}) if alike and (is_turned or least == most) else None
