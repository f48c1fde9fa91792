"""A backbone whose `train()` returns nothing goes through every verb."""

import copy

import pytest
import torch
from small_models import image
from stateful_modules import Frozen, Segmenter
from torch import nn

import autoadapt as aa
from autoadapt.assembly import Registry
from autoadapt.contracts.costs import cost_of
from autoadapt.swapping.folding import fold
from autoadapt.testing import assert_adapts, assert_exports, assert_gradients_flow


@pytest.fixture
def old():
    torch.manual_seed(0)
    return Frozen(4, 8)


@pytest.fixture
def new():
    torch.manual_seed(1)
    return Frozen(6, 10)


@pytest.fixture
def net(old, new):
    return aa.adapt(new, like=old, inputs=image())


def modes(module):
    return [part.training for part in module.modules()]


def test_it_is_captured_planned_built_and_verified(old, new):
    x = image()
    before = modes(old), modes(new)
    source, target = aa.capture(new, x, inner=True), aa.capture(old, x)
    assert [str(spec) for spec in target.outputs.leaves] == [
        "f32[B, 4, ceil(H/2), ceil(W/2)]",
        "f32[B, 8, ceil(H/4), ceil(W/4)]",
    ]
    net = aa.build(new, aa.plan(source, target))
    net.verify(x).raise_if_failed()
    assert_adapts(net, like=old, inputs=x)
    assert (modes(old), modes(new)) == before


def test_it_is_captured_in_place(old):
    signature = aa.capture(Segmenter(old), image(), at="backbone")
    assert signature.outputs.paths == ("0", "1")


def test_it_is_adapted_and_returns_what_its_own_layers_do(net, new):
    with torch.no_grad():
        for made in (net, copy.deepcopy(net)):
            made.eval()
            new.eval()
            expected = [new.stages[0](image()), new(image())[1]]
            projected = [net.adapters.get_submodule(str(i))(level) for i, level in enumerate(expected)]
            assert all(map(torch.equal, made(image()), projected))


def test_it_is_swapped_and_folded(new, old):
    model = Segmenter(old)
    model.eval()
    aa.swap(model, "backbone", new, inputs=image())
    folded = fold(model, inputs=image())
    for left, right in zip(model(image()), folded(image()), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-4, atol=1e-5)


def test_it_is_calibrated(net, old):
    batches = list(torch.randn(32, 3, 32, 32).split(16))
    assert aa.calibrate(net, like=old, data=batches, head=Heads()).images > 0


class Heads(nn.Module):
    """One number from both levels."""

    def train(self, mode=True):
        super().train(mode)

    def forward(self, maps):
        return torch.cat([level.mean((2, 3)) for level in maps], 1)


def test_it_takes_weights_from_a_checkpoint(old):
    report = aa.transfer(old.state_dict(), Frozen(4, 8))
    assert report.ok


def test_it_is_assembled():
    registry = Registry()
    registry.register("backbone")(Frozen4)
    config = "input: f32[B, 3, 32, 32]\nbackbone: {type: Frozen4}\n"
    assert aa.assemble(config, registry=registry)(torch.zeros(1, 3, 32, 32))


class Frozen4(Frozen):
    """With widths of its own."""

    def __init__(self) -> None:
        super().__init__(4, 8)


def test_it_is_saved_and_restored(net, tmp_path):
    aa.save(net, tmp_path / "net")
    restored = aa.restore(tmp_path / "net", new=Frozen(6, 10))
    net.eval()
    restored.eval()
    assert all(map(torch.equal, restored(image()), net(image())))


def test_it_is_written_as_source_and_exported(net, new, tmp_path):
    aa.to_source(net, tmp_path / "net.py")
    aa.export(net, tmp_path / "net.pt2", (image(),))
    assert_exports(net, inputs=image())
    assert_gradients_flow(net, image())


def test_it_is_ranked(old):
    found = aa.rank({"frozen": Frozen(6, 10)}, old, data=[torch.randn(12, 3, 32, 32)], head=Heads())
    assert [(row.source, row.refused) for row in found.rows] == [("frozen", "")]


def test_its_cost_is_told(old):
    assert cost_of(old, image()).multiply_adds > 0
