"""Mask nodes: torch.fx nodes that compute which tokens a mask of the old module does not hide."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx

from autoadapt.adapting import mask_layers
from autoadapt.adapting.operations.counted import Counted
from autoadapt.adapting.operations.writer import Writer
from autoadapt.contracts.signature import Mask, Returned

_DEFAULTS = ("truth", True, False)
"""The defaults of `what_counts`, which calls leave out."""


def _what_counts(mask: Mask, graph: Writer) -> fx.Node | None:
    """The node of `what_counts`, one for each mask; None where the adapted module has no such argument."""
    if mask.argument not in graph.given:
        return None

    def made() -> fx.Node:
        options: list[Any] = [mask.form, mask.counts, mask.shared]
        while options and options[-1] == _DEFAULTS[len(options) - 1]:
            options.pop()
        given = graph.given[mask.argument], graph.axis(mask.axis)
        return graph.call("counting", mask_layers.what_counts, *given, *options)

    return graph.once(mask, made)


def returned_mask(mask: Mask, told: Returned | None, graph: Writer) -> fx.Node | None:
    """Which frames count, for a mask that the old module returned for its frames; which tokens, if it returned none."""
    if told is None:
        return _what_counts(mask, graph)
    like = next(node for path, node in graph.given.items() if path != mask.argument)
    sizes = graph.axis("B"), graph.axis(mask.axis)
    counting = graph.call("counting", mask_layers.all_counted, _what_counts(mask, graph), like, sizes)
    return graph.call("counting", mask_layers.thin_mask, counting, *told.frames) if told.frames else counting


def _counted_at(where: Counted, node: fx.Node, graph: Writer) -> fx.Node | None:
    """The node of `counted_tokens` for the tokens of a node; None where there is no such mask."""
    counting = _what_counts(where.mask, graph)
    if counting is None:
        return None
    if where.frames is not None:
        counting = graph.call("counting", mask_layers.thin_mask, counting, *where.frames)
    if where.fitted:
        size = graph.graph.call_method("size", (node, where.axis))
        counting = graph.call("counting", mask_layers.fit_mask, counting, size)
    more = [where.front, where.behind][: 2 if where.behind else 1 if where.front else 0]
    return graph.call("counted", mask_layers.counted_tokens, node, counting, where.axis, *more)


def hidden(where: Counted, node: fx.Node, graph: Writer) -> fx.Node:
    """A node with zeros at hidden tokens; unchanged where there is no such mask."""
    ones = _counted_at(where, node, graph)
    return node if ones is None else graph.put("call_function", mask_layers.without_hidden, node, ones)


def last(where: Counted, node: fx.Node, graph: Writer) -> fx.Node:
    """The last token of a node that counts; the last of all where there is no such mask."""
    ones = _counted_at(where, node, graph)
    if ones is None:
        return graph.put("call_method", "select", node, where.axis, -1)
    return graph.put("call_function", mask_layers.last_counted, node, ones, where.axis)


def averaged(where: Counted, node: fx.Node, average: Callable[[fx.Node], fx.Node], graph: Writer) -> fx.Node:
    """A node averaged over the tokens that count; over all where there is no such mask.

    Args:
        where: Which tokens count.
        node: The values.
        average: Writes the average of a node over all tokens.
        graph: The graph.
    """
    ones = _counted_at(where, node, graph)
    if ones is None:
        return average(node)
    values = average(graph.put("call_function", mask_layers.without_hidden, node, ones))
    return graph.put("call_function", mask_layers.per_share, values, average(ones))
