"""Tensors as bytes: what is equal, and what is finite."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, strategies as st

from autoadapt.weights.memory import as_bytes, as_dtype, is_finite, is_same

FLOATS = [
    torch.float64,
    torch.float32,
    torch.float16,
    torch.bfloat16,
    torch.complex64,
    torch.complex128,
    torch.float8_e5m2,
    torch.float8_e4m3fn,
]


def name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


@given(st.integers(1, 200), st.data())
def test_one_bit_anywhere_makes_a_difference(size: int, data: st.DataObject) -> None:
    left = np.arange(size, dtype=np.uint8)
    right = left.copy()
    assert is_same(left, right)
    right[data.draw(st.integers(0, size - 1))] ^= 1 << data.draw(st.integers(0, 7))
    assert not is_same(left, right)


def test_nothing_is_the_same_as_nothing() -> None:
    nothing = np.empty(0, np.uint8)
    assert is_same(nothing, nothing)
    assert is_finite(nothing, "float32")
    assert is_finite(nothing, "bfloat16")


@pytest.mark.parametrize(
    ("dtype", "value"),
    [
        (dtype, value)
        for dtype in FLOATS
        for value in (torch.nan, -torch.nan, torch.inf, -torch.inf)
        if dtype is not torch.float8_e4m3fn or value != value  # which has no infinity
    ],
)
@pytest.mark.parametrize("place", [0, 17, 36])
def test_every_kind_of_nan_and_infinity_is_seen_wherever_it_stands(
    dtype: torch.dtype, value: float, place: int
) -> None:
    values = torch.full((37,), -1.0)
    assert is_finite(as_bytes(values.to(dtype)), name(dtype))
    values[place] = value
    assert not is_finite(as_bytes(values.to(dtype)), name(dtype))


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", [dtype for dtype in FLOATS if not dtype.is_complex])
def test_values_whose_sum_is_too_large_are_finite(dtype: torch.dtype, sign: int) -> None:
    values = torch.full((40,), sign * torch.finfo(dtype).max, dtype=torch.float64).to(dtype)
    assert is_finite(as_bytes(values), name(dtype))


def test_integers_are_finite() -> None:
    assert is_finite(as_bytes(torch.tensor([-1, 0x7FC00000])), "int64")


def test_a_dtype_becomes_another_as_torch_says() -> None:
    values = torch.tensor([1.1, -2.7, 3.3])
    assert torch.equal(torch.from_numpy(as_dtype(as_bytes(values), "float32", "bfloat16")).view(torch.bfloat16),
                       values.bfloat16())  # fmt: skip
    same = as_bytes(values)
    assert as_dtype(same, "float32", "float32") is same
