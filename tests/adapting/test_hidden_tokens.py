"""Hidden tokens: masks of every form count in averages, and what they hide moves nothing of what comes out."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import autoadapt as aa

IDS = torch.randint(3, 50, (2, 8), generator=torch.Generator().manual_seed(0))
TABLE = torch.arange(8) < torch.tensor([[8], [5]])
ADDED = torch.zeros(2, 8).masked_fill(~TABLE, -1e9)
PAIRS = TABLE[:, None] & TABLE[:, :, None]


class Reading(nn.Module):
    """Tokens that read each other where `may_read` lets them, and one vector, of the first of them."""

    def __init__(self, width: int, *, pooled: bool = False) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.embed, self.ask, self.pooled = nn.Embedding(50, width), nn.Linear(width, width), pooled

    def read(self, ids, added):
        x = self.embed(ids)
        made = x + (self.ask(x) @ x.mT + added).softmax(-1) @ x
        return (made, made[:, 0].tanh()) if self.pooled else made


class Lengths(Reading):
    def forward(self, ids, lengths):
        hidden = torch.arange(ids.shape[1], device=ids.device) >= lengths[:, None]
        return self.read(ids, torch.zeros(hidden.shape, device=ids.device).masked_fill(hidden, -1e9)[:, None])


class Shares(Lengths):
    def forward(self, ids, shares):
        return super().forward(ids, (shares * ids.shape[1]).round())


class Added(Reading):
    def forward(self, ids, bias):
        return self.read(ids, bias if bias.dim() == 3 else bias[:, 0] if bias.dim() == 4 else bias[:, None])


class Pairs(Reading):
    def forward(self, ids, mask):
        mask = mask[:, None] if mask.dim() == 2 and len(mask) == len(ids) else mask
        return self.read(ids, torch.zeros(mask.shape, device=mask.device).masked_fill(mask == 0, -1e9))


def cut(given):
    """The second item alone, without what is hidden."""
    for axis in range(given.dim()):
        given = given[(slice(None),) * axis + (slice(5),)] if given.shape[axis] == 8 else given
    return given[1:] if len(given) == 2 else given


FORMS = {
    "lengths": (Lengths, torch.tensor([8, 5]), torch.tensor([5]), torch.tensor([8, 8])),
    "shares": (Shares, torch.tensor([1.0, 0.625]), torch.tensor([1.0]), torch.ones(2)),
    "[B, N]": (Added, ADDED, cut(ADDED), ADDED * 0),
    "[B, 1, 1, N]": (Added, ADDED[:, None, None], cut(ADDED)[:, None, None], ADDED[:, None, None] * 0),
    "[B, 1, N]": (Pairs, TABLE[:, None], cut(TABLE)[:, None], TABLE[:, None] | True),
    "[B, N, N]": (Pairs, PAIRS.long(), cut(PAIRS).long(), PAIRS.long() * 0 + 1),
    "[B, 1, N, N]": (
        Added,
        ADDED[:, None, None].repeat(1, 1, 8, 1),
        cut(ADDED)[:, None, None].repeat(1, 1, 5, 1),
        None,
    ),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("form", FORMS)
def test_a_vector_of_a_sentence_does_not_change_with_its_padding_whatever_form_the_mask_has(form):
    kind, mask, alone, none = FORMS[form]
    net = aa.adapt(kind(6), like=kind(4, pooled=True), inputs=(IDS, mask))
    assert [str(spec.dims[1]) for spec in net.plan.target.outputs.leaves] == ["N", "4"]
    found, expected = net(IDS, mask)[1][1:], net(cut(IDS), alone)[1]
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    if none is not None:
        assert not torch.allclose(net(IDS, none)[1][1:], expected, atol=1e-2)


def test_one_mask_for_all_items_is_found_beside_tokens_of_any_number():
    inputs = IDS, TABLE[1].expand(8, 8)
    net = aa.adapt(Pairs(6), like=Pairs(4, pooled=True), inputs=inputs)
    assert [str(spec) for spec in net.plan.target.inputs.leaves] == ["i64[B, N]", "bool[N, N]"]
    found = net(*inputs)[1]
    torch.testing.assert_close(found, net(IDS[:, :5], TABLE[1, :5].expand(5, 5))[1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("form", ["lengths", "[B, N]", "[B, N, N]"])
def test_a_contract_that_is_written_has_the_masks_of_the_new_module(form):
    kind, mask, alone, _ = FORMS[form]
    net = aa.adapt(kind(6), like="f32[B, 4]", inputs=(IDS, mask))
    torch.testing.assert_close(net(IDS, mask)[1:], net(cut(IDS), alone), rtol=1e-4, atol=1e-5)


def test_a_written_contract_names_its_masks():
    like = aa.Signature.parse("f32[B, 4]", inputs={"ids": "i64[B, N]", "attention_mask": "i64[B, N]"})
    net = aa.adapt(Unmasked(6), like=like, inputs=(IDS,))
    expected = net.adapters["output"](net.backbone(IDS)[1, :5].mean(0))
    torch.testing.assert_close(net(IDS, TABLE.long())[1], expected)


class Unmasked(Reading):
    def forward(self, ids):
        return self.read(ids, 0)


class Led(Pairs):
    """One token more than went in stands in front of the others."""

    def __init__(self, width: int) -> None:
        super().__init__(width)
        self.first = nn.Parameter(torch.randn(1, 1, width))

    def forward(self, ids, mask):
        added = torch.zeros(mask.shape, device=mask.device).masked_fill(mask == 0, -1e9)
        x = torch.cat([self.first.expand(len(ids), -1, -1), self.embed(ids)], 1)
        return x + (self.ask(x) @ x.mT + nn.functional.pad(added, (1, 0))[:, None]).softmax(-1) @ x


class Pooled(Pairs):
    def forward(self, ids, mask):
        return super().forward(ids, mask)[:, 0]


class Averaged(Pairs):
    def forward(self, ids, mask):
        counted = mask[..., None]
        return (super().forward(ids, mask) * counted).sum(1) / counted.sum(1)


def test_a_learned_token_in_front_serves_what_was_made_of_the_first_token():
    new = Led(6)
    net = aa.adapt(new, like=Pooled(4), inputs=(IDS, TABLE))
    torch.testing.assert_close(net(IDS, TABLE), net.adapters["output"](new(IDS, TABLE)[:, 0]))


def test_a_mean_over_tokens_behind_a_class_token_leaves_out_what_is_hidden_and_nothing_else():
    new = Led(6)
    net = aa.adapt(new, like=Averaged(4), inputs=(IDS, TABLE))
    expected = net.adapters["output"](new(IDS, TABLE)[1, 1:6].mean(0))
    torch.testing.assert_close(net(IDS, TABLE)[1], expected)
    torch.testing.assert_close(net(IDS, TABLE)[1:], net(cut(IDS), cut(TABLE)), rtol=1e-4, atol=1e-5)


class Frames(nn.Module):
    """Frames of a few samples, each hidden where all of its samples are."""

    def __init__(self, width: int, stride: int) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.cut, self.stride = nn.Conv1d(1, width, stride, stride=stride), stride
        self.mix = nn.MultiheadAttention(width, 1, batch_first=True)

    def forward(self, wave, mask):
        x = self.cut(wave[:, None]).mT
        hidden = ~mask.bool().unflatten(1, (-1, self.stride)).any(-1)
        return x + self.mix(x, x, x, key_padding_mask=hidden, need_weights=False)[0]


def test_the_last_cell_that_counts_is_not_mixed_with_padding_at_another_stride():
    waves = torch.randn(2, 64, generator=torch.Generator().manual_seed(0))
    mask = (torch.arange(64) < torch.tensor([[64], [36]])).long()
    net = aa.adapt(Frames(6, 4), like=Frames(4, 8), inputs=(waves, mask))
    other = waves.clone()
    other[1, 36:] = 5
    torch.testing.assert_close(net(waves, mask)[1, :5], net(other, mask)[1, :5], rtol=1e-4, atol=1e-5)
    ones = torch.ones_like(mask)
    torch.testing.assert_close(net(waves, mask)[0], net(waves, ones)[0])


class Zeroing(Pairs):
    def forward(self, ids, mask):
        return super().forward(ids, mask) * mask[..., None]


class Packed(nn.Module):
    """A recurrent network that reads as far as each item is long."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.embed, self.rnn = nn.Embedding(50, 8), nn.GRU(8, width, batch_first=True)

    def forward(self, ids, lengths):
        packed = pack_padded_sequence(self.embed(ids), lengths.cpu(), batch_first=True, enforce_sorted=False)
        return pad_packed_sequence(self.rnn(packed)[0], batch_first=True, total_length=ids.shape[1])[0]


