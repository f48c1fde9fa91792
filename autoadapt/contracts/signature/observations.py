"""Observations: what a capture notes besides dims: invariants among values, and what inner modules return."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autoadapt.contracts.facts import MadeByHand
from autoadapt.contracts.leaves import READ
from autoadapt.contracts.signature.specs import TensorSpec

__all__ = ["Contradiction", "Gathering", "InnerOutput", "tap_name"]


class Gathering(MadeByHand):
    """An invariant: points of an input, taken by an index leaf, are a coordinate leaf, bit for bit.

    Example:
        >>> print(Gathering(values="inputs.x", stop=3, index="i", result="p", values_axis=2))
        gather(inputs.x[:, :3], 2, i) == p.mT
    """

    values: str
    """Path of the input, `[B, N, >= stop]`, or `[B, >= stop, N]` where its axis 2 lists points."""
    stop: int
    """How many leading columns of the input are gathered."""
    index: str
    """Path of the index output, `[B, M]`."""
    result: str
    """Path of the coordinate output, `[B, M, stop]`, or `[B, stop, M]` where its axis 2 lists points."""
    values_axis: Literal[1, 2] = 1
    """Which axis of the input lists points."""
    result_axis: Literal[1, 2] = 1
    """Which axis of the coordinates lists points."""

    def __str__(self) -> str:
        columns = f"[..., :{self.stop}], 1" if self.values_axis == 1 else f"[:, :{self.stop}], 2"
        turned = "" if self.values_axis == self.result_axis else ".mT"
        return f"gather({self.values}{columns}, {self.index}) == {self.result}{turned}"


class Contradiction(MadeByHand):
    """Where a real run showed something else than a module's signature says, or two equal runs did not agree."""

    path: str = ""
    """Of an output; empty where it concerns all of them."""
    at: str
    """The size of the input in the run that showed it."""
    expected: str
    found: str

    @property
    def where(self) -> str:
        """The output and the size of the input.

        Example:
            >>> Contradiction(path="c5", at="64 x 64", expected="equal values", found="others").where
            'c5 at 64 x 64'
        """
        return f"{self.path} at {self.at}".strip()


class InnerOutput(MadeByHand):
    """What an inner module returned while the whole ran, or what it read of a stream that no module returned."""

    module: str
    """Path of the module, as in `named_modules()`."""
    call: int = 0
    """Which of its calls, from 0."""
    path: str = "output"
    """Where in its output the tensor stands; `inputs.0` for its first argument, where no module returned that."""
    spec: TensorSpec
    kind: str
    """Class of the module."""
    nesting: int
    """How deep it stands; plain containers do not count."""
    parent: bool
    """Whether it has children."""
    layers: int
    """How many convolutions and linear layers it holds."""
    parameters: int = 0
    """How many parameters it holds."""
    multiply_adds: int = 0
    """Of this call at the probed sizes, where it is a convolution or a linear layer itself."""
    started: int = 0
    """When the call began, counted in calls that began or ended."""
    finished: int = 0
    same_as: str = ""
    """Name of the inner output that is the very same tensor, where a module returned it before."""
    output: str = ""
    """Path of the output of the whole that is this tensor, where nothing is done to it after."""
    reads: str = ""
    """For scores in a vector, which a linear layer makes: name of the inner output that this layer reads."""
    contiguous: bool = True
    """Whether it lies in memory in the order of its axes, as a permuted view does not."""
    weights: str = Field(default="", exclude_if=lambda weights: not weights)
    """Which parameters it depends on: bit `i` of this hexadecimal number stands for `Signature.weights[i]`."""
    holds: str = Field(default="", exclude_if=lambda holds: not holds)
    """Which parameters its module holds, in the same bits."""
    attention: bool = Field(default=False, exclude_if=lambda inside: not inside)
    """Whether its module stands inside one that attends: queries, keys, weights of attention, projections."""
    read_on: bool = Field(default=False, exclude_if=lambda read: not read)
    """Whether a later module outside its own reads it as it is, as blocks do along a residual stream."""
    added: bool = Field(default=False, exclude_if=lambda added: not added)
    """Whether a function adds it to what it was made of, the residual stream of its caller."""
    in_row: bool = Field(default=False, exclude_if=lambda row: not row)
    """Whether its module is one of several in a plain list or sequence."""
    listed: bool = False
    """Whether the whole model names this tensor in a list of its levels, as timm's `feature_info` is one."""

    @property
    def behind(self) -> int:
        """Which parameters it depends on, as bits; none where that is not known."""
        return int(self.weights or "0", 16)

    @property
    def held(self) -> int:
        """Which parameters its module holds, in the same bits."""
        return int(self.holds or "0", 16)

    @property
    def is_read(self) -> bool:
        """Whether it is what the module reads, not what it returns."""
        return self.path == READ

    @property
    def is_branch(self) -> bool:
        """Whether it is no stream but what is added to one: all that comes of it is a sum with something else."""
        return self.added and not self.read_on

    @property
    def name(self) -> str:
        """How a tap on it is called: the path, then `@call` and `:leaf` where they are needed.

        Example:
            >>> spec = TensorSpec.parse("f32[B, 64]")
            >>> facts = {"kind": "Block", "nesting": 0, "parent": True, "layers": 2}
            >>> InnerOutput(module="stage4", call=1, path="0", spec=spec, **facts).name
            'stage4@1:0'
        """
        return tap_name(self.module, self.call, self.path)


def tap_name(module: str, call: int, path: str) -> str:
    """How a tap is called: the path of its module, then `@call` and `:leaf` where they are needed."""
    return module + (f"@{call}" if call else "") + (f":{path}" if path != "output" else "")
