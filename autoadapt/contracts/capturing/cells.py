"""Cells: the centres of each tensor's cells as a spec states them, where the runs agree on them."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence

from autoadapt.contracts.capturing.cell_axes import Grid
from autoadapt.contracts.capturing.inner_leaves import InnerKey
from autoadapt.contracts.capturing.probing import Observation
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import Centres, Merged, listed_along

Run = tuple[Mapping[str, int], Observation]
"""Sizes of the input axes, and what was observed at them."""


def output_centres(
    outputs: Sequence[Sequence[Dim]], merged: Sequence[Merged | None], runs: Sequence[Run]
) -> list[tuple[Centres, ...]]:
    """For each output the centres on which the runs agree.

    Args:
        outputs: The dims of each output.
        merged: The merged axis of each output that has one.
        runs: Runs in which cells were followed; may be empty.
    """
    return [
        _agreed([_centres(dims, run.grids[number], sizes, merged[number]) for sizes, run in runs])
        for number, dims in enumerate(outputs)
    ]


def inner_centres(inner: Mapping[InnerKey, Sequence[Dim]], runs: Sequence[Run]) -> dict[InnerKey, tuple[Centres, ...]]:
    """The same for inner outputs, most of which share the objects of their dims and cells with another."""
    known: dict[tuple[int, ...], tuple[Centres, ...]] = {}

    def of(dims: Sequence[Dim], grid: Grid, sizes: Mapping[str, int]) -> tuple[Centres, ...]:
        objects = tuple(map(id, (sizes, grid, *dims)))
        if objects not in known:
            known[objects] = _centres(dims, grid, sizes)
        return known[objects]

    return {
        key: _agreed([of(dims, run.inner[key].grid, sizes) for sizes, run in runs if key in run.inner])
        for key, dims in inner.items()
    }


def class_tokens(dims: Mapping[InnerKey | int, Sequence[Dim]], runs: Sequence[Run]) -> set[InnerKey | int]:
    """The vectors that are computed from class tokens alone in all runs; outputs by their number."""

    def is_class_token(key: InnerKey | int, run: Observation) -> bool:
        if isinstance(key, int):
            return run.class_tokens[key]
        return key in run.inner and run.inner[key].class_token

    vectors = [key for key, of_one in dims.items() if not any(dim.axes - {"B"} for dim in of_one[1:])]
    return {key for key in vectors if runs and all(is_class_token(key, run) for _, run in runs)}


def _centres(
    dims: Sequence[Dim], grid: Grid, sizes: Mapping[str, int], merged: Merged | None = None
) -> tuple[Centres, ...]:
    """The centres along each input axis on which one axis of a tensor depends alone, or one side of its token axis."""
    found = {}
    for factor in (factor for axis in range(len(dims)) for factor in listed_along(dims, axis, merged)[1]):
        name = next(iter(factor.axes)) if len(factor.axes) == 1 else ""
        count = int(factor.evaluate(sizes)) if name in grid else 0
        if count > 0 and (count == grid[name].count or grid[name].is_regrouped(count)):
            cells = grid[name].grouped(count)
            found[name] = Centres(axis=name, first=float(cells.first), step=float(cells.step))
    return tuple(found[name] for name in sorted(found))


def _agreed(told: Sequence[tuple[Centres, ...]]) -> tuple[Centres, ...]:
    """The centres that are the same in all runs which tell them, at least half of all.

    They differ where padding depends on the size. A run tells none where a map had as many rows and columns as
    channels, so that its axes could not be told apart.
    """
    if not told or all(one == told[0] for one in told[1:]):
        return told[0] if told else ()
    by_axis: dict[str, list[Centres]] = {}
    for one in itertools.chain.from_iterable(told):
        by_axis.setdefault(one.axis, []).append(one)
    alike = [ones for _, ones in sorted(by_axis.items()) if all(one == ones[0] for one in ones)]
    return tuple(ones[0] for ones in alike if 2 * len(ones) >= len(told))
