"""Parcels: what every worker needs, packed once as an array of bytes that its processes share without a copy.

The tensors of a value lie in the array as they lie in memory; a worker on the same machine maps it into its own.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import itertools
import pickle
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from autoadapt.errors import Mismatch, RankingError
from autoadapt.files.reading import one_line

Bytes: TypeAlias = npt.NDArray[np.uint8]

_ALIGNED = 64
"""Bytes to a multiple of which each tensor begins."""
_opened = dict[str, Any]()
"""The value of the parcel that this process opened last."""


@dataclass(frozen=True)
class Parcel:
    """A value as bytes.

    Attributes:
        bytes: The pickle first, then each tensor.
        sizes: How long each of them is.
        key: What tells it from other parcels.
    """

    bytes: Bytes
    sizes: tuple[int, ...]
    key: str


def packed(value: object) -> Parcel:
    """Pack a value with all modules, functions and tensors in it.

    Raises:
        RankingError: Something in it cannot be pickled.

    Example:
        >>> unpacked(packed({"images": torch.arange(3)}))
        {'images': tensor([0, 1, 2])}
    """
    buffers = list[pickle.PickleBuffer]()
    text = pickled(value, "the old backbone, the head or the images", buffers.append)
    parts = [memoryview(text), *(buffer.raw() for buffer in buffers)]
    sizes = tuple(part.nbytes for part in parts)
    whole = np.zeros(sum(map(_padded, sizes)), np.uint8)
    for first, part in zip(_starts(sizes), parts, strict=True):
        whole[first : first + part.nbytes] = np.frombuffer(part, np.uint8)
    return Parcel(whole, sizes, hashlib.sha256(whole.data).hexdigest())


def pickled(value: object, what: str, buffers: Callable[[pickle.PickleBuffer], object] | None = None) -> bytes:
    """A value as a pickle, for processes that have the same packages: what they cannot import travels as code.

    Args:
        value: The value.
        what: What the caller calls it.
        buffers: Takes what lies in memory as bytes; where left out it is part of the pickle.

    Raises:
        RankingError: Something in it cannot be pickled.
    """
    import cloudpickle

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]
        """Takes functions without a name, and tensors as the bytes that they are."""

        def reducer_override(self, value: Any) -> Any:
            if type(value) is torch.Tensor and _is_plain(value):
                flat = value.detach().contiguous().reshape(-1).view(torch.uint8).numpy()
                return _tensor, (flat, value.dtype, tuple(value.shape))
            return super().reducer_override(value)

    text = io.BytesIO()
    try:
        with _as_code():
            Pickler(text, protocol=5, buffer_callback=buffers).dump(value)
    except Exception as error:  # what a class of the caller's raises in its __reduce__
        fault = Mismatch(what, "what pickle takes", one_line(error), "jobs=1")
        raise RankingError(f"other processes cannot be given {what}", [fault]) from error
    return text.getvalue()


@contextlib.contextmanager
def _as_code() -> Iterator[None]:
    """Modules of files that no other process finds by their name."""
    import cloudpickle

    loaded = [module for name, module in list(sys.modules.items()) if "." not in name and _is_out_of_reach(module)]
    for module in loaded:
        cloudpickle.register_pickle_by_value(module)
    try:
        yield
    finally:
        for module in loaded:
            cloudpickle.unregister_pickle_by_value(module)


def _is_out_of_reach(module: ModuleType) -> bool:
    spec = getattr(module, "__spec__", None)
    if spec is None or not (spec.origin or "").endswith(".py") or spec.name != module.__name__:
        return False
    specs = (finder.find_spec(spec.name, None) for finder in sys.meta_path)
    found = next((one for one in specs if one is not None), None)
    return found is None or found.origin != spec.origin


def unpacked(parcel: Parcel) -> Any:
    """The value of a parcel, the same object for the same bytes until another one is unpacked in this process.

    Its tensors lie in the parcel, unless that is for reading only: writing to it would end the process.
    """
    if parcel.key not in _opened:
        whole = parcel.bytes if parcel.bytes.flags.writeable else parcel.bytes.copy()
        starts = _starts(parcel.sizes)
        text, *buffers = (whole[first : first + size].data for first, size in zip(starts, parcel.sizes, strict=True))
        value = pickle.loads(text, buffers=buffers)
        _opened.clear()
        _opened[parcel.key] = value
    return _opened[parcel.key]


def _is_plain(tensor: torch.Tensor) -> bool:
    dense = tensor.device.type == "cpu" and tensor.layout is torch.strided and not tensor.is_quantized
    return dense and not tensor.requires_grad and not (tensor.is_conj() or tensor.is_neg())


def _tensor(flat: Bytes, dtype: torch.dtype, shape: tuple[int, ...]) -> torch.Tensor:
    return torch.from_numpy(flat).view(dtype).reshape(shape)


def _padded(size: int) -> int:
    return -(-size // _ALIGNED) * _ALIGNED


def _starts(sizes: tuple[int, ...]) -> list[int]:
    return list(itertools.accumulate(map(_padded, sizes[:-1]), initial=0))
