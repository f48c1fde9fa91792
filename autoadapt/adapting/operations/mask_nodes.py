"""Mask nodes: what a mask of the old module lets count, in torch.fx nodes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from torch import fx

from autoadapt.adapting import mask_layers
from autoadapt.adapting.operations.counted import Counted
from autoadapt.contracts.signature import Mask, Returned

__all__ = ["MaskNodes"]


class MaskNodes:
    """The nodes of masks in one graph.

    Args:
        graph: That is being written.
        given: The node of each input, by path.
        axis: Gives the node of the size of an input axis.
    """

    def __init__(self, graph: fx.Graph, given: Mapping[str, fx.Node], axis: Callable[[str], fx.Node]) -> None:
        self._graph = graph
        self._given = given
        self._axis = axis
        self._made: dict[Mask, fx.Node] = {}

    def what_counts(self, mask: Mask) -> fx.Node | None:
        """Where tokens count, once for all that asks it; None where the mask cannot be given."""
        if mask.argument in self._given and mask not in self._made:
            options: list[Any] = [mask.form, mask.counts, mask.shared]
            while options and options[-1] == _DEFAULTS[len(options) - 1]:
                options.pop()
            arguments = self._given[mask.argument], self._axis(mask.axis), *options
            self._made[mask] = self._call(mask_layers.what_counts, arguments, "counting")
        return self._made.get(mask)

    def of_frames(self, mask: Mask, frames: tuple[int, int] | None) -> fx.Node | None:
        """Where tokens count, or frames of them; None where the mask cannot be given."""
        counting = self.what_counts(mask)
        if counting is None or frames is None:
            return counting
        return self._call(mask_layers.thin_mask, (counting, *frames), "counting")

    def returned(self, mask: Mask, told: Returned | None) -> fx.Node | None:
        """A mask for the frames that the old module returned it for, all of which count where none is given."""
        if told is None:
            return self.what_counts(mask)
        like = next(node for path, node in self._given.items() if path != mask.argument)
        sizes = self._axis("B"), self._axis(mask.axis)
        counting = self._call(mask_layers.all_counted, (self.what_counts(mask), like, sizes), "counting")
        return self._call(mask_layers.thin_mask, (counting, *told.frames), "counting") if told.frames else counting

    def counted_at(self, where: Counted, node: fx.Node) -> fx.Node | None:
        """Ones where tokens of a node count; None where the mask cannot be given."""
        counting = self.of_frames(where.mask, where.frames)
        if counting is None:
            return None
        if where.fitted:
            size = self._graph.call_method("size", (node, where.axis))
            counting = self._call(mask_layers.fit_mask, (counting, size), "counting")
        more = [where.front, where.behind][: 2 if where.behind else 1 if where.front else 0]
        return self._call(mask_layers.counted_tokens, (node, counting, where.axis, *more), "counted")

    def hidden(self, where: Counted, node: fx.Node, put: Callable[..., fx.Node]) -> fx.Node:
        """A node with zeros where tokens do not count; as it is where the mask cannot be given."""
        ones = self.counted_at(where, node)
        return node if ones is None else put("call_function", mask_layers.without_hidden, node, ones)

    def last(self, where: Counted, node: fx.Node, put: Callable[..., fx.Node]) -> fx.Node:
        """The last token of a node that counts; the last of all where the mask cannot be given."""
        ones = self.counted_at(where, node)
        if ones is None:
            return put("call_method", "select", node, where.axis, -1)
        return put("call_function", mask_layers.last_counted, node, ones, where.axis)

    def averaged(
        self, where: Counted, node: fx.Node, average: Callable[[fx.Node], fx.Node], put: Callable[..., fx.Node]
    ) -> fx.Node:
        """A node averaged over what counts alone; over all where the mask cannot be given.

        Args:
            where: What counts.
            node: What is averaged.
            average: Writes the average of a node.
            put: Writes a node that goes by the name of the chain at hand.
        """
        ones = self.counted_at(where, node)
        if ones is None:
            return average(node)
        values = average(put("call_function", mask_layers.without_hidden, node, ones))
        return put("call_function", mask_layers.per_share, values, average(ones))

    def _call(self, function: Callable[..., Any], arguments: tuple[Any, ...], name: str) -> fx.Node:
        return self._graph.create_node("call_function", function, arguments, name=name)


_DEFAULTS = ("truth", True, False)
"""What need not be said of a mask."""
