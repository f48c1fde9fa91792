"""Memory: tensors as bytes, compared by C's own function and looked at by loops of numpy.

These let other threads run, and start none of their own for every piece, as torch's would.
"""

from __future__ import annotations

import ctypes
import math
import os
from collections.abc import Iterator
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

PIECE_BYTES = 1 << 21  # what is read, copied and compared in one go: half of it stays in a processor's cache

Bytes: TypeAlias = NDArray[np.uint8]

_COMPARE = (ctypes.CDLL("msvcrt") if os.name == "nt" else ctypes.CDLL(None)).memcmp
_COMPARE.argtypes, _COMPARE.restype = (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t), ctypes.c_int

_REAL = {"float64": np.float64, "complex128": np.float64, "float32": np.float32, "complex64": np.float32}
_INFINITY = {"bfloat16": 0x7F80, "float16": 0x7C00}  # as integers; NaN are larger


def as_bytes(tensor: Tensor) -> Bytes:
    """The bytes of a tensor; its own memory where that is main memory without gaps.

    Example:
        >>> as_bytes(torch.tensor([1.0]))
        array([  0,   0, 128,  63], dtype=uint8)
    """
    if tensor.device.type != "cpu" or not tensor.is_contiguous():
        tensor = tensor.cpu().contiguous()
    flat: Bytes = tensor.detach().view(-1).view(torch.uint8).numpy()
    return flat


def pieces_of(tensor: Tensor) -> Iterator[Bytes]:
    """The bytes of a tensor, in pieces of `PIECE_BYTES`."""
    whole = as_bytes(tensor)
    for start in range(0, whole.size, PIECE_BYTES):
        yield whole[start : start + PIECE_BYTES]


def as_dtype(values: Bytes, old: str, new: str) -> Bytes:
    """Values of one dtype in another; the same bytes where both are one."""
    if old == new:
        return values
    return as_bytes(torch.from_numpy(values).view(getattr(torch, old)).to(getattr(torch, new)))


def is_same(left: Bytes, right: Bytes) -> bool:
    """Whether all bytes are equal; both without gaps, and as many."""
    return int(_COMPARE(left.ctypes.data, right.ctypes.data, left.size)) == 0


def is_finite(values: Bytes, dtype: str) -> bool:
    """Whether no value is NaN or infinite.

    Example:
        >>> is_finite(as_bytes(torch.tensor([1.0, -torch.inf])), "float32")
        False
    """
    if not values.size:
        return True
    if dtype in _REAL:
        real = values.view(_REAL[dtype])  # a sum is a cheap first look, but may be too large itself
        return math.isfinite(np.einsum("i->", real)) or bool(np.isfinite(real).all())
    if dtype in _INFINITY:
        # As signed integers, positive infinity and NaN are the largest; as unsigned ones, the negative are.
        bits, infinity = values.view(np.int16), _INFINITY[dtype]
        return bool(bits.max() < infinity) and bool(bits.view(np.uint16).max() < infinity + 0x8000)
    tensor = torch.from_numpy(values).view(getattr(torch, dtype))
    return not tensor.is_floating_point() or bool(torch.isfinite(tensor.float()).all())
