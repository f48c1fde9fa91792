"""Arguments that the old module takes in `**kwargs`: what changes nothing passes, the rest is refused."""

from __future__ import annotations

import copy
import pickle
import runpy

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertForTokenClassification, DistilBertConfig, DistilBertModel

import autoadapt as aa


class Body(nn.Module):
    """A layer whose caller may ask for more, by names that `forward` does not list."""

    def __init__(self, width: int, **config: object) -> None:
        super().__init__()
        self.body = nn.Linear(4, width)
        self.config = type("Config", (), {})()
        vars(self.config).update(config)

    def forward(self, x, **kwargs):
        made = self.body(x)
        return (made, x) if kwargs.get("with_input") else made


class Scripted(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Linear(4, width)

    def forward(self, x):
        return self.body(x)


X = torch.randn(3, 4)


@pytest.fixture
def net():
    return aa.adapt(
        Scripted(6), like=Body(5, use_cache=True, with_input=False, _hidden=True, dtype=None), inputs=X
    ).eval()


def test_further_arguments_that_change_nothing_pass(net):
    for given in ({}, {"with_input": None}, {"with_input": False, "more": None}, {"use_cache": True}):
        assert torch.equal(net(X, **given), net(X))


@pytest.mark.parametrize("given", [{"with_input": True}, {"mask": X}, {"mode": "sum"}, {"other": False}])
def test_further_arguments_that_would_be_ignored_are_refused_with_what_to_do(net, given):
    (name,) = given
    with pytest.raises(ValueError, match=f"^{name} was None when .* inputs that hold the other {name}$"):
        net(X, **given)


def test_a_further_argument_that_was_given_is_told_apart_from_another_value():
    net = aa.adapt(Scripted(6), like=Body(5), inputs={"x": X, "with_input": True})
    assert [one.shape[-1] for one in net(X, with_input=True)] == [5, 4]
    with pytest.raises(ValueError, match="with_input was True when"):
        net(X, with_input=False)


def test_one_that_was_none_may_be_false_and_the_other_way_round():
    for value in (None, False):
        net = aa.adapt(Scripted(6), like=Body(5, with_input=False), inputs={"x": X, "with_input": value})
        assert torch.equal(net(X, with_input=None), net(X, with_input=False))


@pytest.mark.filterwarnings("ignore:.*torch.jit.script.*:FutureWarning", "ignore:The TorchScript type:UserWarning")
def test_the_code_copies_pickles_traces_and_exports_keep_them(net, tmp_path):
    assert (
        'def forward(self, x, **kwargs):\n    nothing_further(kwargs, {"use_cache": True, "with_input": False})\n'
        in net.code
    )
    aa.save(net, tmp_path / "net")
    plan = aa.Plan.model_validate_json(net.plan.model_dump_json())
    for one in (
        copy.deepcopy(net),
        pickle.loads(pickle.dumps(net)),
        aa.restore(tmp_path / "net", new=Scripted(6)),
        aa.build(net.backbone, plan),
    ):
        one(X, with_input=None)
        with pytest.raises(ValueError, match="with_input was None"):
            one(X, with_input=1)
    for one in (torch.fx.symbolic_trace(net), torch.export.export(net, (X,)).module(), torch.jit.script(net)):
        torch.testing.assert_close(one(X), net(X))
    torch.testing.assert_close(torch.fx.Interpreter(net).run(X), net(X))


def test_standalone_source_takes_and_refuses_them_alike(net, tmp_path):
    aa.to_source(net, tmp_path / "standalone.py")
    made = runpy.run_path(str(tmp_path / "standalone.py"))["Adapted"](Scripted(6))
    made.load_state_dict(net.state_dict())
    assert torch.equal(made(X, with_input=None, use_cache=True), net(X))
    with pytest.raises(ValueError, match="with_input was None"):
        made(X, with_input=True)


def test_a_tagger_asks_its_swapped_language_model_as_before():
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    new = DistilBertModel(DistilBertConfig(vocab_size=50, dim=12, n_layers=1, n_heads=2, hidden_dim=16)).eval()
    ids = torch.randint(0, 50, (2, 7))
    model = BertForTokenClassification(BertConfig(vocab_size=50, **sizes)).eval()
    aa.swap(model, "bert", new, inputs={"input_ids": ids})
    expected = model(ids).logits
    for given in ({"output_hidden_states": None}, {"output_hidden_states": False, "output_attentions": False}):
        assert torch.equal(model(input_ids=ids, **given).logits, expected)
    with pytest.raises(ValueError, match="output_hidden_states was None when this module was adapted"):
        model(input_ids=ids, output_hidden_states=True)


@pytest.mark.parametrize("value", [None, False])
def test_a_flag_that_the_config_sets_is_not_turned_off_without_a_word(net, value):
    with pytest.raises(ValueError, match=r"^use_cache was True when"):
        net(X, use_cache=value)


def test_without_a_config_nothing_but_none_passes():
    class Signed(Body):
        def forward(self, x, **kwargs):
            return self.body(x) if kwargs.get("positive", True) else -self.body(x)

    net = aa.adapt(Scripted(6), like=Signed(5), inputs=X)
    assert torch.equal(net(X, more=None), net(X))
    for value in (True, False):
        with pytest.raises(ValueError, match=r"^positive was None when"):
            net(X, positive=value)
