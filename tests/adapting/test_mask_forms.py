"""Masks of one form for a module that takes another: truth values, what is added to scores, tables, lengths."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, CLIPTextConfig, CLIPTextModel

import autoadapt as aa

TOKENS = torch.randn(3, 8, 5, generator=torch.Generator().manual_seed(0))
LENGTHS = torch.tensor([8, 5, 3])
COUNTS = torch.arange(8) < LENGTHS[:, None]
ADDED = torch.zeros(3, 8).masked_fill(~COUNTS, -1e9)

MASKS = {
    "numbers": COUNTS.long(),
    "inverted": ~COUNTS,
    "added": ADDED[:, None, None],
    "added to rows": ADDED[:, None].expand(3, 8, 8),
    "table": COUNTS[:, None].expand(3, 8, 8),
    "heads": COUNTS[:, None, None],
    "lengths": LENGTHS,
    "shares": LENGTHS / 8,
}


def counted(form, mask, tokens):
    """Where a mask lets tokens count, `[B, N]`; raises where it is of another form."""
    ranks = {"numbers": 2, "inverted": 2, "added": 4, "added to rows": 3, "table": 3, "heads": 4}
    if mask.dim() != ranks.get(form, 1) or (form.startswith("added") and not mask.is_floating_point()):
        raise ValueError("another mask is taken")
    if form in ("lengths", "shares"):
        return torch.arange(tokens) < (mask * tokens if form == "shares" else mask).round()[:, None]
    told = {"inverted": mask == 0, "added": mask > -100, "added to rows": mask > -100}.get(form, mask != 0)
    return told.flatten(1, -2).any(1) if told.dim() > 2 else told


class Attending(nn.Module):
    """Tokens that read each other but for hidden ones; or their mean."""

    def __init__(self, width, form, *, pooled=False):
        super().__init__()
        torch.manual_seed(width)
        self.embed, self.mix = nn.Linear(5, width), nn.MultiheadAttention(width, 1, batch_first=True)
        self.form, self.pooled = form, pooled

    def forward(self, x, mask):
        y, counts = self.embed(x), counted(self.form, mask, x.shape[1])
        y = y + self.mix(y, y, y, key_padding_mask=~counts, need_weights=False)[0]
        weights = counts[..., None].to(y)
        return (y * weights).sum(1) / weights.sum(1) if self.pooled else y


class Scored(Attending):
    """What is given is added to scores, whatever it is."""

    def forward(self, x, mask):
        y = self.embed(x)
        return y + (y @ y.mT / 2 + (mask[:, None] if mask.dim() == 2 else mask.flatten(1, -2)[:, :1])).softmax(-1) @ y


def by_hand(net, new, mask):
    """The mean over what counts of what the new module makes of its own form of the mask."""
    weights = COUNTS[..., None].float()
    return net.adapters["output"]((new(TOKENS, mask) * weights).sum(1) / weights.sum(1))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("own", ["numbers", "inverted", "added", "table"])
@pytest.mark.parametrize("given", ["numbers", "added", "added to rows", "heads", "lengths"])
def test_what_one_form_hides_is_hidden_in_the_other(given, own):
    new = Attending(6, own)
    net = aa.adapt(new, like=Attending(4, given, pooled=True), inputs=(TOKENS, MASKS[given]))
    torch.testing.assert_close(net(TOKENS, MASKS[given]), by_hand(net, new, MASKS[own]))


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("given", "own"), [("lengths", "shares"), ("shares", "lengths")])
def test_lengths_and_shares_serve_each_other(given, own):
    new = Attending(6, own)
    net = aa.adapt(new, like=Attending(4, given, pooled=True), inputs=(TOKENS, MASKS[given]))
    torch.testing.assert_close(net(TOKENS, MASKS[given]), by_hand(net, new, MASKS[own]))


def test_tables_are_not_counted_to_lengths_since_they_may_hide_what_stands_in_front():
    with pytest.raises(aa.AdaptError, match="takes lengths where Attending takes a mask") as refused:
        aa.adapt(Attending(6, "lengths"), like=Attending(4, "numbers"), inputs=(TOKENS, MASKS["numbers"]))
    assert "mask i64[B, N], which may hide any token" in str(refused.value)
    assert "mask = (mask == 1).sum(-1), if padding stands behind" in str(refused.value)


@pytest.mark.parametrize("given", ["numbers", "inverted", "heads"])
def test_zeros_and_ones_are_not_added_to_scores(given):
    new = Scored(6, "")
    net = aa.adapt(new, like=Attending(4, given, pooled=True), inputs=(TOKENS, MASKS[given]))
    torch.testing.assert_close(net(TOKENS, MASKS[given]), by_hand(net, new, ADDED))


class Ignoring(Attending):
    def forward(self, x, mask):
        return self.embed(x) + 0 * mask.float().sum()


def test_a_table_that_stands_for_the_modules_own_mask_is_not_taken():
    """Tokens of CLIP saw those behind them, which they never did before: a table replaces its own mask."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    new = CLIPTextModel(CLIPTextConfig(**sizes, vocab_size=100, eos_token_id=99, bos_token_id=98)).eval()
    old = BertModel(BertConfig(**sizes, vocab_size=100)).eval()
    inputs = {"input_ids": torch.arange(24).reshape(3, 8), "attention_mask": MASKS["numbers"]}
    net = aa.adapt(new, like=old, inputs=inputs).eval()
    assert net.plan.source.looks_ahead is False
    assert any("depend on none behind them" in remark for remark in net.plan.remarks)
    assert torch.equal(net(**inputs).last_hidden_state, new(**inputs).last_hidden_state)
