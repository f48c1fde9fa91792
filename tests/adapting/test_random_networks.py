"""Random feed-forward networks: depth, centres and kept share are as one counts them by hand."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

import autoadapt as aa


class Shape(NamedTuple):
    """Kernel, stride, padding and dilation of a block's first convolution."""

    kernel: int
    stride: int
    padding: int
    dilation: int


class Block(nn.Module):
    def __init__(self, before: int, width: int, shape: Shape) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(before, width, *shape), nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())


class Feedforward(nn.Module):
    """Blocks in a row, each twice as wide as the one before; some are returned."""

    def __init__(self, shapes: list[Shape], returned: list[int]) -> None:
        super().__init__()
        widths = [3, *(8 * 2**i for i in range(len(shapes)))]
        self.blocks = nn.ModuleList(map(Block, widths, widths[1:], shapes))
        self.returned = returned

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        made = []
        for block in self.blocks:
            x = block(x)
            made.append(x)
        return [made[i] for i in self.returned]


def centres_by_hand(shapes: list[Shape]) -> tuple[float, int]:
    """Centre of the first cell behind convolutions and the step, by the formula of Araujo, Norris and Sim."""
    first, step = 0.0, 1
    for kernel, stride, padding, dilation in shapes:
        first += step * (dilation * (kernel - 1) / 2 - padding)
        step *= stride
    return first, step


SHAPES = st.builds(Shape, st.integers(1, 4), st.integers(1, 2), st.integers(0, 2), st.integers(1, 2))


@pytest.mark.slow
@settings(derandomize=True, deadline=None, max_examples=8, database=None)
@given(st.lists(SHAPES, min_size=2, max_size=4), st.lists(SHAPES, min_size=2, max_size=4), st.data())
def test_depth_is_monotone_centres_are_right_and_the_kept_share_is_as_counted(old, new, data):
    returned = sorted(data.draw(st.sets(st.integers(0, len(old) - 1), min_size=1)))
    x = torch.empty(1, 3, 96, 96, device="meta")
    contract = aa.capture(Feedforward(old, returned), x)
    depths = [leaf.depth for leaf in contract.outputs.leaves]
    assert depths == sorted(depths)
    for i, leaf in zip(returned, contract.outputs.leaves, strict=True):
        found = [(float(one.first), one.step) for one in leaf.centres]
        assert found == [centres_by_hand(old[: i + 1])] * 2
    model = Feedforward(new, list(range(len(new))))
    made = aa.plan(aa.capture(model, x, inner=True), contract)
    blocks = [int(route.source) for route in made.routes]
    assert all(left <= right for left, right in pairwise(blocks))
    sizes = [sum(p.numel() for p in block.parameters()) for block in model.blocks]
    assert (made.kept.parameters, made.kept.of) == (sum(sizes[: max(blocks) + 1]), sum(sizes))
    assert made.kept.share == pytest.approx(sum(sizes[: max(blocks) + 1]) / sum(sizes))
