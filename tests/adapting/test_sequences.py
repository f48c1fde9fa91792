"""Sequences: what a module returns is resampled along the tokens, and nothing in front of its transformer is taken."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import transformers as hf
from torch import nn

import autoadapt as aa
from autoadapt.contracts.signature import AxisSizes

SLOW = pytest.mark.slow
WAVES = torch.randn(2, 320, generator=torch.Generator().manual_seed(0))


class Speech(nn.Module):
    """Convolutions of several strides, as speech models have them, and blocks of attention behind these."""

    def __init__(self, width: int, strides: tuple[int, ...], blocks: int = 2) -> None:
        super().__init__()
        widths = [1, *[width] * len(strides)]
        layers = [
            nn.Sequential(nn.Conv1d(*pair, s, stride=s), nn.GELU())
            for pair, s in zip(pairwise(widths), strides, strict=True)
        ]
        self.stem = nn.Sequential(*layers)
        self.blocks = nn.ModuleList(
            nn.TransformerEncoderLayer(width, 1, width, batch_first=True) for _ in range(blocks)
        )

    def forward(self, wave):
        tokens = self.stem(wave[:, None]).mT
        for block in self.blocks:
            tokens = block(tokens)
        return tokens


class Listing(Speech):
    """The same, and what each block returned."""

    def forward(self, wave):
        listed = [self.stem(wave[:, None]).mT]
        for block in self.blocks:
            listed.append(block(listed[-1]))
        return {"last": listed[-1], "hidden": tuple(listed[1:])}


@pytest.mark.parametrize("strides", [(2, 2, 2), pytest.param((2, 2, 4), marks=SLOW), pytest.param((4, 4), marks=SLOW)])
def test_an_output_of_another_stride_goes_before_what_stands_in_front_of_the_transformer(strides):
    old, new = Speech(4, (2, 2)).eval(), Speech(6, strides).eval()
    net = aa.adapt(new, like=old, inputs=WAVES).eval()
    (route,) = net.plan.routes
    assert route.source == "output"
    other = WAVES.clone()
    other[:, -16:] += 1
    assert net(WAVES).shape == old(WAVES).shape
    assert (net(other) - net(WAVES))[:, 0].abs().max() > 0  # the first frame has seen the last sample
    assert net.plan.kept is None or net.plan.kept.share == 1


def test_frames_of_another_stride_stand_where_those_of_the_old_module_do():
    old, new = Speech(4, (2, 2)).eval(), Speech(6, (2, 2, 4)).eval()
    net = aa.adapt(new, like=old, inputs=WAVES).eval()
    mid = net.adapters["output"](new(WAVES)).detach()
    found = net(WAVES).detach()
    centres = (torch.arange(80) * 4 + 1.5 - 7.5) / 16  # of the old frames, in new ones
    left = centres.clamp(0, 19).floor().long()
    share = (centres.clamp(0, 19) - left)[:, None]
    expected = mid[:, left] * (1 - share) + mid[:, (left + 1).clamp(max=19)] * share
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_hidden_states_of_another_stride_are_those_of_the_blocks():
    net = aa.adapt(Listing(6, (2, 2, 2), 4), like=Listing(4, (2, 2), 2), inputs=WAVES)
    sources = {route.target: route.source for route in net.plan.routes}
    assert sources["last"] == "last"
    assert sources["hidden.0"].startswith("hidden.")
    assert "stem" not in str(net.plan.taps)


def test_that_the_new_module_takes_no_inputs_as_short_is_remarked_and_part_of_the_contract():
    sizes = {"B": AxisSizes(example=2), "N": AxisSizes(example=64, smallest=8, bounded=True)}
    old = aa.Signature.parse("f32[B, floor(N/4), 4]", inputs="f32[B, N]", name="Old", axes=sizes)
    new = aa.Signature.parse("f32[B, floor(N/16), 4]", inputs="f32[B, N]", name="New", axes=sizes)
    made = aa.plan(new, old)
    assert "New takes N from 16 on and raises below, Old from 8 on" in made.remarks
    assert (8 in made.target.axes["N"], 16 in made.target.axes["N"]) == (False, True)
    assert not made.inputs[0].steps


SPEECH = {
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "conv_dim": (8, 8, 8),
    "conv_kernel": (10, 3, 3),
    "num_feat_extract_layers": 3,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
}


@pytest.mark.slow
@pytest.mark.parametrize("strides", [(5, 2, 4), (5, 4, 4)])
def test_a_speech_model_of_another_stride_serves_one_with_all_of_its_layers(strides):
    old = hf.HubertModel(hf.HubertConfig(hidden_size=20, conv_stride=(5, 2, 2), **SPEECH)).eval()
    new = hf.Wav2Vec2Model(hf.Wav2Vec2Config(hidden_size=16, conv_stride=strides, **SPEECH)).eval()
    mask = (torch.arange(1600) < torch.tensor([[1600], [960]])).long()
    waves = torch.randn(2, 1600)
    net = aa.adapt(new, like=old, inputs={"input_values": waves, "attention_mask": mask})
    assert [route.source for route in net.plan.routes] == ["last_hidden_state"]
    found = net(input_values=waves, attention_mask=mask).last_hidden_state
    assert (net(input_values=waves).last_hidden_state - found)[1, 0].abs().max() > 1e-4
    net.verify().raise_if_failed()


class Swapped(nn.Module):
    """Two outputs in one order or the other."""

    def __init__(self, *names: str) -> None:
        super().__init__()
        torch.manual_seed(len(names[0]))
        self.first, self.second, self.names = nn.Linear(6, 8), nn.Linear(8, 8), names

    def forward(self, x):
        early = self.first(x)
        made = {"early": early, "last": self.second(early.relu())}
        return {name: made[name] for name in self.names}


def test_outputs_are_served_by_those_of_the_same_name_in_whatever_order_they_come():
    new, x = Swapped("early", "last"), torch.randn(2, 7, 6)
    net = aa.adapt(new, like=Swapped("last", "early"), inputs=x)
    for name, found in net(x).items():
        torch.testing.assert_close(found, new(x)[name])


def test_what_serves_a_second_output_for_want_of_one_of_that_name_is_told():
    net = aa.adapt(Swapped("last"), like=Swapped("last", "early"), inputs=torch.randn(2, 7, 6))
    assert [route.source for route in net.plan.routes] == ["last", "last"]
    assert "returns nothing of that name, and last serves `last` too" in " ".join(str(net.plan).split())


class Hearing(Speech):
    """The last hidden state, and what the convolutions made of the wave, where that is asked for."""

    def __init__(self, width: int, strides: tuple[int, ...], *names: str) -> None:
        super().__init__(width, strides)
        self.names = names

    def forward(self, wave):
        features = self.stem(wave[:, None]).mT
        tokens = features
        for block in self.blocks:
            tokens = block(tokens)
        return {name: {"last": tokens, "features": features}[name] for name in self.names}


@pytest.mark.parametrize("strides", [(2, 2), (2, 2, 2)])
def test_the_last_hidden_state_is_served_by_that_of_its_name_at_any_stride(strides):
    old, new = Hearing(4, (2, 2), "last", "features"), Hearing(6, strides, "last")
    routes = aa.adapt(new, like=old, inputs=WAVES).plan.routes
    assert [route.source for route in routes] == ["last", "last"]


class Shared(nn.Module):
    """One block of attention over embedded tokens, run twice, as ALBERT runs its only layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Linear(5, width)
        self.block = nn.TransformerEncoderLayer(width, 1, width, batch_first=True)
        self.pooler = nn.Linear(width, width)

    def forward(self, x):
        tokens = self.block(self.block(self.embed(x)))
        return {"last": tokens, "pooled": self.pooler(tokens[:, 0])}


