"""Writers: the graph that is being written, as operations see it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

from torch import fx

from autoadapt.contracts.dims import Dim


class Writer(Protocol):
    """The nodes so far, and methods to add more."""

    graph: fx.Graph
    given: dict[str, fx.Node]
    """The node of each input of the old module, by path."""
    features: dict[str, fx.Node]
    """The node of each source in the new module, by path."""
    module: str
    """Path of the layer of the current operation, if it is learned."""

    def put(self, op: str, target: Any, *args: Any, **kwargs: Any) -> fx.Node:
        """Add a node of the current chain, named after it."""

    def call(self, name: str, function: Callable[..., Any], *args: Any) -> fx.Node:
        """Add a function call with a name of its own."""

    def once(self, key: object, make: Callable[[], fx.Node]) -> fx.Node:
        """The node that `make` added for a key; it is called for the first time only."""

    def axis(self, name: str) -> fx.Node:
        """The node of the size of an input axis."""

    def sizes(self, dims: Sequence[Dim]) -> list[Any]:
        """Dims as numbers, or as nodes of arithmetic on the sizes of the inputs."""
