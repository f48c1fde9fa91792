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
    """Tokens of so many frames each, of all bands or a part of them, behind others; no layer tells frames."""

    def __init__(self, tokens, width, *, others=0, rows=1):
        super().__init__()
        torch.manual_seed(tokens + width)
        size = (BANDS // rows, 48 * rows // tokens)
        self.cut, self.others = nn.Conv2d(1, width, size, stride=size), nn.Parameter(torch.randn(1, others, width))
        self.places = nn.Parameter(torch.randn(tokens, width))
        self.mix = nn.TransformerEncoderLayer(width, 2, width, batch_first=True, dropout=0)

    def forward(self, features):
        tokens = self.cut(features[:, None]).flatten(2).mT + self.places
        return self.mix(torch.cat([self.others.expand(len(tokens), -1, -1), tokens], 1))


@pytest.mark.sampled(1)
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


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("tokens", "frames"), [(24, "floor(N/2)"), (12, "floor(N/4)"), (16, "floor(N/3)")])
def test_frames_that_no_layer_tells_are_told_by_what_answers_to_them(tokens, frames):
    seen = aa.capture(Patches(tokens, 16).eval(), torch.randn(2, BANDS, 48))
    assert [str(*values.leaves) for values in (seen.inputs, seen.outputs)] == ["f32[B, 20, N]", f"f32[B, {frames}, 16]"]


@pytest.mark.slow
def test_frames_of_one_length_serve_those_of_another_rate_where_they_lie():
    x = torch.zeros(1, BANDS, 48)
    net = aa.adapt(Patches(24, 16).eval(), like=Patches(12, 16).eval(), inputs=x).eval()
    loud = x.clone()
    loud[:, :, 20:24] += 1
    assert int((net(loud) - net(x)).norm(dim=2).argmax()) == 5
    net.verify().raise_if_failed()


@pytest.mark.slow
@pytest.mark.parametrize("kinds", [{"others": 2, "rows": 2}, {"others": 1}, {"others": 2}, {"rows": 2}])
def test_a_grid_of_bands_and_frames_or_tokens_behind_others_are_no_frames(kinds):
    x, new = torch.randn(2, BANDS, 48), Patches(24, 16, **kinds).eval()
    count = 24 + kinds.get("others", 0)
    assert str(*aa.capture(new, x).outputs.leaves) == f"f32[B, {count}, 16]"
    told = f"its {count} tokens are no frames alone"
    for old in (Patches(24, 16), OneLength(), AnyLength(16)):
        with pytest.raises(aa.MatchError, match=told) as caught:
            aa.adapt(new, like=old.eval(), inputs=x)
        assert "tokens[:, others:].unflatten(1, (bands, frames)).mean(1)" in str(caught.value)
    other = Patches(12, 16, **kinds).eval()
    with pytest.raises(aa.MatchError, match=rf"there are {count - 12} points or tokens and {count} are wanted"):
        aa.adapt(other, like=new, inputs=x)
    with pytest.raises(aa.MatchError, match=rf"there are {count - 12} points or tokens and {count} are wanted"):
        aa.adapt(other, like=[f"f32[B, {count}, 16]"], inputs=x)
    wider = aa.adapt(new, like=Patches(24, 20, **kinds).eval(), inputs=x)  # as wide as there are bands
    assert [str(spec) for spec in wider.plan.routes[0].specs] == [f"f32[B, {count}, 16]", f"f32[B, {count}, 20]"]


def test_the_proposed_module_around_it_gives_frames():
    class Around(nn.Module):
        def __init__(self):
            super().__init__()
            self.new = Patches(24, 16, others=2, rows=2)

        def forward(self, features):
            tokens, others, bands, frames = self.new(features), 2, 2, 12
            return tokens[:, others:].unflatten(1, (bands, frames)).mean(1)

    net = aa.adapt(Around().eval(), like=AnyLength(), inputs=torch.randn(2, BANDS, 48)).eval()
    quiet = torch.zeros(1, BANDS, 96)
    loud = quiet.clone()
    loud[:, :, 56:64] = 1
    assert int((net(loud) - net(quiet)).norm(dim=2).argmax()) in (14, 15)


@pytest.mark.slow
def test_tokens_of_one_number_serve_each_other_and_a_wider_one_is_projected():
    x = torch.randn(2, BANDS, 48)
    new, old = Patches(24, 16).eval(), Patches(24, 24).eval()
    net = aa.adapt(new, like=old, inputs=x).eval()
    loud = x.clone()
    loud[:, :, 20:22] += 1
    assert [*(net(loud) - net(x)).norm(dim=2).argmax(1)] == [10, 10]
    assert aa.adapt(Patches(24, 24).eval(), like=old, inputs=x).plan.routes[0].steps == ()


class Turned(nn.Module):
    """What takes frames first, `[B, N, C]`, of what takes channels first."""

    def __init__(self, module):
        super().__init__()
        self.module = module

    def forward(self, features):
        return self.module(features.mT)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("first", "given_first"), [(True, True), (True, False), (False, True)])
def test_frames_first_are_stretched_as_channels_first_are(first, given_first):
    x = torch.randn(2, BANDS, 48)
    new, old = OneLength().eval(), AnyLength().eval()
    plain = aa.adapt(new, like=old, inputs=x).eval()
    turned = Turned(new) if first else new
    net = aa.adapt(turned, like=Turned(old) if given_first else old, inputs=x.mT if given_first else x).eval()
    net.adapters.load_state_dict(plain.adapters.state_dict())
    for frames in (48, 37, 100):
        features = torch.randn(3, BANDS, frames)
        torch.testing.assert_close(net(features.mT if given_first else features), plain(features))
    net.verify().raise_if_failed()


def test_words_of_one_number_are_not_stretched_and_the_number_is_said():
    class Words(nn.Module):
        def __init__(self, width, count=0):
            super().__init__()
            self.map, self.count = nn.Linear(5, width), count

        def forward(self, x):
            if self.count not in (0, x.shape[1]):
                raise ValueError(f"{self.count} words")
            return self.map(x)

    with pytest.raises(aa.MatchError, match=r"(?s)inputs.x, axis 1.*expected  N.*found     N 9 only.*whatever N is"):
        aa.adapt(Words(6, 9), like=Words(8), inputs=torch.randn(2, 9, 5))
