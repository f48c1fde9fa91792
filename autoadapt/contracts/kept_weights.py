"""Kept weights: restoring the parameters that a module writes to in its own `forward`, as those that clamp weights do.

Copies that are run to learn about a module share the storage of its parameters. Without this such a run would change
the user's model.
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


def kept_weights(module: nn.Module) -> AbstractContextManager[object]:
    """Restore parameters that are written to while the block runs, also where it raises.

    A parameter is copied just before it is written to, or handed to NumPy and others that share its memory. Nothing is
    done for compiled modules. Writes through an array or an address from before the block are not seen.

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
    with torch._C.DisableTorchFunction():  # function modes that follow the run must not see this
        real = [one for one in parameters_of_parts(module) if not one.is_meta and one.layout == torch.strided]
        kept = {_storage(one): one for one in real}
    if not kept or any("_orig_mod" in one._modules for one in parts_of(module)):
        return nullcontext()
    return _keeping(_Written(kept))


@contextmanager
def _keeping(written: _Written) -> Iterator[None]:
    with written, _Handed(written):
        yield


class _Handed(TorchFunctionMode):
    """Keeps parameters whose memory others than PyTorch get, since what these write is not seen."""

    def __init__(self, written: _Written) -> None:
        super().__init__()
        self._written = written

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if func in _HANDING_OUT:
            with torch._C.DisableTorchFunction():
                self._written.keep(args[0])
        return func(*args, **(kwargs or {}))


_HANDING_OUT = frozenset(
    {torch.Tensor.numpy, torch.Tensor.__array__, torch.Tensor.__dlpack__, torch.Tensor.untyped_storage}
)


class _Written(TorchDispatchMode):
    """Keeps parameters just before an operation writes to them, also through `.data` and under `no_grad`."""

    supports_higher_order_operators = True

    def __init__(self, kept: Mapping[int, nn.Parameter]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._kept, self._before = kept, dict[int, torch.Tensor]()

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        for place in _writes_to(func):
            given = args[place] if isinstance(place, int) and place < len(args) else (kwargs or {}).get(str(place))
            with torch._C.DisableTorchFunction():
                self.keep(given)
        return func(*args, **(kwargs or {}))

    def keep(self, written: object) -> None:
        """Copy the parameters with the storage of these tensors, unless that was done before."""
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
def _writes_to(func: Any) -> tuple[int | str, ...]:
    """Indices and names of the arguments that an operation writes to, by its schema."""
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
