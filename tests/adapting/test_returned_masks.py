"""Masks that the old module returned for its frames are made of the one that is given, in whatever form."""

from __future__ import annotations

import runpy

import pytest
import torch
from torch import nn

import autoadapt as aa

WAVE = torch.randn(3, 200, generator=torch.Generator().manual_seed(0))
MASK = (torch.arange(200) < torch.tensor([200, 120, 77])[:, None]).long()


class Speech(nn.Module):
    """Frames of a wave, and how many or which of them count."""

    def __init__(self, form="", kernels=((10, 5), (3, 2))):
        super().__init__()
        torch.manual_seed(0)
        self.kernels, self.form = kernels, form
        self.layers = nn.ModuleList([nn.Conv1d(8 if i else 1, 8, *one) for i, one in enumerate(kernels)])
        self.mix = nn.MultiheadAttention(8, 1, batch_first=True)

    def forward(self, x, attention_mask=None):
        frames = x[:, None]
        for layer in self.layers:
            frames = layer(frames)
        frames = frames.mT
        count = x.new_full((len(x),), x.shape[1]).long() if attention_mask is None else attention_mask.sum(1)
        for kernel, stride in self.kernels:
            count = (count - kernel) // stride + 1
        shown = torch.arange(frames.shape[1], device=x.device) < count[:, None]
        read = self.mix(frames, frames, frames, key_padding_mask=~shown, need_weights=False)[0]
        made = {"truth": shown, "numbers": shown.long(), "hidden": ~shown, "lengths": count}
        return (read, made[self.form]) if self.form else read


@pytest.mark.sampled(1)
@pytest.mark.parametrize("form", ["truth", "numbers", "hidden", "lengths"])
@pytest.mark.parametrize("new", [Speech(), Speech("truth"), Speech("", ((8, 4), (4, 2)))], ids=["none", "own", "other"])
def test_a_mask_of_frames_is_that_of_the_samples_thinned(form, new):
    old = Speech(form)
    net = aa.adapt(new, like=old, inputs=(WAVE, MASK))
    assert torch.equal(net(WAVE, MASK)[1], old(WAVE, MASK)[1])
    assert torch.equal(net(WAVE)[1], old(WAVE)[1])
    short, mask = WAVE[:2, :151], MASK[:2, :151]
    found, expected = net(short, mask)[1], old(short, mask)[1]
    assert torch.equal(found, expected)
    assert found.dtype == expected.dtype


@pytest.mark.slow
def test_a_returned_mask_is_verified_saved_and_stands_in_source(tmp_path):
    net = aa.adapt(Speech(), like=Speech("hidden"), inputs=(WAVE, MASK)).eval()
    net.verify().raise_if_failed()
    aa.to_source(net, tmp_path / "masked.py")
    made = runpy.run_path(str(tmp_path / "masked.py"))["Adapted"](Speech())
    made.load_state_dict(net.state_dict())
    aa.save(net, tmp_path / "net")
    for again in (made.eval(), aa.restore(tmp_path / "net", Speech()).eval()):
        assert torch.equal(again(WAVE, MASK)[1], net(WAVE, MASK)[1])


def test_truth_values_that_are_no_mask_are_passed_on_as_before():
    class Loud(Speech):
        def forward(self, x, attention_mask=None):
            read = super().forward(x, attention_mask)
            return read, read.mean(2) > 0

    new = Loud()
    net = aa.adapt(new, like=Loud(), inputs=(WAVE, MASK))
    assert [route.source for route in net.plan.routes] == ["0", "1"]
    assert torch.equal(net(WAVE, MASK)[1], new(WAVE, MASK)[1])


@pytest.mark.slow
@pytest.mark.parametrize("form", ["truth", "lengths", "hidden"])
def test_verify_finds_a_returned_mask_that_is_not_the_one_that_is_given(form):
    net = aa.adapt(Speech(), like=Speech(form), inputs=(WAVE, MASK)).eval()
    assert net.verify().passed
    output = next(node for node in net.graph.nodes if node.op == "output")
    read, told = output.args[0]
    with net.graph.inserting_before(output):
        other = net.graph.call_function(torch.logical_not if form != "lengths" else torch.neg, (told,))
        output.args = ((read, other),)
    net.recompile()
    found = net.verify()
    assert not found.passed
    assert "what attention_mask says, for its own frames" in str(found)
