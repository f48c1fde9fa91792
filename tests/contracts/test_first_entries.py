"""Modules that keep the first entries of an axis: points, tokens, frames."""

import pytest
import torch
from torch import nn

import autoadapt as aa


class FirstPoints(nn.Module):
    def __init__(self, kept, width=4):
        super().__init__()
        self.linear, self.kept = nn.Linear(3, width), kept

    def forward(self, cloud):
        return self.linear(cloud[:, : self.kept])


@pytest.mark.parametrize("given", [8, 24])
@pytest.mark.parametrize("kept", [3, 5, 6, 7, 8])
def test_the_first_points_are_as_many_at_every_size_that_has_them(kept, given):
    """Of fewer points the module returns fewer: such sizes count as refused."""
    signature = aa.capture(FirstPoints(kept), torch.randn(2, given, 3))
    (leaf,) = signature.outputs.leaves
    assert [str(dim) for dim in leaf.dims] == ["B", str(kept), "4"]


def test_the_first_points_are_served_and_proven():
    net = aa.adapt(FirstPoints(7), like=FirstPoints(7, 6), inputs=torch.randn(2, 24, 3))
    assert net(torch.randn(3, 9, 3)).shape == (3, 7, 6)
    assert net.verify().passed, net.verify()
