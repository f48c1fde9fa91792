"""Sequences of one length: Whisper's kind of encoder in the place of others, and others in its place."""

from __future__ import annotations

import pytest
import torch
from guests import guest
from torch import nn

import autoadapt as aa

BANDS = 20


class OneLength(nn.Module):
    """A convolution of stride 2 and learned positions, for so many frames of `[B, bands, frames]` alone."""

    def __init__(self, frames=48, width=16):
        super().__init__()
        torch.manual_seed(width)
        self.frames, self.conv = frames, nn.Conv1d(BANDS, width, 3, stride=2, padding=1)
        self.places = nn.Parameter(torch.randn(frames // 2, width))
        self.mix = nn.TransformerEncoderLayer(width, 2, width, batch_first=True, dropout=0)

    def forward(self, features):
        if features.shape[2] != self.frames:
            raise ValueError(f"expected {self.frames} frames")
        return self.mix(self.conv(features).mT + self.places)


class AnyLength(nn.Module):
    """Frames of a quarter of the rate."""

    def __init__(self, width=12):
        super().__init__()
        torch.manual_seed(width)
        self.first, self.second = (nn.Conv1d(one, width, 3, 2, 1) for one in (BANDS, width))

    def forward(self, features):
        return self.second(self.first(features).relu()).mT


def test_the_length_is_known_to_be_one_and_frames_are_a_part_of_it():
    seen = aa.capture(OneLength(), torch.randn(2, BANDS, 48))
    assert [str(spec) for spec in (*seen.inputs.leaves, *seen.outputs.leaves)] == [
        f"f32[B, {BANDS}, N]",
        "f32[B, floor(N/2), 16]",
    ]
    assert 48 in seen.axes["N"]
    assert 47 not in seen.axes["N"]


def test_a_module_of_one_length_serves_any_length_with_each_frame_in_its_place():
    new, old = OneLength().eval(), AnyLength()
    net = aa.adapt(new, like=old, inputs=torch.randn(2, BANDS, 48)).eval()
    for frames in (48, 37, 100):
        features = torch.randn(3, BANDS, frames)
        assert net(features).shape == old(features).shape
    quiet = torch.zeros(1, BANDS, 96)
    loud = quiet.clone()
    loud[:, :, 60:64] = 5
    moved = (net(loud) - net(quiet)).norm(dim=2)[0]
    assert int(moved.argmax()) in (14, 15, 16)
    net.verify().raise_if_failed()


def test_a_module_of_any_length_serves_one_of_one_length():
    old = OneLength()
    net = aa.adapt(AnyLength(), like=old, inputs=torch.randn(2, BANDS, 48))
    assert net(torch.randn(5, BANDS, 48)).shape == (5, 24, 16)
    net.verify().raise_if_failed()


def test_frames_are_not_mixed_as_channels_are():
    class Tokens(nn.Module):
        """As many numbers as there are tokens, of one length, and nothing tells that they are frames."""

        def __init__(self):
            super().__init__()
            self.map = nn.Linear(BANDS * 48, 26 * 16)

        def forward(self, features):
            return self.map(features.flatten(1)).view(-1, 26, 16)

    with pytest.raises(aa.MatchError, match="nothing in Tokens can serve"):
        aa.adapt(Tokens(), like=OneLength(), inputs=torch.randn(2, BANDS, 48))


@pytest.mark.guest
@pytest.mark.slow
def test_whisper_tells_its_length_and_serves_frames_of_any_other():
    transformers = guest("transformers")
    config = transformers.WhisperConfig(
        d_model=16,
        encoder_layers=2,
        encoder_attention_heads=2,
        encoder_ffn_dim=32,
        num_mel_bins=BANDS,
        max_source_positions=50,
    )
    new = transformers.models.whisper.modeling_whisper.WhisperEncoder(config).eval()
    net = aa.adapt(new, like=AnyLength(), inputs=torch.randn(2, BANDS, 64))
    assert net(torch.randn(1, BANDS, 37)).shape == (1, 10, 12)
    net.verify().raise_if_failed()


class Patches(nn.Module):
    """Tokens of so many frames of all bands each, of one length, behind a layer that does not tell frames."""

    def __init__(self, tokens, width):
        super().__init__()
        torch.manual_seed(tokens + width)
        self.cut = nn.Conv2d(1, width, (BANDS, 48 // tokens), stride=(BANDS, 48 // tokens))
        self.places = nn.Parameter(torch.randn(tokens, width))
        self.mix = nn.TransformerEncoderLayer(width, 2, width, batch_first=True, dropout=0)

    def forward(self, features):
        return self.mix(self.cut(features[:, None]).flatten(2).mT + self.places)


@pytest.mark.parametrize("width", [16, 24])
@pytest.mark.parametrize("bands", [20, 48])
@pytest.mark.parametrize("turned", [False, True])
def test_frames_are_told_from_as_many_channels_or_bands_by_what_answers_to_them(width, bands, turned):
    class Equal(OneLength):
        def __init__(self):
            super().__init__(width=width)
            self.conv = nn.Conv1d(bands, width, 3, stride=2, padding=1)

        def forward(self, features):
            return super().forward(features.mT if turned else features)

    seen = aa.capture(Equal().eval(), torch.randn(2, *([48, bands] if turned else [bands, 48])))
    given = f"f32[B, N, {bands}]" if turned else f"f32[B, {bands}, N]"
    assert [str(spec) for spec in (*seen.inputs.leaves, *seen.outputs.leaves)] == [
        given,
        f"f32[B, floor(N/2), {width}]",
    ]


def test_as_many_frames_as_channels_keep_their_places():
    new, old = OneLength(width=24).eval(), AnyLength()
    net = aa.adapt(new, like=old, inputs=torch.randn(2, BANDS, 48)).eval()
    quiet = torch.zeros(1, BANDS, 96)
    loud = quiet.clone()
    loud[:, :, 60:64] = 5
    moved = (net(loud) - net(quiet)).norm(dim=2)[0]
    assert int(moved.argmax()) in (14, 15, 16)


@pytest.mark.parametrize(
    ("new", "old"),
    [
        ((12, 16), (24, 16)),
        ((24, 16), (12, 16)),
        ((24, 24), (12, 24)),
    ],
)
def test_tokens_are_not_projected_to_another_number_of_them_where_channels_agree(new, old):
    x = torch.randn(2, BANDS, 48)
    with pytest.raises(aa.MatchError, match=rf"there are {new[0]} points or tokens and {old[0]} are wanted"):
        aa.adapt(Patches(*new).eval(), like=Patches(*old).eval(), inputs=x)
    with pytest.raises(aa.MatchError, match=rf"there are {new[0]} points or tokens and {old[0]} are wanted"):
        aa.adapt(Patches(*new).eval(), like=[f"f32[B, {old[0]}, {old[1]}]"], inputs=x)


def test_tokens_of_one_number_serve_each_other_and_a_wider_one_is_projected():
    x = torch.randn(2, BANDS, 48)
    new, old = Patches(24, 16).eval(), Patches(24, 24).eval()
    net = aa.adapt(new, like=old, inputs=x).eval()
    loud = x.clone()
    loud[:, :, 20:22] += 1
    assert [*(net(loud) - net(x)).norm(dim=2).argmax(1)] == [10, 10]
    assert aa.adapt(Patches(24, 24).eval(), like=old, inputs=x).plan.routes[0].steps == ()
