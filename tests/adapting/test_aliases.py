"""One tensor in two places is served once, and stands in both; leaves whose paths read alike are refused by name."""

from __future__ import annotations

import copy
from collections import namedtuple
from dataclasses import dataclass

import pytest
import torch
from small_models import Pyramid, stage
from torch import nn

import autoadapt as aa
from autoadapt.adapting.verification.alias_checks import broken_aliases
from autoadapt.errors import MatchError, SignatureError

IMAGE = torch.zeros(2, 3, 64, 64)


class Twice(nn.Module):
    """A last state that stands again at the end of the list of all of them, as transformers returns it."""

    def __init__(self, *channels, again=True):
        super().__init__()
        self.body, self.again = Pyramid(*channels), again

    def forward(self, x):
        states = self.body(x)
        return {"last": states[-1], "hidden": states if self.again else [*states[:-1], states[-1].clone()]}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("new", [Pyramid(6, 10, 20), Twice(6, 10, 20), Twice(6, 10, 20, again=False)])
def test_a_tensor_in_two_places_is_served_by_one_adapter(new):
    net = aa.adapt(new, like=Twice(4, 8, 16), inputs=IMAGE).eval()
    made = net(torch.randn(2, 3, 40, 72))
    assert made["last"] is made["hidden"][-1]
    assert {made["last"].shape, *(one.shape for one in made["hidden"])} == {
        (2, 16, 5, 9),
        (2, 4, 20, 36),
        (2, 8, 10, 18),
    }
    expected = net.adapters.last.project(new.eval()(torch.ones(1, 3, 64, 64))["last"]) if type(new) is Twice else None
    assert expected is None or torch.equal(net(torch.ones(1, 3, 64, 64))["hidden"][-1], expected)
    assert len(list(net.adapters.children())) == 3
    assert "is last" in str(net.plan)
    assert net.verify(IMAGE).passed
    twin = copy.deepcopy(net)(IMAGE)
    assert twin["last"] is twin["hidden"][-1]
    assert type(net.plan).model_validate_json(net.plan.model_dump_json()) == net.plan


def test_the_deepest_state_is_served_by_the_deepest_though_it_stands_first():
    class States(nn.Module):
        def __init__(self, wrap):
            super().__init__()
            self.stages, self.wrap = nn.ModuleList([stage(3, 8), stage(8, 8, 1), stage(8, 8, 1)]), wrap

        def forward(self, x):
            return self.wrap([x := one(x) for one in self.stages])

    net = aa.adapt(States(list), like=States(lambda states: {"last": states[-1], "hidden": states}), inputs=IMAGE)
    taken = [("last", "2"), ("hidden.0", "0"), ("hidden.1", "1"), ("hidden.2", "2")]
    assert [(route.target, route.source) for route in net.plan.routes] == taken


def test_a_choice_for_either_place_holds_for_both():
    old, new = Twice(4, 8), Pyramid(6, 10)
    for pairs in ({"hidden.1": "0"}, {"last": "0"}, {"last": "0", "hidden.1": "0"}):
        net = aa.adapt(new, like=old, inputs=IMAGE, pairs=pairs)
        assert {route.source for route in net.plan.routes if route.target in ("last", "hidden.1")} == {"0"}
    with pytest.raises(MatchError, match="since it is the very tensor last"):
        aa.adapt(new, like=old, inputs=IMAGE, pairs={"last": "0", "hidden.1": "1"})


def test_what_is_left_of_a_tensor_in_three_places_is_still_one_tensor():
    contract = aa.Signature.parse({"a": "f32[B]", "b": "f32[B] = a", "c": "f32[B] = a"}, inputs="f32[B]")
    kept = aa.plan(aa.Signature.parse({"x": "f32[B]"}, inputs="f32[B]"), contract, outputs=["b", "c"])
    assert [(route.target, route.source, route.same_as) for route in kept.routes] == [("b", "x", ""), ("c", "x", "b")]


def test_equal_tensors_for_one_tensor_are_told():
    contract = aa.capture(Twice(4, 8), IMAGE)
    last = torch.zeros(1)
    apart = {"last": last, "hidden.0": torch.ones(1), "hidden.1": last.clone()}
    (fault,) = broken_aliases(contract, apart, {}, " at 64x64")
    assert (fault.where, fault.expected) == ("hidden.1 at 64x64", "the tensor last itself")
    assert broken_aliases(contract, apart | {"hidden.1": last}, {}) == []
    (told,) = contract.diff(aa.capture(Twice(4, 8, again=False), IMAGE))
    assert (told.where, told.expected, told.found) == ("hidden.1", "the tensor last itself", "another tensor")
    assert not aa.verify(Twice(4, 8, again=False), contract, inputs=IMAGE).passed


