"""Size limits: how much a model that a file describes may take while it is made, checked before it is allocated."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeVar

import torch
from torch.nn.modules import module as modules
from torch.overrides import TorchFunctionMode

from autoadapt.errors import Mismatch, SourceError

_Made = TypeVar("_Made")
_NONE: Mapping[str, Any] = MappingProxyType({})
_LARGE = 1000
"""Larger than the widths and depths of most layers."""


@dataclass(frozen=True)
class SizeLimits:
    """What a model may hold.

    Attributes:
        tensor: Values of one tensor.
        values: Values of all tensors that are made on the way, together.
        parts: Modules and parameters.
        number: Any integer among the options.
        told_by: Where these limits come from, for the error.
    """

    tensor: int
    values: int
    parts: int
    number: int
    told_by: str

    @classmethod
    def of_weights(cls, tensors: Mapping[str, torch.Tensor]) -> SizeLimits:
        """Of a model whose weights are known: some room is left for tables and caches that are not saved."""
        known = sum(tensor.numel() for tensor in tensors.values())
        parts = 10_000 + 64 * len(tensors)
        return cls(4 * known + (1 << 24), 4 * known + (1 << 24), parts, max(known, 1 << 17), "for the saved weights")


CONFIG_LIMITS = SizeLimits(1 << 27, 1 << 31, 20_000, 10_000_000, "for a part of a config")
"""512 MiB of 32 bits in one tensor, 8 GiB in all; six times the modules and parameters of the largest backbones."""


def made_within(limits: SizeLimits, make: Callable[..., _Made], options: Mapping[str, Any] = _NONE) -> _Made:
    """What a call makes, within limits.

    Where a number is large it is made on the meta device first, where its tensors take no memory.

    Raises:
        SourceError: It takes more; what was made so far is let go.
    """
    numbers = [*_integers(options, "")]
    for place, number in numbers:
        if abs(number) > limits.number:
            raise _too_large(place, f"a number of at most {limits.number:,}", f"{number:,}", limits)
    if any(number > _LARGE for _, number in numbers) and not options.get("pretrained"):
        _try_on_meta(limits, make, options)
    with _limited(limits):
        return make(**options)


def _try_on_meta(limits: SizeLimits, make: Callable[..., object], options: Mapping[str, Any]) -> None:
    try:
        with torch.random.fork_rng(devices=[]), torch.device("meta"), _limited(limits):
            make(**options)
    except _TooLargeError:
        raise
    except Exception:  # what does not go on meta, such as reading a value, is told when it is made for real
        return


@contextmanager
def _limited(limits: SizeLimits) -> Iterator[None]:
    """Count what this thread makes."""
    counter, thread = _Counter(limits), threading.get_ident()

    def registered(*_: object) -> None:
        if threading.get_ident() == thread:
            counter.count_part()

    hooks = [
        modules.register_module_module_registration_hook(registered),
        modules.register_module_parameter_registration_hook(registered),
    ]
    try:
        with counter:
            yield
    finally:
        for hook in hooks:
            hook.remove()


class _Counter(TorchFunctionMode):
    """Sees what is allocated: a tensor is tried on the meta device first, where it takes no memory."""

    def __init__(self, limits: SizeLimits) -> None:
        super().__init__()
        self._limits = limits
        self._values = self._parts = 0

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func in _FACTORIES and str(kwargs.get("device")) != "meta":
            given = {name: value for name, value in kwargs.items() if name not in ("generator", "out", "pin_memory")}
            self._count_values(func(*args, **{**given, "device": "meta"}).numel())
        return func(*args, **kwargs)

    def _count_values(self, count: int) -> None:
        limits = self._limits
        self._values += count
        if count > limits.tensor:
            raise _too_large("a tensor", f"at most {limits.tensor:,} values", f"{count:,}", limits)
        if self._values > limits.values:
            raise _too_large("all tensors", f"at most {limits.values:,} values", f"{self._values:,} so far", limits)

    def count_part(self) -> None:
        self._parts += 1
        if self._parts > self._limits.parts:
            expected = f"at most {self._limits.parts:,} modules and parameters"
            raise _too_large("the model", expected, "more", self._limits)


_FACTORIES = frozenset(
    {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.randint}
    | {torch.arange, torch.linspace, torch.logspace, torch.eye, torch.randperm}
)


def _integers(value: object, place: str) -> Iterator[tuple[str, int]]:
    """All integers in plain data, and where they stand."""
    if isinstance(value, int) and not isinstance(value, bool):
        yield place, value
    elif isinstance(value, Mapping):
        for key, child in value.items():
            yield from _integers(child, f"{place}.{key}" if place else str(key))
    elif isinstance(value, (list, tuple)):
        for i, child in enumerate(value):
            yield from _integers(child, f"{place}.{i}")


class _TooLargeError(SourceError):
    """A limit was hit."""


def _too_large(place: str, expected: str, found: str, limits: SizeLimits) -> _TooLargeError:
    fault = Mismatch(place, f"{expected} {limits.told_by}", found, "make the model yourself, and hand it over")
    return _TooLargeError("the model is too large", [fault])
