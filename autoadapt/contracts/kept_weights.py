"""Kept weights: a module that writes to its own parameters when it is called has them back after the call.

Clamped weights, averages of other weights and the like are written in `forward`. Copies that are run to learn about a
module share the storage of its parameters, so that without this a model that is only looked at would be changed.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from autoadapt.contracts.instances import parameters_of_parts, parts_of

__all__ = ["kept_weights"]


def kept_weights(module: nn.Module) -> AbstractContextManager[object]:
    """Put back parameters that are written to while the block runs, also where it raises.

    Only what is written, or handed to NumPy and others that share its memory, is copied, when it is. Compiled programs
    are left alone: they run as they are. Not seen is what is written through an array, or an address, that the module
    took of its weights before.

    Example:
        >>> layer = nn.Linear(1, 1)
        >>> before = layer.weight.clone()
        >>> with kept_weights(layer):
        ...     _ = layer.weight.data.fill_(7.0)
        >>> torch.equal(layer.weight, before)
        True
    """
    if torch.compiler.is_compiling():
        return nullcontext()
    with torch._C.DisableTorchFunction():  # to look at a tensor is no use of it, which others may be counting
        real = [one for one in parameters_of_parts(module) if not one.is_meta and one.layout == torch.strided]
        kept = {_storage(one): one for one in real}
    if not kept or any("_orig_mod" in one._modules for one in parts_of(module)):
        return nullcontext()
    return _both(_Keeping(kept))


@contextmanager
def _both(keeping: _Keeping) -> Iterator[None]:
    with keeping, _Handed(keeping):
        yield


class _Handed(TorchFunctionMode):
    """Sees which tensors others than PyTorch get hold of, whose writing it does not."""

    def __init__(self, keeping: _Keeping) -> None:
        super().__init__()
        self._keeping = keeping

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _HANDING_OUT:
            with torch._C.DisableTorchFunction():
                self._keeping.keep(args[0])
        return func(*args, **(kwargs or {}))


_HANDING_OUT = frozenset(
    {torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.__dlpack__, torch.Tensor.untyped_storage}
)


class _Keeping(TorchDispatchMode):
    """Sees every operation before it runs, those on `.data` and without gradients too."""

    supports_higher_order_operators = True

    def __init__(self, kept: Mapping[int, nn.Parameter]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept, self._before = kept, dict[int, torch.Tensor]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for place in _written(func):
            given = args[place] if isinstance(place, int) and place < len(args) else (kwargs or {}).get(str(place))
            with torch._C.DisableTorchFunction():
                self.keep(given)
        return func(*args, **(kwargs or {}))

    def keep(self, written: object) -> None:
        """Copy those parameters whose memory is about to be written to, if they are not yet."""
        for tensor in _tensors(written):
            key = _storage(tensor)
            if key in self._kept and key not in self._before:
                self._before[key] = self._kept[key].detach().clone()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)  # type: ignore[no-untyped-call]
        with torch.no_grad(), torch._C.DisableTorchFunction():
            for key, values in self._before.items():
                self._kept[key].data.copy_(values)  # not counted as a write, so that backward may follow


@functools.cache
def _written(func: Any) -> tuple[int | str, ...]:
    """Places and names of the arguments that an operation writes to."""
    schema = getattr(func, "_schema", None)
    if schema is None or not schema.is_mutable:
        return ()
    written = [(i, one) for i, one in enumerate(schema.arguments) if one.alias_info and one.alias_info.is_write]
    return tuple(one.name if one.kwarg_only else i for i, one in written)


def _tensors(value: object) -> Iterator[torch.Tensor]:
    for one in value if isinstance(value, (list, tuple)) else (value,):
        if isinstance(one, torch.Tensor) and one.layout == torch.strided:
            yield one


def _storage(tensor: torch.Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)
