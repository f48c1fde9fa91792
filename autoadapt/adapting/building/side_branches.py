"""Side branches: whether a module does the same without modules that only serve outputs that are not read."""

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

Run: TypeAlias = Callable[[nn.Module, int | None], Sequence[torch.Tensor]]
"""Runs a module at a batch size, or the example's for None, and returns the tensors that are read."""


def leaves_the_rest_alone(
    module: nn.Module, branches: Sequence[str], run: Run, batches: Sequence[int | None]
) -> Callable[[nn.Module], bool]:
    """A test of whether a view without some side branches still calls the same functions elsewhere.

    Args:
        module: The view before the cut.
        branches: Paths of the modules that may be cut.
        run: Runs a copy on the meta device.
        batches: Batch sizes to run at: a cut branch returns a tensor where it returned a tuple, which code may unpack
            at some batch sizes.

    Returns:
        Takes the view after branches were replaced by identities. False if other functions were called, or called on
        other shapes. Also false if the view did not run in eval mode before the cut, if a branch writes to its inputs
        or affects the next call, or if the view makes more values without it.
    """
    cases = [(mode, batch) for mode in (in_eval_mode, in_train_mode) for batch in batches]
    before = [_watched(module, branches, run, *case) for case in cases]

    def alone(view: nn.Module) -> bool:
        for known, case in zip(before, cases, strict=True):
            if known is None and case[0] is in_train_mode:  # such as batch norm of a single value
                continue
            if known is None or known.touched or not known.is_kept_by(_watched(view, branches, run, *case)):
                return False
        return True

    return alone


@dataclass(frozen=True)
class _Rest:
    """What a module did in two consecutive runs, apart from its side branches."""

    calls: list[tuple[str, tuple[tuple[int, ...], ...]]]
    """Each function called outside of branches on no tensor that depends on one, with the shapes that it returned."""
    written: list[tuple[str, list[int]]]
    """For each call of a branch, its path and how often each of its inputs was written to afterwards."""
    touched: bool
    """Whether a branch writes to its inputs, or a read output depends on one."""
    values: int
    """Number of values in all tensors that functions returned."""

    def is_kept_by(self, other: _Rest | None) -> bool:
        """Whether the other runs did the same and made no more values."""
        if other is None or other.touched or other.values > self.values:
            return False
        return (self.calls, self.written) == (other.calls, other.written)


def _watched(
    module: nn.Module, branches: Sequence[str], run: Run, in_mode: Callable[[nn.Module], nn.Module], batch: int | None
) -> _Rest | None:
    """What a module does in two runs in one mode at one batch size; None where it raises."""
    copied = in_mode(copy_module(module, on_meta))
    watch = _Watch(copied, branches)
    try:
        with watch:
            read = [tensor for _ in range(2) for tensor in run(copied, batch)]  # the second may depend on the first
    except Exception:  # whatever a model raises on the meta device
        return None
    return watch.rest(read)


class _Watch(TorchFunctionMode):
    """Notes function calls, and which tensors depend on a branch.

    All tensors are kept alive, so that each has an `id` of its own; on the meta device they take no memory.

    Args:
        module: A copy on the meta device, which gets hooks on its branches.
        branches: Their paths.
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
        """What was noted."""
        written = [(path, [one._version - then for one, then in tensors]) for path, tensors in self._read]
        touched = self._wrote or any(id(tensor) in self._made for tensor in read)
        return _Rest(self._calls, written, touched, self._values)

    def _follow(self, path: str, branch: nn.Module) -> None:
        """Put hooks on a branch that note what it reads, writes to and returns."""
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
                if isinstance(returned, torch.Tensor):  # a cut branch returns its input, which depends on no branch
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
        with torch._C.DisableTorchFunction():  # what is read here is no call of the module
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