class Returning(nn.Module):
    """Returns containers around two tensors that are made anew."""

    def __init__(self, wrap):
        super().__init__()
        self.conv, self.wrap = nn.Conv2d(3, 4, 1), wrap

    def forward(self, x):
        y = self.conv(x)
        return self.wrap(y, y.mean((2, 3)))


@pytest.mark.parametrize(
    ("wrap", "path"),
    [
        (lambda a, b: {1: a, "1": b}, "1"),
        (lambda a, b: {"a.b": a, "a": {"b": b}}, "a.b"),
        (lambda a, b: {"a": {"b": [a], "b.0": b}}, "a.b.0"),
        (lambda a, b: [{"x": {2: a, "2": b}}], "0.x.2"),
    ],
)
def test_leaves_whose_paths_read_alike_are_refused_by_name(wrap, path):
    said = f"two tensors are both called `{path}`"
    with pytest.raises(SignatureError, match=said) as refused:
        aa.capture(Returning(wrap), IMAGE)
    assert refused.value.mismatches[0].remedy == "give each a key of its own"
    with pytest.raises(SignatureError, match=said):
        aa.adapt(Pyramid(4, 8), like=Returning(wrap), inputs=IMAGE)
    with pytest.raises(SignatureError, match=said):
        aa.Signature.parse(wrap("f32[B]", "f32[B]"))


@dataclass
class Record:
    a: torch.Tensor
    b: torch.Tensor


class Wrapping(nn.Module):
    """A block of two layers that returns both results in a container."""

    def __init__(self, source, target, wrap):
        super().__init__()
        self.first, self.second, self.wrap = stage(source, target), stage(target, target, 1), wrap

    def forward(self, x):
        y = self.first(x)
        return self.wrap(y, self.second(y))


class Classifier(nn.Module):
    def __init__(self, wrap, taken):
        super().__init__()
        self.one, self.two, self.taken = Wrapping(3, 8, wrap), Wrapping(8, 16, wrap), taken
        self.head = nn.Linear(16, 10)

    def forward(self, x):
        return self.head(self.taken(self.two(self.taken(self.one(x)))).mean((2, 3)))


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("wrap", "taken", "taps"),
    [
        (Record, lambda made: made.b, ["one:b", "two:b"]),
        (lambda a, b: {1: a, 2: b}, lambda made: made[2], ["one:2", "two:2"]),
        (lambda a, b: {"output": b}, lambda made: made["output"], ["one.second", "two.second"]),
        (namedtuple("Both", "a b"), lambda made: made.b, ["one:b", "two:b"]),
        (lambda a, b: {1: a, "1": b}, lambda made: made["1"], ["one:1", "two:1"]),
        (lambda a, b: {"a.b": a, "b": b}, lambda made: made["b"], ["one:b", "two:b"]),
    ],
)
def test_a_tap_takes_the_tensor_that_its_path_was_noted_for(wrap, taken, taps):
    new = Classifier(wrap, taken).eval()
    net = aa.adapt(new, like=Pyramid(4, 8), inputs=IMAGE).eval()
    assert [route.source for route in net.plan.routes] == taps
    x = torch.randn(2, 3, 64, 64)
    whole = new.one.second(new.one.first(x))
    assert torch.equal(net(x)[0], net.adapters.get_submodule("0").project(whole))


class WithImage(nn.Module):
    """Levels behind the image itself, as encoders of segmentation models return them."""

    def __init__(self, *channels):
        super().__init__()
        self.body = Pyramid(*channels)

    def forward(self, image):
        return [image, *self.body(image)]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("project", ["needed", "always", "places"])
def test_an_output_that_is_the_input_itself_is_passed_on_whatever_is_projected(project):
    net = aa.adapt(Pyramid(6, 8), like=WithImage(4, 8), inputs=IMAGE, project=project)
    assert net(IMAGE)[0] is IMAGE
    assert net.verify(IMAGE).passed
    assert next([step.op for step in route.steps] for route in net.plan.routes) == []
