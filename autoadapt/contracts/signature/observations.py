"""Observations: what a capture notes besides dims: invariants, contradictions, and what inner modules return."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from autoadapt.contracts.facts import MadeByHand
from autoadapt.contracts.leaves import READ
from autoadapt.contracts.signature.specs import TensorSpec


class Gathering(MadeByHand):
    """An invariant: gathering points of an input by an index output gives a coordinate output, bit for bit.

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
    """A real run that does not agree with a module's signature, or with another run on the same input."""

    path: str = ""
    """Path of an output; empty where it concerns all of them."""
    at: str
    """The size of the input in that run."""
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
    """A tensor that an inner module returned while the whole ran, or read first where no module returned that."""

    module: str
    """Path of the module, as in `named_modules()`."""
    call: int = 0
    """Which of its calls, from 0."""
    path: str = "output"
    """The path of the tensor in the module's output; `inputs.0` for its first argument."""
    spec: TensorSpec
    kind: str
    """Name of the module's class."""
    nesting: int
    """How many modules it stands in, without plain containers."""
    parent: bool
    """Whether the module has children."""
    layers: int
    """How many convolutions and linear layers the module holds."""
    parameters: int = 0
    """How many parameters the module holds."""
    multiply_adds: int = 0
    """Of this call at the example's sizes, where the module is a convolution or a linear layer itself."""
    started: int = 0
    """When the call began: the number of calls that had begun or ended before."""
    finished: int = 0
    """When it ended, in the same count."""
    same_as: str = ""
    """Name of an earlier inner output that is the very same tensor."""
    output: str = ""
    """Path of the output of the whole that is this tensor, unchanged."""
    reads: str = ""
    """For a vector of scores that a linear layer makes: name of the inner output that this layer reads."""
    contiguous: bool = True
    """As `Tensor.is_contiguous()`."""
    weights: str = Field(default="", exclude_if=lambda weights: not weights)
    """Which parameters it depends on: bit `i` of this hexadecimal number stands for `Signature.weights[i]`."""
    holds: str = Field(default="", exclude_if=lambda holds: not holds)
    """Which parameters its module holds, in the same bits."""
    attention: bool = Field(default=False, exclude_if=lambda inside: not inside)
    """Whether its module stands inside an attention module: queries, keys, attention weights, projections."""
    read_on: bool = Field(default=False, exclude_if=lambda read: not read)
    """Whether a later module outside of its own reads it unchanged, as the next block reads a residual stream."""
    added: bool = Field(default=False, exclude_if=lambda added: not added)
    """Whether it is a residual branch: a function adds it to a tensor that it was computed from."""
    in_row: bool = Field(default=False, exclude_if=lambda row: not row)
    """Whether its module is one of several in a `ModuleList` or `Sequential`."""
    listed: bool = False
    """Whether the model itself lists this tensor as a level, as in timm's `feature_info`."""

    @property
    def behind(self) -> int:
        """`weights` as an integer; 0 where they are not known."""
        return int(self.weights or "0", 16)

    @property
    def held(self) -> int:
        """`holds` as an integer."""
        return int(self.holds or "0", 16)

    @property
    def is_read(self) -> bool:
        """Whether it is the module's input, not its output."""
        return self.path == READ

    @property
    def is_branch(self) -> bool:
        """Whether it is only added to a residual stream, so that by itself it is no feature."""
        return self.added and not self.read_on

    @property
    def name(self) -> str:
        """The name of a tap on it, as by `tap_name`.

        Example:
            >>> spec = TensorSpec.parse("f32[B, 64]")
            >>> facts = {"kind": "Block", "nesting": 0, "parent": True, "layers": 2}
            >>> InnerOutput(module="stage4", call=1, path="0", spec=spec, **facts).name
            'stage4@1:0'
        """
        return tap_name(self.module, self.call, self.path)


def tap_name(module: str, call: int, path: str) -> str:
    """The name of a tap: the path of its module, with `@call` after the first call, and `:leaf` within a container."""
    return module + (f"@{call}" if call else "") + (f":{path}" if path != "output" else "")
