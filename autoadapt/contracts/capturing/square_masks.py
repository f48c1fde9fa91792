"""Square masks: `[N, N]` by their size, where there are as many samples as tokens."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from autoadapt.contracts.capturing.graph_axes import InputAxes
from autoadapt.contracts.capturing.probing import Shape

__all__ = ["settle_pairs"]


def settle_pairs(axes: InputAxes, run_shapes: Callable[[Sequence[Shape]], bool]) -> InputAxes:
    """As many samples as tokens: a mask `[N, N]` of all pairs is one of samples, unless the module refuses that.

    Many take no notice of a mask that hides nothing, and so run with either.

    Args:
        axes: Axes as `name_axes` named them.
        run_shapes: Whether the module runs at such shapes of its inputs.
    """
    example, pairs = axes.example, {("N", "N"), ("N2", "N2")}
    if example.get("B") is None or not pairs & {*axes.names}:
        return axes
    rows = [("B", row[1]) if row in pairs and example[row[1]] == example["B"] else row for row in axes.names]
    other = replace(axes, names=tuple(rows))
    return other if run_shapes(other.shapes({"B": example["B"] + 1})) else axes
