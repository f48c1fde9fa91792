"""Modules that take no more tokens than they have positions for, captured at that many and near it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autoadapt as aa


class Positions(nn.Module):
    """Token ids of at most so many words, with learned positions; their mean where the mask counts."""

    def __init__(self, most: int, width: int) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.embed, self.places = nn.Embedding(50, width), nn.Embedding(most, width)
        self.mix = nn.TransformerEncoderLayer(width, 2, width, batch_first=True, dropout=0)

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor | None = None) -> torch.Tensor:
        places = self.places.weight[None, : input_ids.shape[1]]
        hidden = None if attention_mask is None else attention_mask == 0
        mixed: torch.Tensor = self.mix(self.embed(input_ids) + places, src_key_padding_mask=hidden)
        return mixed


@pytest.mark.sampled(1)
@pytest.mark.parametrize("most", [20, 40, 77, 512])
@pytest.mark.parametrize("given", ["few", "all", "all but one"])
def test_the_number_of_tokens_varies_downwards(most: int, given: str) -> None:
    count = {"few": 8, "all": most, "all but one": most - 1}[given]
    ids = torch.randint(0, 50, (2, count))
    for inputs in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": torch.ones_like(ids)}):
        seen = aa.capture(Positions(most, 12).eval(), inputs)
        assert [str(spec) for spec in (*seen.inputs.leaves[:1], *seen.outputs.leaves)] == ["i64[B, N]", "f32[B, N, 12]"]


def test_padding_changes_nothing_after_an_adaptation_at_the_most_tokens() -> None:
    ids = torch.randint(0, 50, (2, 40))
    net = aa.adapt(Positions(40, 16), like=Positions(40, 12), inputs={"input_ids": ids}).eval()
    mask = (torch.arange(9) < 6).long().expand(2, -1)
    torch.testing.assert_close(net(ids[:, :9], mask)[:, :6], net(ids[:, :6], mask[:, :6]))
    net.verify().raise_if_failed()


def test_it_is_said_that_the_new_module_takes_fewer_tokens() -> None:
    ids = torch.randint(0, 50, (2, 38))
    net = aa.adapt(Positions(40, 12), like=Positions(512, 12), inputs={"input_ids": ids})
    assert "Positions takes N up to 40 and raises above, Positions any size" in net.plan.remarks
    other = aa.adapt(Positions(512, 12), like=Positions(40, 12), inputs={"input_ids": ids})
    assert not [remark for remark in other.plan.remarks if "raises above" in remark]
    assert str(aa.capture(Positions(40, 12), ids).axes["N"]) == "any size up to 40"
