"""What strategies and mutants are made of, and what they refuse."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

from autoadapt.adapting.verification import verify
from autoadapt.contracts.capturing import capture
from autoadapt.errors import AdaptError
from autoadapt.testing import (
    assert_equals,
    backbones,
    inputs_of,
    mutants,
    signatures,
)

X = torch.randn(2, 3, 16, 16)
OLD, NEW = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(3, 5, 2, stride=2)
QUICK = settings(derandomize=True, deadline=None, max_examples=12, database=None, suppress_health_check=[*HealthCheck])


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: next(mutants(nn.Conv2d)), "`net` is a class"),
        (lambda: assert_equals(OLD, 3, X), "`reference` is of the wrong type"),
        (lambda: inputs_of(OLD), r"`signature` is a module(.|\n)*try       aa.capture\(signature, inputs\)"),
        (lambda: signatures(kinds=["image"]), r"found     'image'\n  try       kinds=\['images'\]"),
        (lambda: backbones(kinds=[]), "at least one of images, sequences, points"),
        (lambda: signatures(levels=0), "expected  at least 1"),
    ],
)
def test_what_the_helpers_cannot_take_is_refused(call, said):
    with pytest.raises(AdaptError, match=said):
        call()


class Gather(nn.Module):
    def forward(self, xyz, indices):
        return xyz.gather(1, indices[..., None].expand(-1, -1, 3))


def test_indices_are_drawn_and_verified_below_the_size_of_what_they_may_point_into():
    signature = capture(Gather(), (torch.rand(2, 64, 3), torch.randint(0, 64, (2, 16))))

    @QUICK
    @given(inputs_of(signature))
    def drawn(call):
        assert int(call[1].max()) < call[0].shape[1]

    drawn()
    for inputs in (None, (torch.rand(2, 64, 3), torch.full((2, 16), 63))):
        assert verify(Gather(), signature, inputs=inputs).passed
