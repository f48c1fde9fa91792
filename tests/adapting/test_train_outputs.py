"""Modules that return other tensors in train mode: what can be served is, and the rest is said."""

from typing import NamedTuple

import pytest
import torch
import torchvision
from small_models import image
from torch import nn

import autoadapt as aa


class Scores(NamedTuple):
    """What comes out in train mode."""

    logits: torch.Tensor
    auxiliary: torch.Tensor


class Auxiliary(nn.Module):
    """A classifier with a second head in train mode."""

    def __init__(self, classes=5):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, 2, 1), nn.BatchNorm2d(6), nn.ReLU())
        self.head, self.second = nn.Linear(6, classes), nn.Linear(6, classes)

    def forward(self, x):
        pooled = self.body(x).mean((2, 3))
        logits = self.head(pooled)
        return Scores(logits, self.second(pooled)) if self.training else logits


class Plain(Auxiliary):
    """The same with one head."""

    def forward(self, x):
        return self.head(self.body(x).mean((2, 3)))


class AuxiliaryOutside(Auxiliary):
    """No inner module returns the logits as they are."""

    def forward(self, x):
        pooled = self.body(x).mean((2, 3))
        return Scores(self.head(pooled) * 2, self.second(pooled)) if self.training else self.head(pooled) * 2


def test_what_train_mode_returns_is_captured():
    signature = aa.capture(Auxiliary(), image())
    assert [str(spec) for spec in signature.outputs.leaves] == ["f32[B, 5]"]
    assert signature.train_outputs.paths == ("logits", "auxiliary")
    assert "in train mode  Scores of 2" in str(signature)
    assert aa.capture(Plain(), image()).train_outputs is None


def test_a_new_module_with_auxiliary_outputs_serves_in_both_modes():
    new = Auxiliary()
    net = aa.adapt(new, like=Plain(), inputs=image(), pairs={"output": "output"})
    for mode in (True, False):
        net.train(mode)
        new.train(mode)
        expected = new(image())
        assert torch.equal(net(image()), expected.logits if mode else expected)
    assert "Auxiliary returns Scores of 2 (logits, auxiliary) in train mode" in net.plan.remarks[0]
    net.verify(image()).raise_if_failed()


def test_it_is_refused_where_no_inner_module_returns_the_output():
    with pytest.raises(aa.PlanError) as caught:
        aa.adapt(AuxiliaryOutside(), like=Plain(), inputs=image(), pairs={"output": "output"})
    assert str(caught.value) == (
        "AuxiliaryOutside returns something else in train mode\noutput\n  expected  f32[B, 5]\n"
        "  found     Scores of 2 (logits, auxiliary) in train mode\n"
        "  try       taps={...} names an inner module that returns it"
    )


def test_what_an_old_module_returns_in_train_mode_alone_is_said():
    net = aa.adapt(Plain(7), like=Auxiliary(), inputs=image())
    said = "the adapted module returns in both what it does in eval mode"
    assert net.plan.remarks == (f"Auxiliary returns Scores of 2 (logits, auxiliary) in train mode; {said}",)
    assert "auxiliary" in str(net.plan)
    net.train()
    assert net(image()).shape == (2, 5)


class AuxiliaryMap(nn.Module):
    """A segmenter whose second output is something else in eval mode; `give` makes its container."""

    def __init__(self, in_eval, give, width):
        super().__init__()
        self.body, self.head = nn.Conv2d(3, width, 3, 2, 1), nn.Conv2d(width, 5, 1)
        self.in_eval, self.give = in_eval, give

    def forward(self, x):
        maps = self.body(x)
        return self.give(maps, self.head(maps) if self.training else self.in_eval)


def named(maps, second):
    return {"out": maps, "aux": second}


def only_in_train(maps, second):
    return {"out": maps} if second is None else {"aux": second, "out": maps}


def second_first(maps, second):
    return second, maps


def second_of_list(maps, second):
    return [maps, (second,) if isinstance(second, torch.Tensor) else second]


def longer(maps, second):
    return [maps * 2] if second is None else [second, maps * 2]


def read_map(returned):
    found = returned.values() if isinstance(returned, dict) else returned
    return max((one for one in found if isinstance(one, torch.Tensor)), key=lambda one: one.shape[1])