@pytest.mark.parametrize(
    ("new", "old", "given"),
    [(Pairs(6), Zeroing(4), TABLE.long()), (Lengths(6), Packed(4), torch.tensor([8, 5]))],
    ids=["multiplied", "packed"],
)
def test_what_the_old_module_makes_zero_at_hidden_tokens_is_zero(new, old, given):
    net = aa.adapt(new, like=old, inputs=(IDS, given))
    found = net(IDS, given)
    assert not found[~TABLE].any()
    torch.testing.assert_close(found[TABLE], net.adapters["output"](new(IDS, given))[TABLE])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["lengths", "[B, 1, 1, N]", "[B, N, N]"])
def test_masks_of_every_form_are_verified_without_false_alarm(form):
    kind, mask, *_ = FORMS[form]
    aa.adapt(kind(6), like=kind(4, pooled=True), inputs=(IDS, mask)).verify().raise_if_failed()


class Trailed(Led):
    """The same behind them."""

    def forward(self, ids, mask):
        added = torch.zeros(mask.shape, device=mask.device).masked_fill(mask == 0, -1e9)
        x = torch.cat([self.embed(ids), self.first.expand(len(ids), -1, -1)], 1)
        return x + (self.ask(x) @ x.mT + nn.functional.pad(added, (0, 1))[:, None]).softmax(-1) @ x


