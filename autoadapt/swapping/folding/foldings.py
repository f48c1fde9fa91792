"""Foldings: what was folded into what, as data, so that a freshly built model can be given the same layers."""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from pydantic import Field
from torch import nn

from autoadapt.adapting import layers
from autoadapt.adapting.building import mark_rebuilt
from autoadapt.contracts.facts import MadeByHand
from autoadapt.errors import Mismatch
from autoadapt.swapping.folding.attention import open_attention
from autoadapt.swapping.folding.reading_layers import guard, is_reader, resize
from autoadapt.swapping.folding.rerouting import Reroute, rerouted
from autoadapt.swapping.places import set_modules


class Reader(MadeByHand):
    """A layer that reads other channels now."""

    paths: tuple[str, ...] = Field(min_length=1)
    """Where it stands; all paths of one layer."""
    channels: int = Field(ge=1)
    """How many it reads, or features of a linear layer."""
    has_bias: bool
    returns: int = Field(default=0, ge=0)
    """How many it returns, where these are others than before."""
    ones: int = Field(default=0, ge=0)
    """How many of the channels that it reads are of ones."""

    def __str__(self) -> str:
        returned = f" and returns {self.returns}" if self.returns else ""
        return f"{self.paths[0]} reads {self.channels}{returned}"


class Front(MadeByHand):
    """A module that cannot read other channels, and has a projection in front of it."""

    path: str
    source: int = Field(ge=1)
    target: int = Field(ge=1)
    dims: int
    """How many axes the tensor has; channels are the second one, or else the last."""
    axis: int

    def __str__(self) -> str:
        return f"in front of {self.path}, which needs all channels: {self.source}->{self.target}"


class Stay(MadeByHand):
    """An output that keeps its projection."""

    output: str
    reader: str
    why: str = ""

    def __str__(self) -> str:
        return f"stays: output {self.output}, read by {self.reader}" + f": {self.why}" * bool(self.why)

    def mismatch(self, remedy: str) -> Mismatch:
        """As a refusal says it."""
        expected = "layers that read it and are linear over its channels"
        return Mismatch(f"output {self.output}", expected, self.reader, remedy, why=self.why)


class Folding(MadeByHand):
    """What `fold` did: which outputs are handed on without projections, what reads them, and what stays as it was."""

    number: int = Field(default=0, ge=0)
    """How many there were in the model before."""
    outputs: tuple[str, ...]
    ones: tuple[str, ...] = ()
    """Outputs that are handed on with a channel of ones, which carries the offset to where borders are padded."""
    readers: tuple[Reader, ...] = ()
    fronts: tuple[Front, ...] = ()
    opened: tuple[str, ...] = ()
    """Attention that has layers of its own for queries, keys and values now."""
    reroutes: dict[str, tuple[Reroute, ...]] = Field(default_factory=dict)
    """Calls of functions that do something else, by the module in whose `forward` they stand."""
    stays: tuple[Stay, ...] = ()
    unread: tuple[str, ...] = ()
    """Those of the outputs of which no value is read, at most the shape."""
    unseen: tuple[str, ...] = ()
    """Layers that did not run while the model was followed; they refuse channels that they do not read."""
    untrained: tuple[str, ...] = ()
    """Layers that start from the weights that their classes draw."""
    multiply_adds: tuple[int, int] = (0, 0)
    """Of the whole model at the example, before and after."""
    multiply_adds_of_ones: int = Field(default=0, ge=0)
    """What channels of ones take of those after."""

    def __str__(self) -> str:
        if self.untrained:
            lines = [f"rebuilt for output {', '.join(self.outputs)}, with new weights, to be trained:"]
            lines += [f" {reader}" for reader in self.readers]
        else:
            told = [f"folded: output {', '.join(self.outputs)}", ", ".join(map(str, self.readers))]
            lines = ["; ".join(told).strip("; ")]
        if self.unread:
            lines.append(f"nothing reads a value of output {', '.join(self.unread)}")
        if self.ones:
            of_ones = "with a channel of ones, since offsets are not the same at every place"
            lines.append(f"{of_ones}: {', '.join(self.ones)}")
        before, after = self.multiply_adds
        if self.multiply_adds_of_ones:
            share = f"{self.multiply_adds_of_ones / after:.2%}"
            lines.append(f"which takes {share} of all multiply-adds; projections of project_bias=False need none")
        if after > before:
            lines.append(f"the model is heavier than it was: {before:,} multiply-adds became {after:,}")
        return "\n".join([*lines, *map(str, self.fronts), *map(str, self.stays)])


def start_anew(model: nn.Module, folding: Folding) -> None:
    """Draw the weights of layers that are to be trained as their classes do; what was frozen of them is no longer."""
    for path in folding.untrained:
        layer: Any = model.get_submodule(path)
        layer.reset_parameters()
        layer.requires_grad_(True)


def next_number(model: nn.Module) -> int:
    """The number of the next folding of a model."""
    return sum(isinstance(vars(one).get("folded"), Folding) for one in model.modules())


def put_layers(model: nn.Module, folding: Folding) -> None:
    """Put the layers of a folding into a model, with weights that are not filled; the model is changed."""
    for path in folding.opened:
        open_attention(model.get_submodule(path))
    for reader in folding.readers:
        layer = model.get_submodule(reader.paths[0])
        resize(layer, reader.channels, returns=reader.returns, has_bias=reader.has_bias)
        if is_reader(layer):
            guard(layer)
    for path in folding.unseen:
        guard(model.get_submodule(path))
    for front in folding.fronts:
        read = model.get_submodule(front.path)
        like = next(model.parameters())
        sizes, is_last = (front.source, front.target), front.axis == front.dims - 1
        project = layers.linear(*sizes) if is_last else layers.conv1x1(*sizes, spatial=front.dims - 2)
        both = nn.Sequential(OrderedDict(project=project.to(like.device, like.dtype), read=read))
        both.training = read.training
        set_modules(model, {front.path: both})
    for path in folding.untrained:
        mark_rebuilt(model.get_submodule(path))
    for path, reroutes in folding.reroutes.items():
        rerouted(model.get_submodule(path), reroutes)
