"""Writers: a graph that is being written, as operations see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import fx

from autoadapt.contracts.dims import Dim

__all__ = ["Writer"]


class Writer(Protocol):
    """The nodes that there are, and how more are written."""

    graph: fx.Graph
    given: dict[str, fx.Node]
    """The node of each input of the old module, by path."""
    features: dict[str, fx.Node]
    """The node of each feature of the new one."""
    module: str
    """Path of the layer that was made for the operation at hand, if it is learned."""

    def put(self, op: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """A node whose value goes by the name of the chain at hand."""

    def call(self, name: str, function: Callable[..., Any], *args: Any) -> fx.Node:
        """A call whose value goes by a name of its own."""

    def once(self, key: object, make: Callable[[], fx.Node]) -> fx.Node:
        """One node for all that ask with the same key."""

    def axis(self, name: str) -> fx.Node:
        """The size of an input axis."""

    def sizes(self, dims: Sequence[Dim]) -> list[Any]:
        """Sizes as numbers, or as arithmetic on the sizes of the inputs."""
