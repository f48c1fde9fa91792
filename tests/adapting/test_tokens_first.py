"""Sequences of tokens before samples, `[N, B, C]`, as recurrent layers and transformers of torch take them."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autoadapt as aa

TOKENS = torch.randn(9, 2, 5, generator=torch.Generator().manual_seed(0))
HIDDEN = torch.arange(9) >= torch.tensor([[9], [5]])
"""The last four tokens of the second sample."""


class Recurrent(nn.Module):
    def __init__(self, width: int, *, batch_first: bool) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.layer = nn.LSTM(5, width, batch_first=batch_first)

    def forward(self, x):
        return self.layer(x)[0]


class Attending(nn.Module):
    """Tokens that read each other but for hidden ones, as they are, zero where hidden, or averaged over the others."""

    def __init__(self, width: int, end: str = "", *, batch_first: bool) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.embed = nn.Linear(5, width)
        self.layer = nn.TransformerEncoderLayer(width, 1, 16, 0.0, batch_first=batch_first)
        self.end, self.axis = end, int(batch_first)

    def forward(self, x, mask=None):
        made = self.layer(self.embed(x), src_key_padding_mask=mask)
        mask = torch.zeros(made.shape[1 - self.axis], made.shape[self.axis], dtype=torch.bool) if mask is None else mask
        counts = ~(mask if self.axis else mask.T)[..., None]
        if self.end == "mean":
            return (made * counts).sum(self.axis) / counts.sum(self.axis)
        return made * counts if self.end == "zero" else made


class Frames(nn.Module):
    """Frames that read those before them, `[B, T, C, H, W]` or with frames first."""

    def __init__(self, width: int, *, batch_first: bool) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.cut, self.axis = nn.Conv2d(3, width, 4, 4), int(batch_first)

    def forward(self, x):
        return self.cut(x.flatten(0, 1)).unflatten(0, x.shape[:2]).cumsum(self.axis)


def test_frames_before_samples_are_turned():
    clips = torch.randn(5, 2, 3, 16, 16)
    new = Frames(6, batch_first=True)
    net = aa.adapt(new, like=Frames(4, batch_first=False), inputs=clips)
    other = clips.clone()
    other[1, 1] += 1
    moved = (net(clips) - net(other)).abs().amax((2, 3, 4)) > 1e-4
    assert moved.T.tolist() == [[False] * 5, [False] + [True] * 4]
    image = nn.Conv2d(3, 6, 4, 4)
    net = aa.adapt(image, like=Frames(4, batch_first=False), inputs=clips)
    made = net.adapters["output"](image(clips.flatten(0, 1)))
    torch.testing.assert_close(net(clips), made.unflatten(0, (5, 2)))


def turned(module, values, *rest):
    return module(values.transpose(0, 1), *rest).transpose(0, 1)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", [Recurrent, Attending])
@pytest.mark.parametrize("shape", [(9, 2, 5), (9, 1, 5), (20, 3, 5), (5, 5, 5)], ids=str)
def test_the_axis_of_samples_is_the_one_that_nothing_is_read_across(kind, shape):
    for batch_first, order in ((False, "N, B"), (True, "B, N")):
        seen = aa.capture(kind(4, batch_first=batch_first).eval(), torch.randn(shape))
        assert str(seen.inputs.leaves[0]) == f"f32[{order}, 5]"
        assert str(seen.outputs.leaves[0]) == f"f32[{order}, 4]"
    assert str(aa.capture(nn.Linear(5, 4), torch.randn(shape)).inputs.leaves[0]) == "f32[B, N, 5]"


def test_states_of_a_recurrent_layer_list_the_samples_of_its_input():
    seen = aa.capture(nn.LSTM(5, 4, num_layers=2), (TOKENS, (torch.zeros(2, 2, 4), torch.zeros(2, 2, 4))))
    assert [str(leaf) for leaf in seen.inputs.leaves] == ["f32[N, B, 5]", "f32[2, B, 4]", "f32[2, B, 4]"]
    two = aa.capture(nn.TransformerDecoderLayer(8, 2, 16).eval(), (torch.randn(9, 2, 8), torch.randn(7, 2, 8)))
    assert [str(leaf) for leaf in (*two.inputs.leaves, *two.outputs.leaves)] == [
        "f32[N, B, 8]",
        "f32[N2, B, 8]",
        "f32[N, B, 8]",
    ]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("old_first", [False, True])
@pytest.mark.parametrize("kind", [Recurrent, Attending])
def test_samples_are_not_read_as_tokens_where_the_new_module_takes_the_other_order(kind, old_first):
    old, new = Recurrent(4, batch_first=old_first), kind(6, batch_first=not old_first).eval()
    net = aa.adapt(new, like=old, inputs=TOKENS)
    torch.testing.assert_close(net(TOKENS), net.adapters["output"](turned(new, TOKENS)))
    assert net.verify().passed


def test_indices_are_turned_too():
    def embedded(width, batch_first):
        torch.manual_seed(width)
        return nn.Sequential(nn.Embedding(20, 5), Recurrent(width, batch_first=batch_first))

    ids = torch.randint(20, (9, 2), generator=torch.Generator().manual_seed(0))
    new = embedded(6, True)
    net = aa.adapt(new, like=embedded(4, False), inputs=ids)
    torch.testing.assert_close(net(ids), net.adapters["output"](turned(new, ids)))
    assert net.verify().passed


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("old_first", "new_first"), [(False, False), (False, True), (True, False)])
@pytest.mark.parametrize("end", ["", "zero", "mean"])
def test_a_mask_of_samples_first_hides_tokens_in_either_order(old_first, new_first, end):
    values = TOKENS.transpose(0, 1).contiguous() if old_first else TOKENS
    old, new = Attending(4, end, batch_first=old_first).eval(), Attending(6, batch_first=new_first).eval()
    seen = aa.capture(old, (values, HIDDEN))
    assert [str(mask) for mask in seen.masks] == ["mask hides along N where it is 1"]
    net = aa.adapt(new, like=old, inputs=(values, HIDDEN))
    other = values.clone()
    hidden = other[1, 5:] if old_first else other[5:, 1]
    hidden += 1
    outputs = [net(given, HIDDEN) for given in (values, other)]
    counting = [one if end == "mean" else one[HIDDEN.T.logical_not() if not old_first else ~HIDDEN] for one in outputs]
    torch.testing.assert_close(*counting)
    assert not torch.allclose(net(values), net(other), atol=1e-2)
    if end == "zero":
        assert not outputs[0][HIDDEN if old_first else HIDDEN.T].any()


def test_a_bigger_model_keeps_its_samples_apart_with_a_recurrent_layer_of_the_other_order():
    class Tagger(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.LSTM(5, 4, bidirectional=True), nn.Linear(8, 3)

        def forward(self, x):
            return self.head(self.rnn(x.transpose(0, 1))[0][-1])

    x = torch.randn(4, 9, 5)
    model = aa.swap(Tagger(), "rnn", nn.LSTM(5, 6, batch_first=True, bidirectional=True), inputs=x)
    other = x.clone()
    other[1] += 1
    assert (model(x) != model(other)).any(1).tolist() == [False, True, False, False]
