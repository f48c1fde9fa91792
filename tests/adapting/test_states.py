"""States of recurrent layers, `[layers and directions, B, C]`: which serves which, and what is said of it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autoadapt as aa

TOKENS = torch.randn(3, 7, 5, generator=torch.Generator().manual_seed(0))


def layers(kind, width, **options):
    torch.manual_seed(width)
    return kind(5, width, batch_first=True, **options).eval()


class LastState(nn.Module):
    """What the last layer holds at the end, in both directions if there are."""

    def __init__(self, width, **options):
        super().__init__()
        self.layers = layers(nn.GRU, width, **options)

    def forward(self, x):
        state = self.layers(x)[1]
        return state[-2:].transpose(0, 1).flatten(1) if self.layers.bidirectional else state[-1]


def test_of_an_lstm_the_hidden_state_serves_that_of_a_gru_not_the_cell_state():
    new = layers(nn.LSTM, 6)
    net = aa.adapt(new, like=layers(nn.GRU, 4), inputs=TOKENS)
    torch.testing.assert_close(net(TOKENS)[1], net.adapters["1"](new(TOKENS)[1][0]))
    assert net.plan.remarks == ()


def test_that_a_cell_state_is_made_of_the_hidden_state_is_said():
    net = aa.adapt(layers(nn.GRU, 6), like=layers(nn.LSTM, 4), inputs=TOKENS)
    assert "1 of GRU serves 1.0 and 1.1 alike, which were states of their own in LSTM" in net.plan.remarks
    net.verify().raise_if_failed()


def test_the_last_of_more_layers_serves_fewer():
    new = layers(nn.LSTM, 6, num_layers=3)
    net = aa.adapt(new, like=layers(nn.LSTM, 4, num_layers=2), inputs=TOKENS)
    hidden, cell = new(TOKENS)[1]
    torch.testing.assert_close(net(TOKENS)[1][0], net.adapters["1_0"](hidden[1:]))
    torch.testing.assert_close(net(TOKENS)[1][1], net.adapters["1_1"](cell[1:]))
    assert "1.0 of LSTM was of 2 layers: served by the last of 3 layers" in net.plan.remarks


def test_directions_in_the_place_of_layers_are_said():
    net = aa.adapt(layers(nn.GRU, 6, bidirectional=True), like=layers(nn.GRU, 4, num_layers=2), inputs=TOKENS)
    assert "1 of GRU was of 2 layers: served by 1 layer in both directions" in net.plan.remarks


@pytest.mark.parametrize("more", [{"num_layers": 2}, {"bidirectional": True}])
def test_the_states_of_more_layers_are_not_made_up(more):
    with pytest.raises(aa.MatchError, match="it holds the state of 1 layers and directions, and that of 2 is wanted"):
        aa.adapt(layers(nn.GRU, 6), like=layers(nn.GRU, 4, **more), inputs=TOKENS)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("options", [{}, {"num_layers": 2}, {"bidirectional": True}])
def test_a_vector_is_made_of_the_states_of_all_layers_and_directions_at_the_end(options):
    new = layers(nn.LSTM, 6, **options)
    net = aa.adapt(new, like=LastState(4, **options), inputs=TOKENS)
    hidden = new(TOKENS)[1][0]
    torch.testing.assert_close(net(TOKENS), net.adapters["output"](hidden.transpose(0, 1).flatten(1)))
    assert net(TOKENS[:1, :4]).shape == (1, 8 if "bidirectional" in options else 4)


def test_a_state_that_the_new_module_neither_returns_nor_takes_is_said_to_be_made_up():
    class Remembering(nn.Module):
        """Tokens, and what is to be given back at the next call."""

        def __init__(self, width):
            super().__init__()
            self.embed = nn.Linear(5, width)

        def forward(self, x, mems=None):
            tokens = self.embed(x) if mems is None else self.embed(x) + mems.transpose(0, 1)
            return {"tokens": tokens, "mems": tokens.tanh().transpose(0, 1)}

    class Plain(nn.Module):
        def __init__(self, width):
            super().__init__()
            self.embed = nn.Linear(5, width)

        def forward(self, x):
            return {"tokens": self.embed(x)}

    x = torch.randn(2, 7, 5)
    net = aa.adapt(Plain(6), like=Remembering(8), inputs=x)
    told = [remark for remark in net.plan.remarks if "mems" in remark]
    assert told == [
        "mems of Remembering, which it takes back at the next call, is no state of Plain, which takes none:"
        " it is made of tokens"
    ]
    same = aa.adapt(Remembering(6), like=Remembering(8), inputs=x)
    assert not [remark for remark in same.plan.remarks if "takes back" in remark]