AUXILIARY = {
    "None beside it": (None, named, "aux as f32[2, 5, 16, 16]"),
    "an empty list": ([], named, "aux as f32[2, 5, 16, 16]"),
    "None before it": (None, second_first, "0 as f32[2, 5, 16, 16]"),
    "an empty tuple in a list": ((), second_of_list, "1.0 as f32[2, 5, 16, 16]"),
    "a key of train mode": (None, only_in_train, "dict of 2 (aux, out)"),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("case", AUXILIARY)
def test_what_train_mode_adds_beside_an_output_leaves_it_in_its_place(case):
    in_eval, give, found = AUXILIARY[case]
    with_auxiliary, x = AuxiliaryMap(in_eval, give, 6), image()[..., :32, :32]
    plain = AuxiliaryMap(None, lambda maps, second: {"out": maps}, 6)
    new, old = aa.adapt(with_auxiliary, like=plain, inputs=x), aa.adapt(plain, like=with_auxiliary, inputs=x)
    for mode in (True, False):
        assert torch.equal(new.train(mode)(x)["out"], read_map(with_auxiliary.train(mode)(x)))
        assert torch.equal(read_map(old.train(mode)(x)), plain(x)["out"])
    said = f"AuxiliaryMap returns {found} in train mode"
    assert new.plan.remarks == (f"{said}; what it returns in eval mode is taken in both",)
    assert old.plan.remarks == (f"{said}; the adapted module returns in both what it does in eval mode",)


def test_another_tensor_at_the_place_of_an_output_in_train_mode_is_refused():
    plain = AuxiliaryMap(None, lambda maps, second: {"out": maps}, 6)
    with pytest.raises(aa.PlanError, match=r"found     list of 2 \(0, 1\) in train mode"):
        aa.adapt(AuxiliaryMap(None, longer, 6), like=plain, inputs=image())


@pytest.mark.slow
def test_googlenet_speaks_like_a_resnet_in_both_modes():
    new = torchvision.models.googlenet(weights=None, init_weights=False, aux_logits=True)
    net = aa.adapt(
        new, like=aa.Signature.parse("f32[B, 1000]", inputs="f32[B, 3, H, W]"), inputs=torch.zeros(2, 3, 64, 64)
    )
    for mode in (True, False):
        net.train(mode)
        assert net(torch.zeros(2, 3, 64, 64)).shape == (2, 1000)


class MoreWithGradients(Plain):
    """Returns its map as well where gradients are on, whatever the mode, for a loss."""

    def forward(self, x):
        maps = self.body(x)
        scores = self.head(maps.mean((2, 3)))
        return (scores, maps) if torch.is_grad_enabled() else scores


def test_outputs_that_come_where_gradients_are_on_are_said():
    assert aa.capture(MoreWithGradients(), image()).train_outputs.paths == ("0", "1")
    plan = aa.adapt(Plain(), like=MoreWithGradients(), inputs=image()).plan
    assert "MoreWithGradients returns tuple of 2 (0, 1) in train mode" in str(plan)


class AsksForTargets(Plain):
    """Raises in train mode, where it has no targets."""

    def forward(self, x, targets=None):
        if self.training and targets is None:
            raise ValueError("targets should be given in train mode")
        return super().forward(x)


def test_that_a_module_raises_in_train_mode_is_said():
    said = "ValueError: targets should be given in train mode"
    assert f"in train mode  raises {said}" in str(aa.capture(AsksForTargets(), image()))
    plan = aa.adapt(AsksForTargets(), like=Plain(), inputs=image()).plan
    assert plan.remarks == (f"AsksForTargets raises in train mode, as the adapted one will: {said}",)
    plan = aa.adapt(Plain(), like=AsksForTargets(), inputs=image()).plan
    assert plan.remarks == (f"AsksForTargets raises in train mode, and the adapted one may not: {said}",)


class Remembering(nn.Module):
    """Tokens, and in eval mode what the next call may read, as XLNet's `mems`."""

    def __init__(self, width):
        super().__init__()
        self.embed, self.layer = nn.Embedding(20, width), nn.Linear(width, width)

    def forward(self, ids):
        tokens = self.embed(ids)
        read = self.layer(tokens)
        return {"tokens": read} if self.training else {"tokens": read, "memory": read.detach() + 1}


def test_what_only_eval_mode_returns_serves_nothing_that_something_else_does():
    class Pooled(Remembering):
        def forward(self, ids):
            tokens = self.layer(self.embed(ids))
            return {"tokens": tokens, "vector": tokens.mean(1)}

    ids = torch.randint(20, (2, 7))
    net = aa.adapt(Remembering(6), like=Pooled(4), inputs=ids)
    assert [route.source for route in net.plan.routes] == ["tokens", "tokens"]
    assert net.train()(ids)["vector"].shape == (2, 4)
    with pytest.raises(aa.PlanError, match="returns something else in train mode"):
        aa.adapt(Remembering(6), like=Pooled(4), inputs=ids, pairs={"vector": "memory"})
