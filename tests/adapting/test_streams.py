"""Blocks that their caller adds up: the residual stream is tapped where the next block reads it."""

from __future__ import annotations

import copy
import pickle
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from standalone_files import standalone
from torch import nn

import autoadapt as aa

LEVELS = 4
CONTRACT = aa.Signature.parse(["f32[B, 32, floor(H/8), floor(W/8)]"] * LEVELS, inputs={"x": "f32[B, 3, H, W]"})


class Branch(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.inner, self.outer = nn.LayerNorm(32), nn.Linear(32, 64), nn.Linear(64, 32)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.outer(self.inner(self.norm(x)).sin())


class Pairs(nn.Module):
    """Lists of lists of branches, as vit-pytorch writes transformers."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.ModuleList([Branch(), Branch()]) for _ in range(LEVELS)])
        self.norm = nn.LayerNorm(32)

    def rows(self) -> list[tuple[nn.Module, nn.Module]]:
        if isinstance(self, TwoLists):
            return list(zip(self.attending, self.feeding, strict=True))
        return [tuple(layer) for layer in self.layers]

    def ends(self, x: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for attend, forward in Pairs.rows(self):
            x = attend(x) + x
            x = forward(x) + x
            found.append(x)
        return [*found[:-1], self.norm(found[-1])]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.ends(x)[-1]


class WritingPairs(Pairs):
    """As `Pairs`, but what a block reads is written over by the sum."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        for attend, forward in self.rows():
            x += attend(x)
            x += forward(x)
        return self.norm(x)


class TwoLists(Pairs):
    """One list of each kind of branch."""

    def __init__(self) -> None:
        super().__init__()
        self.attending = nn.ModuleList([layer[0] for layer in self.layers])
        self.feeding = nn.ModuleList([layer[1] for layer in self.layers])
        del self.layers


class Wrapped(nn.Module):
    """Everything in a module of its own between embedding and head."""

    def __init__(self, make: type[Pairs] = Pairs) -> None:
        super().__init__()
        self.embed, self.transformer, self.head = nn.Conv2d(3, 32, 8, 8), make(), nn.Linear(32, 10)

    def tokens(self, x: torch.Tensor) -> torch.Tensor:
        return self.embed(x).flatten(2).mT + 1

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.transformer(self.tokens(x)).mean(1))


class Bare(Wrapped):
    """The blocks are parts of the model itself."""

    def __init__(self) -> None:
        super().__init__()
        self.layers, self.norm = self.transformer.layers, self.transformer.norm
        del self.transformer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(Pairs.ends(self, self.tokens(x))[-1].mean(1))  # type: ignore[arg-type]


def adapted(model: nn.Module) -> aa.AdaptedModule:
    return aa.adapt(model, like=CONTRACT, inputs=torch.zeros(1, 3, 64, 64)).eval()


def wanted(model: Wrapped, x: torch.Tensor) -> list[torch.Tensor]:
    trunk = model.transformer if hasattr(model, "transformer") else model
    return [end.mT.unflatten(2, (x.shape[2] // 8, -1)) for end in Pairs.ends(trunk, model.tokens(x))]  # type: ignore[arg-type]


def assert_same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> None:
    assert [torch.equal(a, b) for a, b in zip(found, expected, strict=True)] == [True] * LEVELS


@pytest.fixture
def image() -> torch.Tensor:
    return torch.randn(2, 3, 48, 64, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("make", [Pairs, TwoLists])
def test_levels_come_from_the_ends_of_blocks_that_are_sums(make, image):
    model = Wrapped(make).eval()
    assert_same(adapted(model)(image), wanted(model, image))


def test_where_the_model_itself_adds_up_the_last_level_is_what_its_norm_reads(image):
    model = Bare().eval()
    net = adapted(model)
    *first, last = net(image)
    normed = model.norm(last.flatten(2).mT).mT.unflatten(2, last.shape[2:])
    assert list(net.plan.taps)[-1] == "norm:inputs.0"
    assert_same([*first, normed], wanted(model, image))


def test_what_the_next_block_reads_is_named_so_in_the_plan():
    assert list(adapted(Wrapped()).plan.taps) == [
        "transformer.layers.1.0:inputs.0",
        "transformer.layers.2.0:inputs.0",
        "transformer.layers.3.0:inputs.0",
        "transformer",
    ]


def test_levels_are_spread_over_the_depth_of_the_stream():
    source = aa.capture(Wrapped(), torch.zeros(1, 3, 64, 64), inner=True)
    depths = {one.name: one.spec.depth for one in source.inner if one.is_read and len(one.spec.dims) > 2}
    assert list(depths.values()) == [2.0, 3.0, 4.0, 5.0]


def test_a_stream_that_is_written_over_is_copied_for_the_tap(image):
    model = Wrapped(WritingPairs).eval()
    net = adapted(model)
    assert [tap.overwritten for tap in net.plan.taps.values()] == [True, True, True, False]
    assert_same(net(image), wanted(model, image))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("make", [Pairs, WritingPairs])
def test_copies_pickles_exports_and_folders_give_the_same_stream(make, image, tmp_path):
    model = Wrapped(make).eval()
    net, expected = adapted(model), wanted(model, image)
    assert_same(copy.deepcopy(net)(image), expected)
    assert_same(pickle.loads(pickle.dumps(net))(image), expected)
    assert_same(torch.export.export(net, (image,)).module()(image), expected)
    aa.save(net, tmp_path / "net")
    assert_same(aa.restore(tmp_path / "net", Wrapped(make)).eval()(image), expected)


@pytest.mark.parametrize("make", [Pairs, WritingPairs])
def test_the_standalone_source_gives_the_same_stream(make, image, tmp_path):
    model = Wrapped(make).eval()
    net = adapted(model)
    written = standalone(net, Wrapped(make), tmp_path / "net.py").eval()
    assert_same(written(image), wanted(model, image))


def test_threads_tap_streams_of_their_own(image):
    model = Wrapped().eval()
    net, images = adapted(model), [image + i for i in range(8)]
    with ThreadPoolExecutor(4) as pool, torch.no_grad():
        for found, one in zip(pool.map(net, images), images, strict=True):
            assert_same(found, wanted(model, one))


def test_the_stream_trains_the_blocks_before_it_only(image):
    net = adapted(Wrapped()).train()
    net(image)[1].sum().backward()
    layers = net.backbone.transformer.layers
    assert [layers[i][1].outer.weight.grad is not None for i in range(LEVELS)] == [True, True, False, False]


def test_the_new_module_keeps_the_contract_of_verify():
    aa.verify(adapted(Wrapped()), CONTRACT, inputs=torch.zeros(1, 3, 64, 64)).raise_if_failed()


def test_a_tap_can_be_named_by_what_a_module_reads(image):
    model = Wrapped().eval()
    like = aa.Signature.parse(["f32[B, 32, floor(H/8), floor(W/8)]"], inputs={"x": "f32[B, 3, H, W]"})
    net = aa.adapt(model, like=like, inputs=image, taps={"0": "transformer.layers.2.0:inputs.0"}).eval()
    assert torch.equal(net(image)[0], wanted(model, image)[1])
