"""Graph sizes: how many nodes and edges inputs list, and how many graphs of a batch these belong to."""

from __future__ import annotations

from collections.abc import Sequence

import torch


def graph_sizes(tensors: Sequence[torch.Tensor]) -> dict[str, int]:
    """How many nodes and edges a graph has; empty where no input `[2, E]` holds row indices of another input.

    Points of several clouds, as torch_geometric lists them, are nodes without edges: another input holds the number of
    the cloud of each row.

    Nodes are the first matrix, a floating one if there is any, that has neither 2 nor E rows: those of 2 rows are two
    sentences of token ids, those of E rows attributes of edges. Only if there is no other do matrices of E rows count,
    and floating ones of 2 rows where another input holds the graph number of each of these.

    Example:
        >>> graph_sizes([torch.randn(5, 3), torch.tensor([[0, 1, 4], [1, 2, 0]])])
        {'N': 5, 'E': 3}
        >>> graph_sizes([torch.randn(5, 3), torch.tensor([0, 0, 0, 1, 1])])
        {'N': 5}
    """
    tables = sorted((one for one in tensors if one.dim() == 2), key=lambda one: not one.is_floating_point())
    two = any(len(one) == 2 and _graphs(one) for one in tensors if one.dim() == 1)
    nodes = [one.shape[0] for one in tables if one.shape[0] != 2 or (two and one.is_floating_point())]
    for edges in tensors:
        if nodes and lists_edges(edges) and not edges.is_meta and edges.numel():
            count = next((one for one in nodes if one != edges.shape[1]), nodes[0])
            if int(edges.min()) >= 0 and int(edges.max()) < count:
                return {"N": count, "E": edges.shape[1]}
    listed = {len(one) for one in tensors if graphs_told(one, 0)}
    counts = (len(one) for one in tables if one.is_floating_point() and len(one) in listed)
    return {"N": count} if (count := next(counts, 0)) else {}


def lists_edges(tensor: torch.Tensor) -> bool:
    """Whether a tensor may be an `edge_index`, `[2, E]`."""
    return tensor.dim() == 2 and tensor.shape[0] == 2 and tensor.dtype == torch.int64


def graphs_told(tensor: torch.Tensor, nodes: int) -> int:
    """The number of graphs, if a tensor holds the graph number of each node of several graphs; else 0.

    Position ids have the same values as the graph numbers of as many graphs as nodes; they count where it is known how
    many nodes there are.

    Args:
        tensor: An input.
        nodes: The number of nodes; 0 where it is not known.

    Example:
        >>> one, places = torch.tensor([0, 0, 1, 2, 2]), torch.arange(3)
        >>> graphs_told(one, 0), graphs_told(places, 0), graphs_told(places, 3)
        (3, 0, 3)
    """
    count = _graphs(tensor)
    return count if 1 < count < len(tensor) + (len(tensor) == nodes) else 0


def as_graphs(made: Sequence[torch.Tensor], given: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Resized tensors, where nodes belong to as many graphs as before, and edges run between nodes that are there."""
    nodes, pairs = graph_sizes(given).get("N", 0), list(zip(made, given, strict=True))
    left = min((len(new) for new, old in pairs if old.shape[:1] == (nodes,) and not lists_edges(old)), default=nodes)
    return [
        new % max(left, 1) if left < nodes and lists_edges(old) else _with_graphs(new, old, nodes) for new, old in pairs
    ]


def _with_graphs(made: torch.Tensor, given: torch.Tensor, nodes: int) -> torch.Tensor:
    """The graph numbers of nodes, `batch` in torch_geometric, for another number of nodes and as many graphs."""
    count = graphs_told(given, nodes) if made.shape != given.shape else 0
    return torch.arange(len(made), device=made.device) * count // max(len(made), 1) if count else made


def _graphs(tensor: torch.Tensor) -> int:
    """The number of different values, if a tensor `[N]` counts up from 0 without gaps; else 0."""
    if tensor.dim() != 1 or tensor.dtype != torch.int64 or tensor.is_meta or not tensor.numel():
        return 0
    steps = tensor.diff()
    in_order = bool(((steps == 0) | (steps == 1)).all()) and int(tensor[0]) == 0
    return int(tensor[-1]) + 1 if in_order else 0
