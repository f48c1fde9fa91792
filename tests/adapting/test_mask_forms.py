"""Masks of one form for a module that takes another: truth values, what is added to scores, tables, lengths."""

from __future__ import annotations

import pytest
import torch
from torch import nn

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


class Causal(Attending):
    """No token reads those behind it."""

    def forward(self, x, mask):
        y = self.embed(x)
        late = torch.ones(x.shape[1], x.shape[1]).triu(1).bool() | (mask == 0)[:, None]
        return y + (y @ y.mT / 2).masked_fill(late, -1e9).softmax(-1) @ y


def test_a_mask_that_is_taken_and_hides_nothing_is_said():
    told = "Ignoring takes mask, and no run showed it hide by that"
    for kind, expected in ((Ignoring, True), (Attending, False), (Causal, False)):
        net = aa.adapt(kind(6, "numbers"), like=Attending(4, "numbers"), inputs=(TOKENS, MASKS["numbers"]))
        assert (told in " ".join(net.plan.remarks)) is expected


def test_a_mask_of_tokens_that_read_only_those_before_them_is_found_by_what_it_hides_in_front():
    seen = aa.capture(Causal(4, "numbers"), {"x": TOKENS, "mask": MASKS["numbers"]})
    assert [str(mask) for mask in seen.masks] == ["mask hides along N where it is 0"]


class OfPairs(Attending):
    """Takes one mask for all items, of which token reads which."""

    def forward(self, x, mask):
        y = self.embed(x)
        return y + self.mix(y, y, y, attn_mask=mask == 0, need_weights=False)[0]


@pytest.mark.parametrize(("kind", "dims"), [(Attending, "[B, N]"), (OfPairs, "[N, N]")])
def test_as_many_items_as_tokens_hide_neither_what_is_a_mask_nor_how_it_lies(kind, dims):
    tokens, mask = torch.randn(8, 8, 5), torch.ones(8, 8).tril().long()
    seen = aa.capture(kind(4, "numbers"), (tokens, mask))
    assert [str(spec) for spec in seen.inputs.leaves] == ["f32[B, N, 5]", f"i64{dims}"]
    assert str(seen.outputs.leaves[0]) == "f32[B, N, 4]"
    assert [(one.argument, one.shared) for one in seen.masks] == [("mask", dims == "[N, N]")]


class Broadcasting(Attending):
    """What raises at no mask of another form: one of two axes gets a third, and one of four gets a fifth."""

    def forward(self, x, mask):
        y, four = self.embed(x), self.form in ("added", "heads")
        shown = mask[:, 0] if four else mask[:, None]
        shown = {"inverted": lambda: ~shown.bool(), "numbers": lambda: shown > 0}.get(self.form, lambda: shown)()
        return y + nn.functional.scaled_dot_product_attention(y, y, y, attn_mask=shown)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("given", "own"), [("added", "numbers"), ("heads", "inverted"), ("numbers", "inverted"), ("inverted", "numbers")]
)
def test_a_mask_that_makes_other_axes_of_what_comes_out_is_given_in_another_form(given, own):
    new = Broadcasting(6, own).eval()
    net = aa.adapt(new, like=Broadcasting(4, given).eval(), inputs=(TOKENS, MASKS[given]))
    expected = net.adapters["output"](new(TOKENS, MASKS[own]))
    torch.testing.assert_close(net(TOKENS, MASKS[given])[COUNTS], expected[COUNTS])
    assert net.plan.source.looks_ahead is net.plan.target.looks_ahead is True
    assert not net.plan.remarks
    net.verify().raise_if_failed()


def test_what_changes_its_axes_whatever_the_mask_is_refused_as_before():
    class Odd(Attending):
        def forward(self, x, mask):
            return self.embed(x)[(None,) * (x.shape[1] % 2)]

    with pytest.raises(aa.CaptureError, match="changes its number of axes"):
        aa.adapt(Odd(6, "numbers"), like=Broadcasting(4, "heads"), inputs=(TOKENS, MASKS["heads"]))


class OfLongest(Attending):
    """Makes a mask of as many tokens as the longest sample has, and so raises where each one has fewer."""

    def forward(self, x, lengths):
        y = self.embed(x)
        hidden = torch.arange(int(lengths.max())) >= lengths[:, None]
        return y + self.mix(y, y, y, key_padding_mask=hidden, need_weights=False)[0]


