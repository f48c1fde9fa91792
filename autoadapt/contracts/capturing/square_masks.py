"""Square masks: whether a square mask is `[B, N]` or `[N, N]`, where there are as many samples as tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from autoadapt.contracts.capturing.graph_axes import InputAxes
from autoadapt.contracts.capturing.probing import Shape


def settle_pairs(axes: InputAxes, run_shapes: Callable[[Sequence[Shape]], bool]) -> InputAxes:
    """Take a square mask for `[B, N]`, where there are as many samples as tokens and the module runs with one.

    Args:
        axes: Axes as `name_axes` named them, `[N, N]` for square masks.
        run_shapes: Whether the module runs at these shapes of its inputs.
    """
    example, pairs = axes.example, {("N", "N"), ("N2", "N2")}
    if example.get("B") is None or not pairs & {*axes.names}:
        return axes
    rows = [("B", row[1]) if row in pairs and example[row[1]] == example["B"] else row for row in axes.names]
    other = replace(axes, names=tuple(rows))
    return other if run_shapes(other.shapes({"B": example["B"] + 1})) else axes
