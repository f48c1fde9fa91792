"""Vectors made of the last token come from that of the new module; of the first, from a mean, which is said."""

from __future__ import annotations

import runpy

import pytest
import torch
from torch import nn

import autoadapt as aa

IDS = torch.randint(3, 50, (3, 9), generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(9) < torch.tensor([9, 6, 4])[:, None]).long()


class Causal(nn.Module):
    """No token reads those behind it."""

    def __init__(self, width):
        super().__init__()
        torch.manual_seed(width)
        self.embed, self.mix = nn.Embedding(50, width), nn.MultiheadAttention(width, 1, batch_first=True)

    def forward(self, input_ids, attention_mask=None):
        tokens = self.embed(input_ids)
        size = tokens.shape[1]
        late = torch.ones(size, size, dtype=torch.bool, device=tokens.device).triu(1)
        hidden = None if attention_mask is None else attention_mask == 0
        return tokens + self.mix(tokens, tokens, tokens, key_padding_mask=hidden, attn_mask=late)[0]


class Pooled(nn.Module):
    def __init__(self, pick, width=4):
        super().__init__()
        self.body, self.head, self.pick = Causal(width), nn.Linear(width, width), pick

    def forward(self, input_ids, attention_mask=None):
        return self.head(self.pick(self.body(input_ids, attention_mask), attention_mask))


def by_index(tokens, mask):
    return tokens[torch.arange(len(tokens), device=tokens.device), mask.sum(1) - 1]


def by_gather(tokens, mask):
    places = (mask.sum(1) - 1)[:, None, None]
    return tokens.gather(1, places.expand(-1, 1, tokens.shape[2]))[:, 0]


LAST = {
    "at the end": lambda tokens, mask: tokens[:, -1],
    "by lengths": by_index,
    "by the size": lambda tokens, mask: tokens[:, tokens.shape[1] - 1],
    "cut": lambda tokens, mask: tokens[:, -1:].squeeze(1),
    "gathered": by_gather,
}
OTHERS = {
    "first": lambda tokens, mask: tokens[:, 0],
    "last of some": lambda tokens, mask: tokens[:, -1] + tokens.mean(1),
    "fourth": lambda tokens, mask: tokens[:, 3],
    "mean": lambda tokens, mask: tokens.mean(1),
}


@pytest.mark.sampled(2)
@pytest.mark.parametrize("way", LAST)
def test_a_vector_made_of_the_last_token_is_known_and_served_by_the_last_that_counts(way):
    old, new = Pooled(LAST[way]), Causal(6).eval()
    spec = aa.capture(old, (IDS, MASK)).outputs.leaves[0]
    assert spec.last_token
    assert not spec.first_token
    assert aa.TensorSpec.parse(spec.in_full).last_token
    net = aa.adapt(new, like=old, inputs=(IDS, MASK)).eval()
    assert "first" not in net.plan.routes[0].remark
    last = new(IDS, MASK)[torch.arange(3), MASK.sum(1) - 1]
    torch.testing.assert_close(net(IDS, MASK), net.adapters["output"](last))
    torch.testing.assert_close(net(IDS[1:2, :6], MASK[1:2, :6]), net(IDS, MASK)[1:2])
    front = torch.cat([torch.zeros(1, 2).long(), MASK[:1]], 1)
    tokens = torch.cat([torch.ones(1, 2).long(), IDS[:1]], 1)
    torch.testing.assert_close(net(tokens, front), net.adapters["output"](new(tokens, front)[:, -1]))


@pytest.mark.sampled(2)
@pytest.mark.parametrize("way", OTHERS)
def test_vectors_made_of_other_tokens_are_made_as_before(way):
    old = Pooled(OTHERS[way])
    spec, plan = aa.capture(old, (IDS, MASK)).outputs.leaves[0], aa.adapt(Causal(6), like=old, inputs=(IDS, MASK)).plan
    assert (spec.last_token, spec.first_token) == (False, way == "first")
    assert "mean over 1" in str(plan)
    assert ("first" in plan.routes[0].remark) == (way == "first")


FIRST = {
    "at 0": lambda tokens, mask: tokens[:, 0],
    "cut": lambda tokens, mask: tokens[:, :1].squeeze(1),
    "by the size": lambda tokens, mask: tokens[:, -tokens.shape[1]].tanh(),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("way", FIRST)
def test_a_mean_of_tokens_for_a_vector_made_of_the_first_alone_is_said(way):
    old = Pooled(FIRST[way])
    spec = aa.capture(old, (IDS, MASK)).outputs.leaves[0]
    assert spec.first_token
    assert not spec.last_token
    assert aa.TensorSpec.parse(spec.in_full).first_token
    told = "averaged over N: a mean of its tokens, while the old vector was made of the first token alone"
    assert aa.adapt(Causal(6), like=old, inputs=(IDS, MASK)).plan.routes[0].remark == told
    assert not aa.adapt(Pooled(FIRST[way], 6), like=old, inputs=(IDS, MASK)).plan.routes[0].remark


@pytest.mark.slow
def test_the_last_token_is_verified_without_false_alarm_and_stands_in_source(tmp_path):
    new = Causal(6).eval()
    net = aa.adapt(new, like=Pooled(by_index), inputs=(IDS, MASK)).eval()
    net.verify().raise_if_failed()
    aa.to_source(net, tmp_path / "last.py")
    made = runpy.run_path(str(tmp_path / "last.py"))["Adapted"](Causal(6))
    made.load_state_dict(net.state_dict())
    assert torch.equal(made.eval()(IDS, MASK), net(IDS, MASK))


class LastFrame(nn.Module):
    """What recurrent layers say at the end, through an output that they stack of single frames."""

    def __init__(self, width, batch_first=True):
        super().__init__()
        self.layers, self.batch_first = nn.GRU(5, width, batch_first=batch_first), batch_first

    def forward(self, x):
        frames = self.layers(x)[0]
        return frames[:, -1] if self.batch_first else frames[-1]


@pytest.mark.parametrize("batch_first", [True, False])
def test_the_last_frame_of_a_recurrent_network_is_served_by_the_last_of_convolutions(batch_first):
    class Frames(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Conv1d(5, 6, 3, padding=1)

        def forward(self, x):
            return self.layer(x.mT).mT

    new, x = Frames(), torch.randn(3, 7, 5)
    old = LastFrame(4, batch_first)
    given = x if batch_first else x.transpose(0, 1)
    net = aa.adapt(new, like=old, inputs=given)
    torch.testing.assert_close(net(given), net.adapters["output"](new(x)[:, -1]))
    assert net.plan.routes[0].remark == "its last token is read, padding or not, since no mask tells which count"
