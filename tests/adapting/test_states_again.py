"""The last of the hidden states, which is the last output too, serves what asks for it by either name."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autoadapt as aa


class Tower(nn.Module):
    """Cells of an image through some blocks; the last state is returned by itself and at the end of all states."""

    def __init__(self, width: int, blocks: int = 6) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, width, 8, 8)
        self.blocks = nn.ModuleList([nn.TransformerEncoderLayer(width, 2, 16, batch_first=True) for _ in range(blocks)])

    def forward(self, x: torch.Tensor) -> dict[str, object]:
        states = [self.stem(x).flatten(2).transpose(1, 2)]
        for block in self.blocks:
            states.append(block(states[-1]))
        return {"last": states[-1], "states": {str(i): state for i, state in enumerate(states)}}


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("wanted", "blocks", "expected"),
    [
        (["states.4", "states.6"], 6, {"states.4": "states.4", "states.6": "last"}),
        (["states.2", "states.6"], 4, {"states.2": "states.1", "states.6": "last"}),
        (["states.1", "states.6"], 6, {"states.1": "states.1", "states.6": "last"}),
        (["last", "states.2"], 6, {"states.2": "states.2", "last": "last"}),
    ],
)
def test_states_are_served_by_those_of_as_many_blocks_of_all(
    wanted: list[str], blocks: int, expected: dict[str, str]
) -> None:
    """Of six blocks; the second of six is nearer to the first of four than to the second."""
    torch.manual_seed(0)
    x = torch.randn(2, 3, 32, 32)
    target = aa.capture(Tower(8).eval(), x)
    routes = aa.plan(aa.capture(Tower(12, blocks).eval(), x, inner=True), target, outputs=wanted).routes
    assert {route.target: route.source for route in routes if not route.same_as} == expected
