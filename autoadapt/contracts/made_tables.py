"""Made tables: tensors that a run on the meta device computed from sizes alone, and that are still alive after it.

Code may keep such tables, as of positions, wherever it likes. Those that are still alive get the values that a real run
computes.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils.weak import TensorWeakRef

_MOST_VALUES = 2**23
"""Limit on the values of all tables; where there are more, they are tables for sizes that only probes have."""
_RANDOM = ("rand", "normal", "bernoulli", "multinomial", "uniform", "dropout", "poisson", "exponential")
_TAKES_ITS_KIND = ("to", "type_as", "expand_as", "view_as", "reshape_as")
"""Methods that read only dtype, device or shape of their second tensor."""


@dataclass(frozen=True)
class _Made:
    """A tensor that a noted call returned."""

    call: int
    """Index in `MadeTables._calls`."""
    place: int
    """Index among the tensors that the call returned."""


@dataclass(frozen=True)
class _Like:
    """A tensor of which only shape and dtype are read."""

    shape: tuple[int, ...]
    dtype: torch.dtype


class _UnknownError(Exception):
    """A call reads what depends on inputs or weights."""


class MadeTables:
    """The calls of a run on the meta device that read neither inputs nor weights, to repeat them with values.

    Args:
        device: Where the module runs for real.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._calls: list[tuple[Callable[..., Any], Any, Any]] = []
        self._made: dict[int, tuple[TensorWeakRef, _Made]] = {}
        self._values = 0

    def note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], made: Any) -> None:
        """Note a call and what it returned."""
        written = args[0] if func is torch.Tensor.__setitem__ else made
        tensors = [one for one in _listed(written) if isinstance(one, torch.Tensor)]
        if not tensors:
            return
        with torch._C.DisableTorchFunction():  # function modes that follow the run must not see this
            tensors = [one for one in tensors if one.is_meta]
            if tensors:
                self._note(func, args, kwargs, tensors)

    def _note(self, func: Any, args: tuple[Any, ...], kwargs: dict[str, Any], made: list[torch.Tensor]) -> None:
        """Note a call that made tensors; forget these tensors where the call cannot be repeated."""
        is_random, like_first, like_rest = _kind(getattr(func, "__name__", ""))
        try:
            if is_random or (args and not like_first and self._is_unknown(args[0])):
                raise _UnknownError  # nearly always so: it is told before all arguments are gone through
            first, rest = self._read(args[:1], like=like_first), args[1:]
            call = func, (*first, *self._read(rest, like=like_rest)), self._read(kwargs)
        except _UnknownError:
            for tensor in made:
                self._made.pop(id(tensor), None)
            return
        self._calls.append(call)
        for place, tensor in enumerate(made):
            self._made[id(tensor)] = TensorWeakRef(tensor), _Made(len(self._calls) - 1, place)
            self._values += tensor.numel()

    def _read(self, value: Any, *, like: bool = False) -> Any:
        """Arguments with a `_Made` in place of each tensor on the meta device, or a `_Like` where `like` is true.

        Raises:
            _UnknownError: A tensor was made by no noted call.
        """
        if isinstance(value, torch.Tensor) and value.is_meta:
            if not self._is_unknown(value):
                return self._made[id(value)][1]
            if like:
                return _Like(tuple(value.shape), value.dtype)
            raise _UnknownError
        if isinstance(value, torch.device) and value.type == "meta":
            return self._device
        if type(value) in (list, tuple):
            return type(value)(self._read(one, like=like) for one in value)
        return {key: self._read(one) for key, one in value.items()} if type(value) is dict else value

    def _is_unknown(self, value: Any) -> bool:
        """Whether this is a tensor on the meta device that no noted call made."""
        if not isinstance(value, torch.Tensor) or not value.is_meta:
            return False
        found = self._made.get(id(value))
        return found is None or found[0]() is not value

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """At the end of a block, give the tensors that are still alive their values."""
        try:
            yield
        finally:
            left = [(tensor, made) for kept, made in self._made.values() if (tensor := kept()) is not None]
            self._made.clear()
            if left and self._values <= _MOST_VALUES:
                with contextlib.suppress(Exception), torch.no_grad(), torch.device(self._device):
                    self._give_values(left)
            self._calls.clear()

    def _give_values(self, left: list[tuple[torch.Tensor, _Made]]) -> None:
        """Repeat the noted calls with values, and put the results into the tensors that are left."""
        returned: list[list[Any]] = []

        def real(value: Any) -> Any:
            if isinstance(value, _Made):
                return returned[value.call][value.place]
            if isinstance(value, _Like):
                return torch.empty(value.shape, dtype=value.dtype)
            if type(value) in (list, tuple):
                return type(value)(map(real, value))
            return {key: real(one) for key, one in value.items()} if type(value) is dict else value

        for func, args, kwargs in self._calls:  # in their order, as some write to what others made
            given = real(args)
            made = func(*given, **real(kwargs))
            returned.append(_listed(given[0] if func is torch.Tensor.__setitem__ else made))
        for tensor, one in left:  # as torch.utils.swap_tensors does, which refuses where anybody keeps a weak reference
            with contextlib.suppress(RuntimeError):  # torch holds it somewhere else
                torch._C._swap_tensor_impl(tensor, returned[one.call][one.place].clone())


@functools.cache
def _kind(name: str) -> tuple[bool, bool, bool]:
    """Whether a function draws random numbers, and reads only dtype, device or shape of its first tensor; of others."""
    return any(word in name for word in _RANDOM), "new_" in name or "_like" in name, name in _TAKES_ITS_KIND


def _listed(value: Any) -> list[Any]:
    return list(value) if isinstance(value, (list, tuple)) else [value]
