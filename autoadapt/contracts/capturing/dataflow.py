"""Dataflow: which parameters and which inner outputs each tensor of one run depends on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from autoadapt.contracts.capturing.arguments import tensors_in
from autoadapt.contracts.capturing.by_tensor import ByTensor
from autoadapt.contracts.leaves import READ
from autoadapt.contracts.trees import flatten, path_text, paths

Key: TypeAlias = tuple[str, int, str]


@dataclass(frozen=True, slots=True)
class Behind:
    """What a tensor depends on: two sets as bits of integers, so that a union is one operation."""

    weights: int = 0
    """Bit `i` stands for the `i`-th parameter of the module."""
    nodes: int = 0
    """Bit `i` stands for the `i`-th of `Dataflow.nodes`."""
    dilation: int = 1
    """The largest dilation of a convolution that it depends on."""

    def __or__(self, other: Behind) -> Behind:
        dilation = max(self.dilation, other.dilation)
        return Behind(self.weights | other.weights, self.nodes | other.nodes, dilation)


@dataclass(frozen=True)
class Node:
    """An output of an inner module."""

    key: Key
    """Path of the module, which of its calls, path within its output."""
    shape: tuple[int, ...]
    behind: Behind
    """What it depends on, without itself."""
    itself: Behind
    """The same with itself among the nodes."""


class Dataflow(TorchFunctionMode):
    """Follows tensors through one forward pass of a module, without gradients, also on the meta device.

    The result of a function depends on all its arguments. A tensor from where functions cannot be seen, as inside of a
    custom autograd function or a scripted module, depends on all inputs and parameters of the module that returns it.
    """

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.nodes: list[Node] = []
        self._bits = {id(parameter): 1 << i for i, parameter in enumerate(module.parameters())}
        self._known = ByTensor[Behind]()
        self._calls: dict[str, int] = {}
        self._begun: dict[str, int] = {}
        self.read: dict[Key, tuple[tuple[int, ...], Behind]] = {}
        """Shape of the first argument of each call, and what it depends on."""
        self._handles = [
            handle
            for name, inner in module.named_modules()
            if name and not isinstance(inner, torch.jit.ScriptModule)  # which takes no hooks
            for handle in (
                inner.register_forward_pre_hook(self._begin(name)),
                inner.register_forward_hook(self._hook(name), with_kwargs=True),
            )
        ]

    def __exit__(self, *args: Any) -> None:
        super().__exit__(*args)  # type: ignore[no-untyped-call]
        for handle in self._handles:
            handle.remove()

    def of(self, tensor: torch.Tensor) -> Behind | None:
        """What a tensor depends on; None where no function that was seen returned it."""
        if id(tensor) in self._bits:
            return Behind(weights=self._bits[id(tensor)])
        return self._known.get(tensor)

    def of_all(self, value: Any) -> Behind:
        """What the tensors in nested lists, tuples and dicts depend on together."""
        found = Behind()
        for tensor in tensors_in(value):
            found |= self.of(tensor) or Behind()
        return found

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        made = func(*args, **given)
        written = args[:1] if func is torch.Tensor.__setitem__ else made
        if isinstance(written, (torch.Tensor, tuple, list)):
            with torch._C.DisableTorchFunction():  # function modes must not see this, and would make it slow
                self._note_made(func, args, given, written)
        return made

    def _note_made(self, func: Any, args: tuple[Any, ...], given: dict[str, Any], written: Any) -> None:
        behind: Behind | None = None
        for tensor in tensors_in(written):
            behind = behind or self.of_all((args, given)) | Behind(dilation=_dilation(func, args, given))
            self._note(tensor, behind)
            if args and tensor is args[0] and tensor._base is not None:  # written through a view
                self._note(tensor._base, behind | (self.of(tensor._base) or Behind()))

    def _note(self, tensor: torch.Tensor, behind: Behind) -> None:
        if id(tensor) not in self._bits:
            self._known.put(tensor, behind)

    def _held(self, module: nn.Module) -> Behind:
        """The parameters that a module holds."""
        return Behind(weights=sum({self._bits.get(id(parameter), 0) for parameter in module.parameters()}))

    def _begin(self, name: str) -> Any:
        def begin(_module: nn.Module, args: Any) -> None:
            call = self._begun[name] = self._begun.get(name, -1) + 1
            if args and isinstance(args[0], torch.Tensor) and (behind := self.of(args[0])) is not None:
                with torch._C.DisableTorchFunction():
                    self.read[name, call, READ] = (tuple(args[0].shape), behind)

        return begin

    def _hook(self, name: str) -> Any:
        """A forward hook of a module, which notes a node for each tensor that it returns."""

        def end(module: nn.Module, args: Any, kwargs: Any, returned: Any) -> None:
            call = self._calls[name] = self._calls.get(name, -1) + 1
            with torch._C.DisableTorchFunction():
                note(call, module, args, kwargs, returned)

        def note(call: int, module: nn.Module, args: Any, kwargs: Any, returned: Any) -> None:
            tree, tensors = flatten(returned)
            for path, tensor in zip(paths(tree), tensors, strict=True):
                behind = self.of(tensor)
                if behind is None:
                    behind = self.of_all((args, kwargs)) | self._held(module)
                itself = behind | Behind(nodes=1 << len(self.nodes))
                self.nodes.append(Node((name, call, path_text(path)), tuple(tensor.shape), behind, itself))
                self._note(tensor, itself)

        return end


def _dilation(func: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> int:
    if func not in _CONVOLUTIONS:
        return 1
    found = kwargs.get("dilation", args[5] if len(args) > 5 else 1)
    return max(found) if isinstance(found, (tuple, list)) else int(found)


_CONVOLUTIONS = (torch.conv1d, torch.conv2d, torch.conv3d)