def test_a_mean_over_tokens_in_front_of_another_leaves_out_what_is_hidden_and_nothing_else():
    new = Trailed(6)
    net = aa.adapt(new, like=Pooled(4), inputs=(IDS, TABLE))
    made = new(IDS, TABLE)[1, [0, 1, 2, 3, 4, 8]]
    torch.testing.assert_close(net(IDS, TABLE)[1], net.adapters["output"](made.mean(0)))


@pytest.mark.slow
def test_a_vector_that_moves_with_what_is_hidden_fails_the_check_of_masks():
    net = aa.adapt(Trailed(6), like=Pooled(4), inputs=(IDS, TABLE))
    (check,) = [one for one in net.verify().checks if one.name == "masks"]
    assert check.outcome == "passed"
    (route,) = net.plan.routes
    mean = route.steps[0].model_copy(
        update={"where": route.steps[0].where.model_copy(update={"behind": 0, "front": 1})}
    )
    plan = net.plan.model_copy(update={"routes": (route.model_copy(update={"steps": (mean, *route.steps[1:])}),)})
    (check,) = [one for one in aa.build(net.backbone, plan).verify().checks if one.name == "masks"]
    assert check.outcome == "failed"
    assert "changes, by" in str(check.faults[0])


@pytest.mark.slow
def test_a_backbone_that_takes_no_mask_is_blamed_for_what_moves():
    net = aa.adapt(Unmasked(6), like=Pooled(4), inputs=(IDS, TABLE))
    (check,) = [one for one in net.verify().checks if one.name == "masks"]
    assert check.outcome == "passed"
    assert check.detail == "the bare backbone does not keep: what mask hides"


class Translating(nn.Module):
    """Tokens that read those of another sequence, each with its mask."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.embed, self.mix = nn.Embedding(50, width), nn.MultiheadAttention(width, 1, batch_first=True)

    def forward(self, source, source_mask, target, target_mask):
        x, y = self.embed(source), self.embed(target)
        y = y + self.mix(y, y, y, key_padding_mask=target_mask == 0, need_weights=False)[0]
        return y + self.mix(y, x, x, key_padding_mask=source_mask == 0, need_weights=False)[0]


def test_two_sequences_of_one_length_vary_apart_with_their_masks():
    seen = aa.capture(Translating(4), (IDS, TABLE.long(), IDS, TABLE.long()))
    assert [str(leaf.dims[1]) for leaf in seen.inputs.leaves] == ["N", "N", "N2", "N2"]
    assert str(seen.outputs.leaves[0]) == "f32[B, N2, 4]"
    assert [mask.axis for mask in seen.masks] == ["N", "N2"]


class Passing(nn.Module):
    """Nodes that get what stands at their edges."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.nodes, self.edges = nn.Linear(3, width), nn.Linear(2, width)

    def forward(self, x, edge_index, edge_attr, edge_weight):
        x = self.nodes(x)
        return x.index_add(0, edge_index[1], (x[edge_index[0]] + self.edges(edge_attr)) * edge_weight[:, None])


def test_as_many_edges_as_nodes_vary_apart():
    edges = torch.randint(0, 6, (2, 6), generator=torch.Generator().manual_seed(0))
    seen = aa.capture(Passing(4), (torch.randn(6, 3), edges, torch.randn(6, 2), torch.rand(6)))
    assert [str(leaf) for leaf in seen.inputs.leaves] == ["f32[N, 3]", "i64[2, E]", "f32[E, 2]", "f32[E]"]
    assert str(seen.outputs.leaves[0]) == "f32[N, 4]"


class Namesake(Pairs):
    """Arguments that are called as functions are which a file of source may need."""

    def forward(self, ids, pad, resize=None):
        return super().forward(ids, pad)


def test_arguments_may_be_called_like_functions_that_a_file_of_source_does_not_need(tmp_path):
    new = Namesake(6)
    net = aa.adapt(new, like=Namesake(4, pooled=True), inputs=(IDS, TABLE))
    aa.to_source(net, tmp_path / "net.py")
    space: dict[str, object] = {"__name__": "net"}
    exec((tmp_path / "net.py").read_text(encoding="utf-8"), space)
    other = space["Adapted"](new)
    other.load_state_dict(net.state_dict())
    for found, expected in zip(other(IDS, TABLE), net(IDS, TABLE), strict=True):
        assert torch.equal(found, expected)