class Packing(nn.Module):
    """A recurrent module that returns as many tokens as the longest sample has."""

    def __init__(self, width):
        super().__init__()
        self.layer = nn.GRU(5, width, batch_first=True)

    def forward(self, x, lengths):
        packed = nn.utils.rnn.pack_padded_sequence(x, lengths.cpu(), batch_first=True, enforce_sorted=False)
        return nn.utils.rnn.pad_packed_sequence(self.layer(packed)[0], batch_first=True)[0]


@pytest.mark.parametrize("samples", [3, 1])
@pytest.mark.parametrize("kind", [lambda width: OfLongest(width, ""), lambda width: Attending(width, "lengths")])
@pytest.mark.parametrize("old", [lambda: OfLongest(4, ""), lambda: Packing(4), lambda: Attending(4, "lengths")])
def test_lengths_hide_also_where_the_longest_sample_must_be_whole(kind, old, samples):
    net = aa.adapt(kind(6).eval(), like=old().eval(), inputs=(TOKENS[:samples], LENGTHS[:samples]))
    assert [mask.form for mask in (*net.plan.target.masks, *net.plan.source.masks)] == ["lengths"] * 2
    other = TOKENS.masked_fill(~COUNTS[..., None], 7.0)
    torch.testing.assert_close(net(TOKENS, LENGTHS)[COUNTS], net(other, LENGTHS)[COUNTS])
    net.verify().raise_if_failed()


class Leaking(OfLongest):
    """A convolution in front reads across the end of what counts, as in the conformers of torchaudio."""

    def __init__(self, width):
        super().__init__(width, "")
        self.embed = nn.Sequential(nn.Linear(5, width), Turned(nn.Conv1d(width, width, 3, padding=1)))


class Turned(nn.Module):
    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return x + self.layer(x.mT).mT / 4


class NotNamed(Leaking):
    def forward(self, x, scale):
        return super().forward(x, scale)


def test_lengths_are_told_by_their_name_where_padding_leaks_a_little_and_the_leak_is_said():
    leaks = "what lengths hides still has a small effect within Leaking, and had none in Packing"
    net = aa.adapt(Leaking(6).eval(), like=Packing(4).eval(), inputs=(TOKENS, LENGTHS))
    assert [(mask.form, mask.loose) for mask in net.plan.source.masks] == [("lengths", True)]
    assert net.plan.remarks.count(leaks) == 1
    found = {check.name: check for check in net.verify().checks}["masks"]
    assert (found.outcome, found.blamed) == ("passed", ("what lengths hides",))
    alike = aa.adapt(Leaking(6).eval(), like=Leaking(4).eval(), inputs=(TOKENS, LENGTHS))
    assert "small effect" not in " ".join(alike.plan.remarks)
    assert aa.capture(NotNamed(6).eval(), (TOKENS, LENGTHS)).masks == ()


def test_leaking_lengths_are_not_dropped_for_a_mask():
    with pytest.raises(aa.AdaptError, match="Leaking takes lengths where Attending takes a mask"):
        aa.adapt(Leaking(6).eval(), like=Attending(4, "numbers"), inputs=(TOKENS, MASKS["numbers"]))


class Placed(Attending):
    """An optional argument of another meaning stands before the mask."""

    def forward(self, x, places=None, valid=None):
        x = x if places is None else x + places[..., None]
        return super().forward(x, torch.ones(x.shape[:2]).long() if valid is None else valid)


class ByName(Attending):
    def forward(self, x, *, valid=None):
        return super().forward(x, torch.ones(x.shape[:2]).long() if valid is None else valid)


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("given", ["numbers", pytest.param("inverted", marks=pytest.mark.slow), "lengths"])
@pytest.mark.parametrize("kind", [Placed, ByName])
def test_a_mask_goes_to_the_optional_argument_that_hides_the_same(kind, given, by_name):
    new = kind(6, "numbers")
    inputs = {"x": TOKENS, "mask": MASKS[given]} if by_name else (TOKENS, MASKS[given])
    net = aa.adapt(new, like=Attending(4, given), inputs=inputs)
    expected = net.adapters["output"](new(TOKENS, valid=MASKS["numbers"]))
    torch.testing.assert_close(net(TOKENS, MASKS[given]), expected)
    assert net.plan.remarks == (f"{kind.__name__} takes mask as its valid",)
