"""Moments are those of all tokens, however the tokens come in."""

import torch
from hypothesis import given, settings, strategies as st

from autoadapt.calibration import moments
from autoadapt.calibration.moments import Moments


def tokens(count, channels, seed, mean=50.0):
    made = torch.randn(count, channels, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
    return made * torch.logspace(0, -5, channels, dtype=torch.float64) + mean


@settings(deadline=None, max_examples=25)
@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 99))
def test_parts_in_any_sizes_add_up_to_the_whole(sizes, seed):
    x, y = tokens(sum(sizes), 4, seed), tokens(sum(sizes), 3, seed + 1)
    whole = Moments.of(x, y)
    parts = Moments.sum(Moments.of(a, b) for a, b in zip(x.split(sizes), y.split(sizes), strict=True))
    assert parts.count == whole.count
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(parts.tensors[name], tensor, rtol=1e-9, atol=1e-11)


def test_moments_of_nothing_change_nothing():
    some = Moments.of(tokens(5, 4, 0), tokens(5, 3, 1))
    for total in (Moments.sum([Moments.zeros(4, 3), some]), Moments.sum([some, Moments.zeros(4, 3)])):
        assert all(torch.equal(total.tensors[name], tensor) for name, tensor in some.tensors.items())


def test_variance_survives_a_mean_that_float32_drowns_it_in():
    x = tokens(4000, 3, 0)
    made = Moments.sum(Moments.of(part, part) for part in x.split(100))
    expected = torch.logspace(0, -10, 3, dtype=torch.float64)
    torch.testing.assert_close(made.xx_CC.diagonal() / made.count, expected, rtol=0.05, atol=0)


def test_many_tokens_are_multiplied_in_chunks_that_fit(monkeypatch):
    x_NC, y_ND = torch.randn(100, 5), torch.randn(100, 3)
    whole = Moments.of(x_NC, y_ND)
    monkeypatch.setattr(moments, "BYTES", 8 * 8 * 7)
    parts = Moments.of(x_NC, y_ND)
    assert parts.count == 100
    for name, tensor in whole.tensors.items():
        torch.testing.assert_close(parts.tensors[name], tensor, rtol=1e-12, atol=1e-12)


def test_of_many_channels_only_the_variances_of_targets_are_kept():
    wide = Moments.of(torch.randn(9, 513), y := torch.randn(9, 3))
    assert wide.yy.shape == (3,)
    torch.testing.assert_close(wide.yy_D, Moments.of(torch.randn(9, 2), y).yy.diagonal())
    wide.add(Moments.of(torch.randn(7, 513), y[:7]))
    torch.testing.assert_close(wide.yy_D, Moments.of(torch.randn(16, 2), torch.cat([y, y[:7]])).yy_D)


def test_memory_does_not_grow_with_tokens():
    few, many = (Moments.of(tokens(count, 8, 0), tokens(count, 6, 1)) for count in (10, 1000))
    assert few.bytes == many.bytes == 8 * (8 * 8 + 8 * 6 + 8 + 6 + 6 * 6)
