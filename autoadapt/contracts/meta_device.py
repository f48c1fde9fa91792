"""The meta device: forward passes without values, also of modules whose code keeps tensors with values."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from autoadapt.contracts.caches import OutsideCaches
from autoadapt.contracts.instances import tensors_of
from autoadapt.contracts.made_tables import MadeTables
from autoadapt.contracts.shape_rules import ShapeRules


@contextlib.contextmanager
def on_the_meta_device(module: nn.Module, caches: OutsideCaches) -> Iterator[None]:
    """Make meta the default device, and let tensors with values take part in operations there.

    At the end, caches outside of the module are restored, and tables that survived elsewhere get their values.

    Args:
        module: The user's module, for its device.
        caches: What its code can reach outside of it.

    Example:
        >>> kept = torch.ones(2)
        >>> with on_the_meta_device(nn.Identity(), OutsideCaches(nn.Identity())):
        ...     (torch.empty(3, 2) - kept).device.type
        'meta'
    """
    with torch._C.DisableTorchFunction():  # function modes that follow the run must not see this
        device = next((one.device for one in tensors_of(module) if not one.is_meta), torch.device("cpu"))
    tables = MadeTables(device)
    with tables.kept(), caches.kept(), ShapeRules(), torch.device("meta"), OnMeta(tables):
        yield


class OnMeta(TorchFunctionMode):
    """Calls a function that refuses a mix of devices again, with all its tensors on the meta device.

    Without this, modules that subtract a constant of their file, or read a table that an earlier call left in a cache,
    would not run on the meta device. Where values are asked for, such a tensor still has them.

    Args:
        tables: Notes what is computed from sizes alone.
    """

    def __init__(self, tables: MadeTables | None = None) -> None:
        super().__init__()
        self._tables = tables

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        made = self._returned(func, args, kwargs or {})
        if self._tables is not None:
            self._tables.note(func, args, kwargs or {}, made)
        return made

    def _returned(self, func: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
        try:
            return not_emptied(func, args, func(*args, **given))
        except (RuntimeError, NotImplementedError) as error:
            if "device" not in str(error) and "meta" not in str(error).lower():
                raise
            moved = _Moved()
            others, named = moved.copied(args), moved.copied(given)
            if not (moved.on_meta and moved.with_values):
                raise
        return func(*others, **named)


_CONVOLUTIONS = frozenset((torch.conv1d, torch.conv2d, torch.conv3d))


def not_emptied(func: Any, args: tuple[Any, ...], made: Any) -> Any:
    """What a function returned.

    Raises:
        RuntimeError: A convolution of an input smaller than its kernel, which raises with values; on the meta device of
            torch 2.5 it returns axes of size 0.
    """
    if func in _CONVOLUTIONS and isinstance(made, torch.Tensor):
        with torch._C.DisableTorchFunction():
            if made.is_meta and 0 in made.shape[2:] and args and 0 not in args[0].shape:
                raise RuntimeError("Kernel size can't be greater than actual input size")
    return made


class _Moved:
    """Copies arguments with every tensor on the meta device."""

    def __init__(self) -> None:
        self.on_meta = self.with_values = False

    def copied(self, value: Any) -> Any:
        if isinstance(value, torch.Tensor):
            self.on_meta |= value.is_meta
            self.with_values |= not value.is_meta
            return value if value.is_meta else torch.empty_like(value, device="meta")
        if isinstance(value, torch.device):  # of such a tensor, as in `x.to(table.device)`
            self.with_values |= value.type != "meta"
            return torch.device("meta")
        if type(value) in (list, tuple):
            return type(value)(map(self.copied, value))
        if type(value) is dict:
            return {key: self.copied(one) for key, one in value.items()}
        return value
