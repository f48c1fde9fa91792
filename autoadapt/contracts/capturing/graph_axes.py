"""Graph axes: the names of input axes, and how nodes and edges of a graph get theirs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from autoadapt.contracts.capturing.graph_sizes import lists_edges
from autoadapt.contracts.capturing.probing import Shape

ENDS = "ends"
"""The first axis of `edge_index`, of size 2; it is never varied, though much code would run with 3."""
ONE = "one"
"""An axis of size 1 of a mask, for all queries or heads; it is never varied."""


@dataclass(frozen=True)
class InputAxes:
    """The axes of all input tensors, by name; axes of one name have one size."""

    names: tuple[tuple[str, ...], ...]
    example: dict[str, int]

    def shapes(self, sizes: Mapping[str, int]) -> list[Shape]:
        """The shapes of the input tensors at given sizes; axes left out keep their example size."""
        full = self.example | dict(sizes)
        return [tuple(full[name] for name in names) for names in self.names]


def graph_axes(tensors: Sequence[torch.Tensor], graph: Mapping[str, int]) -> InputAxes:
    """Axes of the inputs of a graph network: first axes of that size are named `N`, else `E`.

    Args:
        tensors: The inputs.
        graph: How many nodes and edges there are, from `graph_sizes`.
    """
    example, names = dict(graph), list[tuple[str, ...]]()
    for tensor in tensors:
        first = (
            ENDS if lists_edges(tensor) else next((n for n, size in graph.items() if tensor.shape[:1] == (size,)), "")
        )
        row = [first or _fresh("B", tensor.shape[0], example)] if tensor.dim() else []
        for size in tensor.shape[1:]:
            row.append("E" if first == ENDS else _fresh("C", size, example, row))
            example[row[-1]] = size
        example |= dict(zip(row[:1], tensor.shape[:1], strict=True))
        names.append(tuple(row))
    return InputAxes(tuple(names), example)


def settle_edges(axes: InputAxes, run_shapes: Callable[[Sequence[Shape]], bool]) -> InputAxes:
    """Where there are as many edges as nodes, name those first axes `E` that must vary with the edges.

    Args:
        axes: Axes as `graph_axes` named them.
        run_shapes: Whether the module runs at these shapes of its inputs.
    """
    edges = axes.example.get("E")
    more = {"E": (edges or 0) + 1}
    if edges is None or axes.example.get("N") != edges or run_shapes(axes.shapes(more)):
        return axes
    rows = [i for i, names in enumerate(axes.names) if names[:1] == ("N",)][1:]
    for group in (*([row] for row in rows), rows):
        names = tuple(("E", *row[1:]) if i in group else row for i, row in enumerate(axes.names))
        settled = InputAxes(names, axes.example)
        if run_shapes(settled.shapes(more)):
            return settled
    return axes


def _fresh(letter: str, size: int, example: Mapping[str, int], taken: Sequence[str] = ()) -> str:
    """The first name with this letter that has this size, or is free."""
    names = (letter, *(f"{letter}{i}" for i in range(2, 99)))
    return next(name for name in names if example.get(name, size) == size and name not in taken)


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
