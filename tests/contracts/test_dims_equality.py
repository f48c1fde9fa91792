"""Equality is decided on a complete set of points, not on the few fixed ones that hashing uses."""

import math

import pytest

from autoadapt.contracts.dims import Dim
from autoadapt.contracts.dims.equality import fingerprint
from autoadapt.contracts.dims.forms import Form

HEIGHT = Dim.axis("H")
HIDDEN = math.prod((HEIGHT - size for size in fingerprint(Form.axis("H"))), start=Dim(1))
"""Zero at every fixed point, so that a multiple of it has the fingerprint of zero."""


@pytest.mark.parametrize(
    "difference",
    [
        HEIGHT * (HEIGHT - 1) * (HEIGHT - 2) * (HEIGHT - 3),
        HEIGHT * (HEIGHT // 97 + (-HEIGHT) // 97 + 1),
        (HEIGHT // 7).at_least(30) - (HEIGHT // 7).at_least(29),
        HEIGHT * Dim.axis("W") * (Dim.axis("W") - 1),
    ],
    ids=["degree", "period", "threshold", "two axes"],
)
def test_a_difference_that_the_fixed_points_miss_is_found(difference):
    hidden = HIDDEN * difference
    assert hash(hidden) == hash(Dim(0))
    assert hidden != 0
    assert hidden + HEIGHT != HEIGHT
    assert hidden.constant is None


def test_a_product_of_large_strides_is_compared_on_sampled_points():
    left = Dim.parse("floor(H/4096)*floor(W/4096)")
    assert left == Dim.parse("(floor(H/8192) + floor((H + 4096)/8192))*floor(W/4096)")
    assert left != Dim.parse("(floor(H/8192) + floor((H + 4095)/8192))*ceil(W/4096)")
