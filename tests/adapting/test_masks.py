"""Masks: found by what they do, handed on in the meaning that the new module gives them, and counted in means."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autoadapt as aa
from autoadapt.adapting.mask_layers import counted_tokens, per_share, without_hidden

IDS = torch.randint(3, 50, (2, 8), generator=torch.Generator().manual_seed(0))
MASK = torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
WAVES = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))


class Attending(nn.Module):
    """Tokens that read each other, but for those that are hidden; and one vector, of the first of them."""

    def __init__(self, width: int, *, counts: bool = True, pooled: bool = False) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.embed = nn.Embedding(50, width)
        self.mix = nn.MultiheadAttention(width, 1, batch_first=True)
        self.counts, self.pooled = counts, pooled

    def attend(self, ids, mask):
        x = self.embed(ids)
        hidden = None if mask is None else (mask == 0 if self.counts else mask != 0)
        made = x + self.mix(x, x, x, key_padding_mask=hidden, need_weights=False)[0]
        return (made, made[:, 0].tanh()) if self.pooled else made

    def forward(self, ids, mask=None):
        return self.attend(ids, mask)


class Padded(Attending):
    """The same with a mask that is one where tokens are hidden."""

    def forward(self, ids, mask=None):
        return self.attend(ids, mask)


class Renamed(Attending):
    def forward(self, pad, tokens):
        return self.attend(tokens, pad)


class Typed(Attending):
    """Tokens that have one of two types."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.kinds = nn.Embedding(2, width)

    def forward(self, ids, kinds):
        return self.mix(*[self.embed(ids) + self.kinds(kinds)] * 3, need_weights=False)[0]


class Scaled(Attending):
    """Tokens with a feature of zero or one, which scales what it stands beside."""

    def forward(self, ids, weights):
        x = self.embed(ids) * (1 + weights[..., None])
        return self.mix(x, x, x, need_weights=False)[0]


class Frames(nn.Module):
    """Frames of 4 samples, each hidden where all of its samples are; hidden ones are no part of what others read."""

    def __init__(self, width: int, *, pooled: bool = False) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.cut = nn.Conv1d(1, width, 4, stride=4)
        self.mix = nn.MultiheadAttention(width, 1, batch_first=True)
        self.pooled = pooled

    def forward(self, wave, mask=None):
        x = self.cut(wave[:, None]).mT
        hidden = None if mask is None else ~mask.bool().unflatten(1, (-1, 4)).any(-1)
        made = x + self.mix(x, x, x, key_padding_mask=hidden, need_weights=False)[0]
        return (made, made[:, 0]) if self.pooled else made


def masks(module, *inputs):
    return [str(mask) for mask in aa.capture(module, inputs).masks]


def test_a_mask_is_what_hides_also_where_ones_hide_and_whatever_it_is_called():
    assert masks(Attending(4), IDS, MASK) == ["mask hides along N where it is 0"]
    assert masks(Attending(4), IDS, MASK.bool()) == ["mask hides along N where it is 0"]
    assert masks(Attending(4), IDS, MASK.float()) == ["mask hides along N where it is 0"]
    assert masks(Padded(4, counts=False), IDS, 1 - MASK) == ["mask hides along N where it is 1"]
    assert masks(Renamed(4, counts=False), 1 - MASK, IDS) == ["pad hides along N where it is 1"]


def test_a_mask_that_is_not_given_is_found_by_its_name_and_by_what_it_does():
    assert masks(Attending(4), IDS) == ["mask hides along N where it is 0"]
    assert masks(Padded(4, counts=False), IDS) == ["mask hides along N where it is 1"]


def test_zeros_and_ones_that_hide_nothing_are_no_mask():
    assert not masks(Typed(4), IDS, MASK)
    assert not masks(Scaled(4), IDS, MASK)


def test_the_role_of_a_mask_is_written_down_and_read_again(tmp_path):
    seen = aa.capture(Attending(4), (IDS, MASK))
    assert [leaf.role for leaf in seen.inputs.leaves] == ["other", "mask"]
    seen.save(tmp_path / "old.json")
    assert aa.Signature.load(tmp_path / "old.json") == seen
    assert "mask  mask hides along N where it is 0" in str(seen)


def test_samples_and_their_mask_are_one_axis_of_any_length():
    seen = aa.capture(Frames(4), (WAVES, MASK.repeat(1, 8)))
    assert [str(leaf) for leaf in seen.inputs.leaves] == ["f32[B, N]", "i64[B, N]"]
    assert str(seen.outputs.leaves[0]) == "f32[B, floor(N/4), 4]"


@pytest.mark.slow
@pytest.mark.parametrize("old", [Frames(4), Attending(4)])
def test_what_has_a_mask_is_verified_without_false_alarm(old):
    new, inputs = (Frames(6), (WAVES, MASK.repeat(1, 8))) if isinstance(old, Frames) else (Padded(6), (IDS, MASK))
    aa.adapt(new, like=old, inputs=inputs).verify().raise_if_failed()


