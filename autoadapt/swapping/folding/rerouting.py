"""Rerouting: single calls of functions in a module's `forward` that do something else once projections are gone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from pydantic import Field
from torch import nn
from torch.overrides import TorchFunctionMode, handle_torch_function, has_torch_function

from autoadapt.contracts.capturing.arguments import tensors_in
from autoadapt.contracts.facts import MadeByHand

UNSEEN = "; fold with inputs= that take this path"
"""What helps where a call was not seen; in the runs of `fold` itself nothing of it."""


class Reroute(MadeByHand):
    """One call of a function and what is done in its place, as data."""

    function: str
    number: int = Field(ge=0)
    """Which call of the function it is, in one call of the module."""
    does: Literal["join", "beside", "whole", "wide"]
    """`join` hands on the summands one after the other, `whole` all channels in place of some; `beside` gives each of
    the tensors that are put beside each other channels of its own, and zeros for those of the others; `wide` lets a
    function that reads a shape alone see as many channels as before."""
    axis: int = Field(ge=0)
    """Which axis holds channels."""
    channels: tuple[int, ...]
    """How many channels the tensors have that it is given."""
    also: tuple[tuple[int, ...], ...] = ()
    """How many they have at other calls of the module."""
    results: int = Field(default=0, ge=0)
    """How many tensors it returns; 0 for one without a container."""
    expands: bool = False
    """Whether summands are of different sizes."""
    width: int = Field(default=0, ge=0)
    """How many channels there were before, for `wide`."""

    def __call__(self, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
        """What is done in place of the function.

        Raises:
            RuntimeError: The tensors have other channels than when the model was folded.
        """
        given = list(tensors_in((args, kwargs)))[: len(self.channels)]
        if self.expands:
            given = _of_one_size(given, self.axis)
        found = tuple(one.shape[self.axis] for one in given)
        if found not in (self.channels, *self.also):
            raise RuntimeError(
                f"torch.{self.function} is given tensors of {found} channels, and was given {self.channels} when the "
                f"model was folded{UNSEEN}"
            )
        if self.does == "join":
            return torch.cat(given, self.axis)
        if self.does == "wide":
            wide = given[0].narrow(self.axis, 0, 1)
            wide = wide.expand(*wide.shape[: self.axis], self.width, *wide.shape[self.axis + 1 :])
            return function(wide, *args[1:], **{name: one for name, one in kwargs.items() if one is not given[0]})
        if self.does == "beside":
            beside = [_among_zeros(one, self.axis, sum(found[:i]), sum(found[i + 1 :])) for i, one in enumerate(given)]
            return function(beside, *args[1:], **{name: one for name, one in kwargs.items() if name != "tensors"})
        return (given[0],) * self.results if self.results else given[0]


def instead(reroute: Reroute, function: Any, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Any:
    """What is done in place of a call; modes around see that it is, and no call of the functions that do it."""
    given = tuple(tensors_in((args, kwargs)))
    if not torch.compiler.is_compiling() and has_torch_function(given):
        return handle_torch_function(instead, given, reroute, function, args, kwargs)
    with torch._C.DisableTorchFunction():
        return reroute(function, args, kwargs)


def _among_zeros(tensor: torch.Tensor, axis: int, before: int, after: int) -> torch.Tensor:
    return nn.functional.pad(tensor, [*[0] * (2 * (tensor.dim() - 1 - axis)), before, after])


def _of_one_size(tensors: Sequence[torch.Tensor], axis: int) -> list[torch.Tensor]:
    """Tensors expanded to one size on all axes but one, as a sum would."""
    most = max(one.dim() for one in tensors)
    full = [one[(None,) * (most - one.dim())] for one in tensors]
    others = ([*one.shape[:axis], 1, *one.shape[axis + 1 :]] for one in full)
    sizes = torch.broadcast_shapes(*others)  # type: ignore[no-untyped-call]
    return [one.expand(*sizes[:axis], one.shape[axis], *sizes[axis + 1 :]) for one in full]


def function_name(function: Any) -> str:
    """The name by which calls of a function are told and counted."""
    name = str(getattr(function, "__name__", function))
    return "shape" if name == "__get__" and getattr(function, "__self__", None) is torch.Tensor.shape else name


class _Rerouting(TorchFunctionMode):
    """Counts calls of functions while one call of a module runs, and reroutes some."""

    def __init__(self, reroutes: Sequence[Reroute]) -> None:
        super().__init__()
        self._reroutes = {(one.function, one.number): one for one in reroutes}
        self._names = {one.function for one in reroutes}
        self._calls = dict.fromkeys(self._names, 0)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = function_name(func)
        if name in self._names:
            number = self._calls[name]
            self._calls[name] = number + 1
            if (name, number) in self._reroutes:
                return instead(self._reroutes[name, number], func, args, kwargs or {})
        return func(*args, **(kwargs or {}))


class Rerouted(nn.Module):
    """Mixed into the class of a module some of whose calls are rerouted; it keeps its name, parts and attributes."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """As the class says, but for those calls."""
        with _Rerouting(self.__dict__["rerouted"]):
            return super().forward(*args, **kwargs)

    def __reduce_ex__(self, protocol: Any) -> tuple[Any, ...]:
        return _empty, (type(self).__mro__[2], _is_compiled(self.__dict__["rerouted"])), self.__dict__


def _is_compiled(reroutes: Sequence[Reroute]) -> bool:
    """Whether PyTorch's compiler sees all calls that are rerouted: it reads `tensor.shape` without asking any mode."""
    return all(one.function != "shape" for one in reroutes)


_CLASSES: dict[tuple[type[nn.Module], bool], type[nn.Module]] = {}


def _class_over(kind: type[nn.Module], is_compiled: bool) -> type[nn.Module]:
    if (kind, is_compiled) not in _CLASSES:
        named: dict[str, Any] = {"__module__": kind.__module__, "__qualname__": kind.__qualname__}
        own = {} if is_compiled else {"forward": torch.compiler.disable(Rerouted.forward)}  # type: ignore[no-untyped-call]
        _CLASSES[kind, is_compiled] = type(kind.__name__, (Rerouted, kind), named | own)
    return _CLASSES[kind, is_compiled]


def _empty(kind: type[nn.Module], is_compiled: bool) -> nn.Module:
    made = _class_over(kind, is_compiled)
    return made.__new__(made)


def rerouted(module: nn.Module, reroutes: Sequence[Reroute]) -> nn.Module:
    """The module itself, with some calls of functions rerouted from now on, beside those that were before."""
    every = {(one.function, one.number): one for one in (*module.__dict__.get("rerouted", ()), *reroutes)}
    module.__dict__["rerouted"] = tuple(every.values())
    kind = type(module).__mro__[2] if isinstance(module, Rerouted) else type(module)
    module.__class__ = _class_over(kind, _is_compiled(module.__dict__["rerouted"]))
    return module