def test_a_block_that_runs_twice_serves_a_tensor_without_name_from_its_last_run():
    new, x = Shared(6).eval(), torch.randn(2, 7, 5)
    net = aa.adapt(new, like=nn.Linear(5, 8), inputs=x).eval()
    torch.testing.assert_close(net(x), net.adapters["output"](new(x)["last"]))


class Led(nn.Module):
    """Patches of a waveform behind learned tokens."""

    def __init__(self, patch, leading):
        super().__init__()
        self.patch, self.leading = nn.Conv1d(1, 8, patch, patch), nn.Parameter(torch.ones(1, leading, 8))

    def forward(self, x):
        cells = self.patch(x).mT
        return torch.cat([self.leading.expand(len(cells), -1, -1), cells], 1)


@pytest.mark.parametrize(("old", "new", "told"), [(2, 1, True), (2, 0, True), (1, 2, False), (0, 0, False)])
def test_a_sequence_that_is_stretched_over_leading_tokens_is_told(old, new, told):
    net = aa.adapt(Led(32, new), like=Led(16, old), inputs=torch.zeros(2, 1, 512))
    assert (f"of which {old} are leading ones, no cells" in net.plan.routes[0].remark) == told
    net.verify().raise_if_failed()


@pytest.mark.parametrize("old", [2, 1, 0])
def test_leading_tokens_of_sequences_stay_as_they_are_and_cells_are_brought_to_the_old_places(old):
    new, x = Led(32, 2).eval(), torch.randn(2, 1, 512)
    net = aa.adapt(new, like=Led(16, old), inputs=x).eval()
    found, given = net(x), new(x)
    assert torch.equal(found[:, :old], given[:, :old])
    cells = nn.functional.interpolate(given[:, 2:].mT, 32, mode="linear").mT
    torch.testing.assert_close(found[:, old:], cells)
    assert not net.plan.routes[0].remark.startswith("all its tokens")
    net.verify().raise_if_failed()


class Shown(Led):
    """The same, where what leads depends on the input, or is moved after that."""

    def __init__(self, patch, how):
        super().__init__(patch, 2)
        self.how = how

    def forward(self, x):
        cells = self.patch(x).mT
        front = cells[:, :2] if self.how == "given" else self.leading.expand(len(cells), -1, -1)
        tokens = torch.cat([front, cells], 1)
        return tokens.flip(1) if self.how == "turned" else tokens


@pytest.mark.parametrize("how", ["given", "turned"])
def test_tokens_that_are_not_known_to_lead_are_stretched_as_all_others_and_that_is_told(how):
    made = aa.adapt(Shown(32, how), like=Led(16, 2), inputs=torch.zeros(2, 1, 512)).plan
    assert made.source.outputs.leaves[0].leading == 0
    assert "of which 2 are leading ones, no cells" in made.routes[0].remark


def test_leading_tokens_are_part_of_the_text_of_a_spec():
    spec = aa.capture(Led(16, 2), torch.zeros(2, 1, 512)).outputs.leaves[0]
    assert spec.leading == 2
    assert aa.TensorSpec.parse(spec.in_full).leading == 2
