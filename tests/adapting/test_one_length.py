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
