"""Outputs that come in another order than from shallow to deep serve, and are served, by their depth."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autoadapt as aa


class Stack(nn.Module):
    """Layers over tokens, all of whose states come out as a function tells."""

    def __init__(self, width, depth, tell, *, embed=None):
        super().__init__()
        torch.manual_seed(width)
        self.embed = embed or nn.Embedding(30, width)
        self.layers = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 2, width, 0, batch_first=True) for _ in range(depth)
        )
        self.tell = tell

    def forward(self, tokens):
        states = [self.embed(tokens)]
        for layer in self.layers:
            states.append(layer(states[-1]))
        return self.tell(states)


IDS = torch.randint(0, 30, (2, 7), generator=torch.Generator().manual_seed(0))


def served(new, old, inputs=IDS):
    net = aa.adapt(Stack(6, 4, new).eval(), like=Stack(8, 4, old).eval(), inputs=inputs)
    net.verify().raise_if_failed()
    return {route.target: route.source for route in net.plan.routes}


ORDERS = {
    "reversed": (lambda states: states[::-1], {"0": 4, "1": 3, "2": 2, "3": 1, "4": 0}),
    "last and all": (lambda states: [states[-1], *states], {"0": 4, "1": 0, "2": 1, "3": 2, "4": 3}),
    "all and first": (lambda states: [*states[1:], states[0]], {"0": 1, "1": 2, "2": 3, "3": 4, "4": 0}),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", ORDERS)
def test_what_comes_first_may_be_the_deepest(name):
    tell, depths = ORDERS[name]
    found = served(lambda states: states, tell)
    assert {target: int(source) for target, source in found.items() if target in depths} == depths
    found = served(tell, lambda states: states)
    assert found == {str(depth): path for path, depth in depths.items()}


@pytest.mark.slow
def test_a_dict_of_them_is_served_by_depth():
    found = served(lambda states: states, lambda states: {"end": states[4], "a": states[0], "b": states[2]})
    assert found["end"] == "4"
    assert found["a"] < found["b"] < "4"


@pytest.mark.slow
def test_some_of_them_are_served_from_where_they_stand_in_their_own_order():
    assert list(served(lambda states: states, lambda states: (states[4], states[1])).values()) == ["4", "1"]
    assert list(served(lambda states: states, lambda states: {3: states[3], 1: states[1]}).values()) == ["3", "1"]
    assert list(served(lambda states: states, lambda states: (states[1], states[4])).values()) == ["1", "4"]


def chosen(new, old, depth):
    """The states of a stack of as many layers that serve the outputs of one of 4 layers."""
    net = aa.adapt(Stack(6, depth, new).eval(), like=Stack(8, 4, old).eval(), inputs=IDS)
    return [int(route.source.removeprefix("layers.")) for route in net.plan.routes]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("at", "depth", "served"),
    [
        (slice(3), 8, [0, 2, 4]),
        (slice(3, 5), 8, [6, 8]),
        (slice(1, 3), 4, [1, 2]),
        (slice(5), 8, [0, 2, 4, 6, 8]),
        (slice(5), 2, [0, 1, 1, 2, 2]),
        (slice(1, 4), 3, [1, 2, 2]),
        (slice(1, 4), 5, [1, 3, 4]),
        (slice(2, 5), 3, [2, 2, 3]),
    ],
)
def test_states_come_from_behind_the_same_share_of_blocks(at, depth, served):
    assert chosen(lambda states: states, lambda states: tuple(states[at]), depth) == served


def test_so_do_blocks_that_are_tapped():
    assert chosen(lambda states: states[-1], lambda states: tuple(states[1:3]), 8)[0] == 1


class Picture(nn.Module):
    """Blocks over patches of an image, all of whose states come out; the last one by another name too."""

    def __init__(self, depth, *, states=True):
        super().__init__()
        torch.manual_seed(depth)
        self.patches = nn.Conv2d(3, 8, 16, 16)
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 8, 0, batch_first=True) for _ in range(depth))
        self.states = states

    def forward(self, x):
        found = [self.patches(x).flatten(2).mT]
        for block in self.blocks:
            found.append(block(found[-1]))
        return {"last": found[-1], "hidden_states": tuple(found)} if self.states else found[-1]


IMAGE = torch.randn(2, 3, 64, 64)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("blocks", "depth", "served", "remark"),
    [
        (3, 4, [0, 1, 3], "hidden_states.1 25 % (33 %), hidden_states.2 75 % (67 %)"),
        (4, 3, [0, 1, 2, 2], "hidden_states.1 33 % (25 %), hidden_states.2 67 % (50 %), hidden_states.3 67 % (75 %)"),
        (2, 4, [0, 2], ""),
    ],
)
def test_states_of_images_come_from_the_nearest_share_of_few_blocks_and_the_plan_says_from_which(
    blocks, depth, served, remark
):
    made = aa.adapt(Picture(depth).eval(), like=Picture(blocks).eval(), inputs=IMAGE).plan
    sources = {route.target: route.source for route in made.routes}
    assert [int(sources[f"hidden_states.{i}"].rpartition(".")[2]) for i in range(blocks)] == served
    told = f"share of the blocks before what is read, for the old one in brackets: {remark}"
    assert [one for one in made.remarks if "share of the blocks" in one] == [told] * bool(remark)


def test_blocks_alone_serve_states_of_few_blocks_by_the_nearest_share():
    made = aa.adapt(Picture(4, states=False).eval(), like=Picture(3).eval(), inputs=IMAGE).plan
    sources = {route.target: route.source for route in made.routes}
    assert [sources[f"hidden_states.{i}"] for i in (1, 2)] == ["blocks.0", "blocks.2"]


class Both(nn.Module):
    """An encoder, and a decoder that reads it: states of both come out."""

    def __init__(self, width, depth):
        super().__init__()
        self.encoder, self.decoder = (Stack(width, depth, lambda states: states) for _ in range(2))

    def forward(self, tokens, others):
        read = self.encoder(tokens)
        states = [self.decoder.embed(others)]
        for layer in self.decoder.layers:
            states.append(layer(states[-1] + read[-1].mean(1, keepdim=True)))
        return {"encoder": read, "decoder": states}


def test_the_share_is_that_of_an_encoder_or_of_a_decoder():
    signature = aa.capture(Both(8, 2).eval(), (IDS, IDS[:, :5]))
    assert [spec.share for spec in signature.outputs.leaves] == [0, 0.5, 1, 0, 0.5, 1]
    spec = signature.outputs.leaves[1]
    assert aa.TensorSpec.parse(spec.in_full).share == 0.5


def test_sequences_of_vectors_as_well():
    vectors = torch.randn(2, 7, 5)
    new = Stack(6, 3, lambda states: states, embed=nn.Linear(5, 6)).eval()
    old = Stack(8, 3, lambda states: states[::-1], embed=nn.Linear(5, 8)).eval()
    net = aa.adapt(new, like=old, inputs=vectors)
    assert [route.source for route in net.plan.routes] == ["3", "2", "1", "0"]


def test_the_order_is_a_part_of_the_contract_only_where_it_is_another():
    assert aa.capture(Stack(8, 2, lambda states: states), IDS).shallow_first == ()
    seen = aa.capture(Stack(8, 2, lambda states: states[::-1]), IDS)
    assert seen.shallow_first == ("2", "1", "0")
    assert aa.Signature.model_validate_json(seen.model_dump_json()) == seen


def test_outputs_beside_one_another_stay_in_their_order():
    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Embedding(30, 8)
            self.deep = nn.Sequential(nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 8))
            self.flat = nn.Linear(8, 8)

        def forward(self, tokens):
            tokens = self.embed(tokens)
            return self.deep(tokens), self.flat(tokens)

    assert aa.capture(Branches(), IDS).shallow_first == ()


def counted(states):
    return {"last": states[-1], "hidden_states": tuple(states)}


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("at", "depth", "served"),
    [
        ([1, 3, 4], 8, [2, 6, 8]),
        ([3], 8, [6]),
        ([1, 2, 3], 4, [1, 2, 3]),
    ],
)
def test_numbers_of_states_are_no_names_where_another_number_of_blocks_is_counted(at, depth, served):
    old = aa.capture(Stack(8, 4, counted).eval(), IDS)
    net = aa.adapt(
        Stack(6, depth, counted).eval(), like=old, inputs=IDS, outputs=[f"hidden_states.{number}" for number in at]
    )
    shown = [route.source.replace("last", f"hidden_states.{depth}").rpartition(".")[2] for route in net.plan.routes]
    assert list(map(int, shown)) == served


def test_lists_of_the_very_same_numbers_keep_them():
    old = Stack(8, 4, lambda states: {"maps": tuple(states[i] for i in (1, 2, 4))})
    new = Stack(6, 8, lambda states: {"maps": tuple(states[i] for i in (6, 7, 8))})
    routes = aa.adapt(new.eval(), like=old.eval(), inputs=IDS).plan.routes
    assert [route.source for route in routes] == ["maps.0", "maps.1", "maps.2"]


def test_as_many_levels_of_other_names_serve_each_other_in_order():
    old = Stack(8, 4, lambda states: {"maps": tuple(states[i] for i in (2, 3, 4))})
    new = Stack(6, 4, lambda states: {"levels": tuple(states[i] for i in (1, 2, 4))})
    routes = aa.adapt(new.eval(), like=old.eval(), inputs=IDS).plan.routes
    assert [route.source for route in routes] == ["levels.0", "levels.1", "levels.2"]