def check_padding(net, ids, mask, count):
    """A vector of the second item is that of the item alone, without what is hidden."""
    alone, padded = net(ids[1:, :count], mask[1:, :count])[1], net(ids, mask)[1][1:]
    torch.testing.assert_close(padded, alone, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(net(ids, torch.ones_like(mask))[1][1:], alone, atol=1e-2)


@pytest.mark.parametrize("inputs", [(IDS, MASK), (IDS,)], ids=["given", "given later"])
def test_a_vector_of_a_sentence_does_not_change_with_its_padding(inputs):
    net = aa.adapt(Attending(6), like=Attending(4, pooled=True), inputs=inputs)
    check_padding(net, IDS, MASK, 5)
    assert "mean over 1 where mask is 1" in str(net.plan)
    torch.testing.assert_close(net(IDS)[1], net(IDS, torch.ones_like(MASK))[1])


def test_a_vector_of_a_recording_does_not_change_with_its_padding():
    mask = (torch.arange(64) < torch.tensor([[64], [40]])).long()
    net = aa.adapt(Frames(6), like=Frames(4, pooled=True), inputs=(WAVES, mask))
    check_padding(net, WAVES, mask, 40)


def test_a_vector_of_what_is_hidden_whole_is_a_number():
    values = torch.randn(2, 3, 5)
    ones = counted_tokens(values, torch.tensor([[False, False, False], [True, False, True]]), 1)
    found = per_share(without_hidden(values, ones).mean(1), ones.mean(1))
    assert torch.equal(found[0], torch.zeros(5))
    torch.testing.assert_close(found[1], values[1, [0, 2]].mean(0))


def test_a_mask_whose_ones_mean_the_opposite_is_inverted():
    old, new = Attending(4), Padded(6, counts=False)
    net = aa.adapt(new, like=old, inputs=(IDS, MASK))
    expected = net.adapters["output"](new(IDS, 1 - MASK))
    torch.testing.assert_close(net(IDS, MASK), expected)


def test_tokens_and_a_mask_that_stand_the_other_way_round_are_refused():
    with pytest.raises(aa.MatchError, match="cannot be called with the old module's inputs"):
        aa.adapt(Renamed(6, counts=False), like=Attending(4), inputs=(IDS, MASK))


def test_a_mask_given_later_whose_ones_mean_the_opposite_is_refused():
    net = aa.adapt(Padded(6, counts=False), like=Attending(4), inputs=IDS)
    with pytest.raises(ValueError, match="mask was None when this module was adapted"):
        net(IDS, MASK)


def test_a_file_of_source_counts_as_the_module_does(tmp_path):
    new = Attending(6)
    net = aa.adapt(new, like=Attending(4, pooled=True), inputs=(IDS, MASK))
    aa.to_source(net, tmp_path / "net.py")
    space: dict[str, object] = {"__name__": "net"}
    exec((tmp_path / "net.py").read_text(encoding="utf-8"), space)
    other = space["Adapted"](new)
    other.load_state_dict(net.state_dict())
    for found, expected in zip(other(IDS, MASK), net(IDS, MASK), strict=True):
        assert torch.equal(found, expected)
    assert aa.Plan.model_validate_json(net.plan.model_dump_json()) == net.plan


class Truths(Attending):
    """The same, for masks of truth values alone."""

    def forward(self, ids, mask):
        return self.attend(ids, ~~mask)


class Floats(Attending):
    """The same, for masks of numbers alone."""

    def forward(self, ids, mask):
        return self.attend(ids, torch.floor(mask) if mask.is_floating_point() else mask[None, None, None])


@pytest.mark.sampled
@pytest.mark.parametrize(("new", "own"), [(Truths(6), MASK.bool()), (Floats(6), MASK.float())], ids=["bool", "f32"])
@pytest.mark.parametrize("given", [MASK, MASK.bool(), MASK.float()], ids=["i64", "bool", "f32"])
def test_a_mask_is_cast_to_what_the_new_module_takes(new, own, given):
    net = aa.build(new, aa.plan(aa.capture(new, (IDS, own)), aa.capture(Attending(4), (IDS, given))))
    torch.testing.assert_close(net(IDS, given), net.adapters["output"](new(IDS, own)))


class Replaced(Attending):
    """Some tokens are given a vector of their own; all of them are read, and averaged."""

    def forward(self, ids, mask):
        x = torch.where(mask[..., None].bool(), self.embed.weight[0], self.embed(ids))
        return (x + self.mix(x, x, x, need_weights=False)[0]).mean(1)


class Softened(Attending):
    """What is hidden counts a little less."""

    def forward(self, ids, mask=None):
        x = self.embed(ids)
        scores = x @ x.mT - (0 if mask is None else (mask == 0)[:, None].float())
        return (scores.softmax(-1) @ x).mean(1)


class Positioned(Attending):
    """Tokens at places that may be given."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.places = nn.Embedding(20, width)

    def forward(self, ids, places=None):
        x = self.embed(ids) + self.places(torch.arange(ids.shape[1]) if places is None else places)
        return self.mix(x, x, x, need_weights=False)[0]


class Biased(Attending):
    """The same with what is added to scores: nothing, or minus infinity at what is hidden."""

    def forward(self, ids, bias=None):
        x = self.embed(ids)
        scores = x @ x.mT / 4
        return (scores if bias is None else scores + bias[:, None]).softmax(-1) @ x


class Named(Attending):
    def forward(self, ids, *, mask=None):
        return self.attend(ids, mask)


def test_tokens_that_are_replaced_or_count_less_are_not_hidden():
    assert not masks(Replaced(4), IDS, MASK)
    assert not masks(Softened(4), IDS, MASK)


@pytest.mark.parametrize("new", [Positioned(6), Attending(6), Biased(6)])
def test_what_has_another_name_and_another_meaning_is_not_passed_on_by_its_place(new):
    net = aa.adapt(new, like=Typed(4), inputs=(IDS, MASK))
    torch.testing.assert_close(net(IDS, MASK), net.adapters["output"](new(IDS)))
    assert "takes no kinds: what is given there changes nothing" in " ".join(str(net.plan).split())


def test_a_mask_is_given_as_the_bias_that_hides_the_same_and_a_bias_as_the_mask():
    bias = torch.zeros(2, 8).masked_fill(MASK == 0, -torch.inf)
    for new, old, given, own in ((Biased(6), Attending(4), MASK, bias), (Attending(6), Biased(4), bias, MASK)):
        net = aa.adapt(new, like=old, inputs=(IDS, given))
        torch.testing.assert_close(net(IDS, given), net.adapters["output"](new(IDS, own)))


def test_a_mask_that_is_taken_by_name_alone_is_handed_on():
    new = Named(6)
    net = aa.adapt(new, like=Attending(4), inputs=(IDS, MASK))
    torch.testing.assert_close(net(IDS, MASK), net.adapters["output"](new(IDS, mask=MASK)))
    assert "takes no" not in str(net.plan)


class Classed(Attending):
    """One token more than went in, in front or behind."""

    def __init__(self, width: int, *, behind: bool) -> None:
        super().__init__(width)
        self.token, self.behind = nn.Parameter(torch.randn(1, 1, width)), behind

    def forward(self, ids):
        x, token = self.embed(ids), self.token.expand(len(ids), 1, -1)
        x = torch.cat([x, token] if self.behind else [token, x], 1)
        return x + self.mix(x, x, x, need_weights=False)[0]


class Layered(Attending):
    """The same by a layer of torch, which takes truth values alone."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.layer = nn.TransformerEncoderLayer(width, 1, 8, dropout=0, batch_first=True)

    def forward(self, ids, key_padding_mask=None):
        return self.layer(self.embed(ids), src_key_padding_mask=key_padding_mask)


def test_a_mask_of_numbers_is_made_one_of_truth_values_where_the_new_module_takes_no_other():
    new = Layered(6).eval()
    net = aa.adapt(new, like=Attending(4), inputs=(IDS, MASK)).eval()
    torch.testing.assert_close(net(IDS, MASK), net.adapters["output"](new(IDS, MASK == 0)))


def test_tokens_are_not_mixed_where_a_new_module_adds_one():
    with pytest.raises(aa.MatchError, match=r"it has N \+ 1 tokens where N are wanted"):
        aa.adapt(Classed(6, behind=True), like=Attending(4), inputs=IDS)
    new = Classed(6, behind=False).eval()
    net = aa.adapt(new, like=Attending(4), inputs=IDS).eval()
    torch.testing.assert_close(net(IDS), net.adapters["output"](new(IDS)[:, 1:]))


class Swallowing(Attending):
    """Whatever else is given is not read."""

    def forward(self, ids, mask=None, **rest):
        return self.attend(ids, mask)


class TypedAndMasked(Typed):
    def forward(self, ids, mask=None, kinds=None):
        x = self.embed(ids) + (0 if kinds is None else self.kinds(kinds))
        return self.mix(x, x, x, key_padding_mask=None if mask is None else mask == 0, need_weights=False)[0]


def test_what_is_taken_among_others_and_not_read_is_said():
    kinds = torch.arange(8).expand(2, -1) % 2
    old, given = TypedAndMasked(4), {"ids": IDS, "mask": MASK, "kinds": kinds}
    net = aa.adapt(Swallowing(6), like=old, inputs=given)
    assert "Swallowing takes no kinds: what is given there changes nothing" in " ".join(str(net.plan).split())
    torch.testing.assert_close(net(**given), net(IDS, MASK))
    net = aa.adapt(TypedAndMasked(6), like=old, inputs=given)
    assert "takes no" not in str(net.plan)
    assert not torch.allclose(net(**given), net(IDS, MASK))
