"""Views: another set of module objects over the tensors of a module."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from autoadapt.errors import CaptureError, Mismatch

__all__ = ["aliased", "clone_buffers", "copy_module", "on_meta", "view"]

TensorCopy: TypeAlias = Callable[[torch.Tensor], torch.Tensor]


def view(module: nn.Module) -> nn.Module:
    """New module objects over the same storage: hooks, casts, moves and `.grad` never reach the original.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> other = view(layer)
        >>> other.weight is layer.weight, other.weight.data_ptr() == layer.weight.data_ptr()
        (False, True)
    """
    return copy_module(module, aliased)


def copy_module(module: nn.Module, copy_tensor: TensorCopy) -> nn.Module:
    """Copy a module with one rule for its tensors, whether registered or kept in plain attributes.

    Args:
        module: The original; it is only read. `torch.compile` wrappers are taken off.
        copy_tensor: Makes the tensor of the copy from that of the original; called once a tensor, so that
            tied parameters stay tied.

    Raises:
        CaptureError: The module holds something that cannot be copied, such as a lock or a generator.
    """
    original = getattr(module, "_orig_mod", module)
    rule = _TensorCopies(copy_tensor)
    memo: dict[int, Any] = {}
    for tensor in [*original.parameters(), *original.buffers()]:
        memo[id(tensor)] = rule.copy(tensor)
    try:
        with rule:
            copied: nn.Module = copy.deepcopy(original, memo)
    except (TypeError, RuntimeError, ValueError) as error:
        fault = Mismatch(
            type(original).__name__,
            "a module that copy.deepcopy can copy",
            str(error).splitlines()[0],
            "remove the attribute from the module, or give it a __deepcopy__",
        )
        raise CaptureError(f"{type(original).__name__} cannot be copied for a view", [fault]) from error
    return copied


class _TensorCopies(TorchFunctionMode):
    """Hands every `copy.deepcopy` of a tensor to one rule; keeps what the rule made alive and unique."""

    def __init__(self, copy_tensor: TensorCopy) -> None:
        super().__init__()
        self._copy_tensor = copy_tensor
        self._made: dict[int, tuple[torch.Tensor, torch.Tensor]] = {}

    def copy(self, tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in self._made:
            self._made[id(tensor)] = (tensor, self._copy_tensor(tensor))
        return self._made[id(tensor)][1]

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        if func is torch.Tensor.__deepcopy__:
            return self.copy(args[0])
        return func(*args, **(kwargs or {}))


def aliased(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor object of its own over the same storage."""
    return _as_parameter(tensor, tensor.detach())


def clone_buffers(tensor: torch.Tensor) -> torch.Tensor:
    """As `aliased`, but what is no parameter gets storage of its own, since a forward pass may write to it."""
    if isinstance(tensor, nn.Parameter):
        return aliased(tensor)
    return tensor.detach().clone()


def on_meta(tensor: torch.Tensor) -> torch.Tensor:
    """A tensor of the same shape and dtype without storage."""
    return _as_parameter(tensor, torch.empty_like(tensor, device="meta"))


def _as_parameter(original: torch.Tensor, made: torch.Tensor) -> torch.Tensor:
    if isinstance(original, nn.Parameter):
        return nn.Parameter(made, requires_grad=original.requires_grad)
    return made
