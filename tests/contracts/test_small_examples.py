"""Modules that need values are probed at small sizes; their strides are told exactly all the same."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autoadapt as aa


class Pyramid(nn.Module):
    """Levels at strides of 2 to 32, of images whose values it looks at."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(3 if i == 0 else 4, 4, 3, 2, 1) for i in range(5))

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        if bool(x.isnan().any()):
            raise ValueError("not a number")
        levels = [x]
        for layer in self.layers:
            levels.append(layer(levels[-1]))
        return levels[1:]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("size", [(64, 48), (48, 64), (33, 47), (40, 40), (20, 300)])
@pytest.mark.parametrize("batch", [1, 2])
def test_strides_above_a_small_example_are_told_exactly(size, batch):
    signature = aa.capture(Pyramid().eval(), torch.rand(batch, 3, *size))
    expected = [f"f32[B, 4, ceil(H/{2**i}), ceil(W/{2**i})]" for i in range(1, 6)]
    assert [str(leaf).split(" centres")[0] for leaf in signature.outputs.leaves] == expected
