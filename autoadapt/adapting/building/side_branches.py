"""Side branches: whether a module runs the same without what it makes only for outputs that nobody reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from autoadapt.contracts.capturing.arguments import tensors_in
from autoadapt.contracts.modes import in_eval_mode, in_train_mode
from autoadapt.contracts.views import copy_module, on_meta

__all__ = ["leaves_the_rest_alone"]

Run: TypeAlias = Callable[[nn.Module, int | None], Sequence[torch.Tensor]]
"""Gives what is read of a module, for a size of batch."""


def leaves_the_rest_alone(
    module: nn.Module, branches: Sequence[str], run: Run, batches: Sequence[int | None]
) -> Callable[[nn.Module], bool]:
    """A test of whether a view without some side branches still does all the rest as it did, call by call.

    Args:
        module: The view before anything was cut of it.
        branches: Paths of the modules that may be cut.
        run: Runs a copy on the meta device.
        batches: Sizes of batches to run at, since what stands in the place of a branch returns no tuples.

    Returns:
        Takes the view, after branches in it were replaced by what returns its first argument. False as well where
        the module did not run in eval mode on the meta device from the start, or where a branch writes to what it
        reads, keeps anything for the next call, or takes fewer values than what its followers make without it.
    """
    cases = [(mode, batch) for mode in (in_eval_mode, in_train_mode) for batch in batches]
    before = [_watched(module, branches, run, *case) for case in cases]

    def alone(view: nn.Module) -> bool:
        for known, case in zip(before, cases, strict=True):
            if known is None and case[0] is in_train_mode:  # such as norms that ask for more than one value
                continue
            if known is None or known.touched or not known.is_kept_by(_watched(view, branches, run, *case)):
                return False
        return True

    return alone


@dataclass(frozen=True)
class _Rest:
    """What two runs in a row did apart from side branches."""

    calls: list[tuple[str, tuple[tuple[int, ...], ...]]]
    """Each function that was called on nothing that a branch made, and the shapes of what it returned."""
    written: list[tuple[str, list[int]]]
    """How often what each call of a branch read was written to from then on."""
    touched: bool
    """Whether a branch writes to what it reads, or what is read depends on it."""
    values: int
    """How many values all functions returned."""

    def is_kept_by(self, other: _Rest | None) -> bool:
        """Whether another run did the same, with no more values made."""
        if other is None or other.touched or other.values > self.values:
            return False
        return (self.calls, self.written) == (other.calls, other.written)


def _watched(
    module: nn.Module, branches: Sequence[str], run: Run, in_mode: Callable[[nn.Module], nn.Module], batch: int | None
) -> _Rest | None:
    """What a module does; None where it raises."""
    copied = in_mode(copy_module(module, on_meta))
    watch = _Watch(copied, branches)
    try:
        with watch:
            read = [tensor for _ in range(2) for tensor in run(copied, batch)]  # a second run reads what the first left
    except Exception:  # whatever a model raises on the meta device
        return None
    return watch.rest(read)


class _Watch(TorchFunctionMode):
    """Follows what branches make through two runs, and notes every call of a function on anything else.

    Tensors are kept alive, so that each has a number of its own; on the meta device they hold nothing.
    """

    def __init__(self, module: nn.Module, branches: Sequence[str]) -> None:
        super().__init__()
        self._made: dict[int, torch.Tensor] = {}
        self._alive: list[object] = []
        self._inside = 0
        self._calls: list[tuple[str, tuple[tuple[int, ...], ...]]] = []
        self._read: list[tuple[str, list[tuple[torch.Tensor, int]]]] = []
        self._wrote = False
        self._values = 0
        for path in branches:
            self._follow(path, module.get_submodule(path))

    def rest(self, read: Sequence[torch.Tensor]) -> _Rest:
        """What was noted.

        Args:
            read: What is read of the module.
        """
        written = [(path, [one._version - then for one, then in tensors]) for path, tensors in self._read]
        touched = self._wrote or any(id(tensor) in self._made for tensor in read)
        return _Rest(self._calls, written, touched, self._values)

    def _follow(self, path: str, branch: nn.Module) -> None:
        running: list[list[tuple[torch.Tensor, int]]] = []

        def begin(_module: nn.Module, args: Any, kwargs: Any) -> None:
            given = [(tensor, tensor._version) for tensor in tensors_in((args, kwargs))]
            running.append(given)
            self._read.append((path, given))
            self._inside += 1

        def end(_module: nn.Module, _args: Any, returned: Any) -> Any:
            self._inside -= 1
            self._wrote |= any(tensor._version != then for tensor, then in running.pop())
            with torch._C.DisableTorchFunction():
                if isinstance(returned, torch.Tensor):  # what is cut returns what it was given: another object of it
                    returned = returned.view_as(returned)
                self._made |= {id(tensor): tensor for tensor in tensors_in(returned)}
            return returned

        branch.register_forward_pre_hook(begin, with_kwargs=True)
        branch.register_forward_hook(end)

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        returned = func(*args, **given)
        with torch._C.DisableTorchFunction():  # to look at a tensor is no use of it
            self._note(func, args, given, returned)
        return returned

    def _note(self, func: Any, args: tuple[Any, ...], given: dict[str, Any], returned: Any) -> None:
        tensors = list(tensors_in(returned))
        self._alive += tensors
        self._values += sum(tensor.numel() for tensor in tensors)
        if self._inside:
            return
        if any(id(tensor) in self._made for tensor in tensors_in((args, given))):
            written = [args[0]] if func is torch.Tensor.__setitem__ else []
            self._made |= {id(tensor): tensor for tensor in (*tensors, *written)}
        else:
            name = getattr(func, "__name__", type(func).__name__)
            self._calls.append((name, tuple(tuple(tensor.shape) for tensor in tensors)))
