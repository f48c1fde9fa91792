"""Arguments that were no tensors when a module was probed: what is given there later is handed on or refused."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel, DistilBertConfig, DistilBertModel

import autoadapt as aa
from autoadapt.contracts.capturing import Arguments

IDS = torch.randint(0, 50, (2, 7))
MASK = torch.tensor([[1.0] * 7, [1.0] * 4 + [0.0] * 3])


class Masked(nn.Module):
    """Embeddings that a mask sets to zero and a number scales."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, width)

    def forward(self, ids, mask=None, *, scale=1.0, as_list=False):
        made = self.embed(ids) * scale
        made = made if mask is None else made * mask[..., None]
        return [made] if as_list else made


class Unmasked(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.embed = nn.Embedding(50, width)

    def forward(self, ids):
        return self.embed(ids)


class Tagger(nn.Module):
    """A tagger whose caller may give a mask, and one of its own that always names it."""

    def __init__(self) -> None:
        super().__init__()
        sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
        self.body = BertModel(BertConfig(vocab_size=50, **sizes))
        self.head = nn.Linear(16, 3)

    def forward(self, ids, mask=None):
        return self.head(self.body(ids, attention_mask=mask, position_ids=None).last_hidden_state)


def distilled() -> nn.Module:
    return DistilBertModel(DistilBertConfig(vocab_size=50, dim=12, n_layers=1, n_heads=2, hidden_dim=16)).eval()


def test_a_mask_that_is_given_only_later_hides_what_it_covers():
    net = aa.adapt(Masked(6), like=Masked(4), inputs=IDS)
    expected = net.adapters["output"](net.backbone(IDS, MASK))
    assert torch.equal(net(IDS, MASK), expected)
    assert torch.equal(net(IDS, mask=MASK), expected)
    assert not torch.equal(net(IDS), expected)


def test_a_number_is_handed_on_as_it_is_given():
    net = aa.adapt(Masked(6), like=Masked(4), inputs=IDS)
    assert torch.equal(net(IDS, scale=2), net.adapters["output"](net.backbone(IDS, scale=2.0)))


@pytest.mark.parametrize("given", [{"as_list": True}, {"mask": "all"}, {"scale": None}])
def test_what_may_change_the_container_is_refused_with_what_to_do(given):
    net = aa.adapt(Masked(6), like=Masked(4), inputs=IDS)
    name = next(iter(given))
    with pytest.raises(
        ValueError, match=rf"^{name} was .* when this module was adapted, .* {name} .*inputs that hold the other .*$"
    ):
        net(IDS, **given)


def test_what_the_new_module_does_not_take_is_refused_unless_it_is_as_it_was():
    net = aa.adapt(Unmasked(6), like=Masked(4), inputs=IDS)
    assert torch.equal(net(IDS, None, scale=1.0, as_list=False), net(IDS))
    with pytest.raises(ValueError, match="as_list was False when this module was adapted"):
        net(IDS, as_list=None)
    with pytest.raises(ValueError, match="mask was None when this module was adapted"):
        net(IDS, MASK)


def test_a_mask_that_was_given_and_that_the_new_module_does_not_take_is_remarked():
    net = aa.adapt(Unmasked(6), like=Masked(4), inputs=(IDS, MASK))
    assert "Unmasked takes no mask: it reads what that hides, which is zero" in " ".join(str(net.plan).split())
    assert not net(IDS, MASK)[MASK == 0].any()
    assert torch.equal(net(IDS, MASK)[MASK == 1], net(IDS)[MASK == 1])


def test_a_mask_that_was_given_may_be_left_out_where_both_modules_allow_that():
    net = aa.adapt(Masked(6), like=Masked(4), inputs=(IDS, MASK))
    assert torch.equal(net(IDS), net.adapters["output"](net.backbone(IDS)))


def test_a_tagger_on_another_language_model_reads_the_mask_of_later_calls():
    model = aa.swap(Tagger().eval(), "body", distilled(), inputs=IDS)
    one, longer = IDS[1:, :4], IDS[1:]
    torch.testing.assert_close(model(longer, MASK[1:])[:, :4], model(one), rtol=1e-4, atol=1e-5)
    assert (model(longer)[:, :4] - model(one)).abs().max() > 1e-4


class Odd(nn.Module):
    """Parameters of every kind, told apart by what they add."""

    def __init__(self, forward) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.forward = lambda *given, **named: self.body(forward(*given, **named))
        self.forward.__signature__ = inspect.signature(forward)


def between(x, mode=(1, 2), mask=None):
    return x if mask is None else x + mask


def many(x, *rest, mask=None):
    return sum(rest, x if mask is None else x + mask)


def by_place(x, /, mask=None, *, scale=1.0):
    return x * scale if mask is None else x * scale + mask


X = torch.randn(2, 4)


def test_a_default_that_no_code_can_state_keeps_its_place():
    net = aa.adapt(Odd(between), like=Odd(between), inputs=X)
    with pytest.raises(ValueError, match="mode was None when"):
        net(X, X)
    assert torch.equal(net(X, mask=X), net.backbone(X, mask=X))


def test_one_more_positional_argument_is_none_of_those_behind_any_number():
    net = aa.adapt(Odd(many), like=Odd(many), inputs=X)
    with pytest.raises(TypeError, match="2 positional arguments but 3"):
        net(X, X)


def test_arguments_that_go_by_place_alone_stay_in_front():
    net = aa.adapt(Odd(by_place), like=Odd(by_place), inputs=X)
    assert torch.equal(net(X, X, scale=3.0), net.backbone(X, X, scale=3.0))


def test_arguments_stay_in_the_order_of_the_example_where_the_module_tells_none():
    def forward(*given, scale):
        return given[0] * scale

    net = aa.adapt(Odd(forward), like=Odd(forward), inputs=Arguments({"args_0": X, "scale": 2.0}, positional=1))
    assert torch.equal(net(X, scale=2.0), net.backbone(X, scale=2.0))


def test_a_compiled_module_is_called_as_it_was_in_the_example():
    net = aa.adapt(Masked(6), like=torch.compile(Masked(4), backend="eager"), inputs=IDS)
    assert net(IDS).shape == (2, 7, 4)


def test_a_default_that_is_no_number_is_as_it_was():
    def forward(x, limit=math.nan):
        return x

    net = aa.adapt(Odd(forward), like=Odd(forward), inputs=X)
    assert torch.equal(net(X), net.backbone(X))


def test_arguments_of_one_name_meet_although_they_stand_at_other_places():
    def old(x, mask=None, bias=None):
        return x * (1 if mask is None else mask) + (0 if bias is None else bias)

    def new(x, bias=None, mask=None):
        return old(x, mask, bias)

    net = aa.adapt(Odd(new), like=Odd(old), inputs=(X, X + 1))
    assert torch.equal(net(X, X + 1), net.backbone(X, mask=X + 1))
    net = aa.adapt(Odd(new), like=Odd(old), inputs=(X, None, X + 1))
    assert torch.equal(net(X, None, X + 1), net.backbone(X, bias=X + 1))


def test_what_is_taken_under_another_name_is_remarked():
    def named(x, attention_mask=None):
        return x if attention_mask is None else x * attention_mask

    net = aa.adapt(Odd(named), like=Odd(by_place), inputs=(X, X + 1))
    assert "remark  Odd takes mask as its attention_mask" in str(net.plan)
    assert torch.equal(net(X, X + 1), net.backbone(X, X + 1))


def test_without_an_argument_of_the_example_the_default_of_the_old_module_counts():
    net = aa.adapt(Masked(6), like=Masked(4), inputs={"ids": IDS, "scale": 2.0})
    assert torch.equal(net(IDS), net.adapters["output"](net.backbone(IDS, scale=1.0)))


def test_copies_files_and_compilers_keep_what_is_handed_on(tmp_path):
    new = Masked(6)
    net = aa.adapt(new, like=Masked(4), inputs=IDS)
    expected = net(IDS, MASK)
    aa.to_source(net, tmp_path / "net.py")
    space: dict[str, object] = {"__name__": "net"}
    exec((tmp_path / "net.py").read_text(encoding="utf-8"), space)
    other = space["Adapted"](new)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other(IDS, MASK), expected)
    assert aa.Plan.model_validate_json(net.plan.model_dump_json()) == net.plan
    assert torch.equal(torch.compile(net, backend="eager", fullgraph=True)(IDS, MASK), expected)
    with pytest.raises(ValueError, match="as_list was False"):
        other(IDS, as_list=True)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning")
def test_a_script_is_refused_by_name():
    net = aa.adapt(Unmasked(6), like=Masked(4), inputs=IDS)
    with pytest.raises(aa.BuildError, match="optional arguments is not compiled"):
        torch.jit.script(nn.Sequential(net))
