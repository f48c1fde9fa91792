"""Outputs of transformers that are read by number keep their places where others are not served."""

import pytest
import torch
from torch import nn

import autoadapt as aa

modeling_outputs = pytest.importorskip("transformers.modeling_outputs", reason="transformers is not installed")
pytestmark = [pytest.mark.guest, pytest.mark.slow]
IMAGE = (2, 3, 16, 16)


class Tower(nn.Module):
    """A vision tower of tokens behind a class token."""

    def __init__(self, channels):
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Conv2d(3, channels, 4, 4)
        self.first = nn.Parameter(torch.randn(1, 1, channels))
        self.blocks = nn.ModuleList(nn.Sequential(nn.Linear(channels, channels), nn.GELU()) for _ in range(3))

    def forward(self, x, output_hidden_states=False):
        tokens = torch.cat([self.first.expand(len(x), -1, -1), self.embed(x).flatten(2).transpose(1, 2)], 1)
        seen = [tokens]
        for block in self.blocks:
            seen.append(seen[-1] + block(seen[-1]))
        states = tuple(seen) if output_hidden_states else None
        return modeling_outputs.BaseModelOutputWithPooling(seen[-1], seen[-1][:, 0], hidden_states=states)


READS = {
    "outputs[1]": lambda tower, x: tower(x)[1],
    "outputs[-1]": lambda tower, x: tower(x)[-1],
    "outputs[1:]": lambda tower, x: tower(x)[1:][0],
    "outputs[-2]": lambda tower, x: tower(x)[-2],
    "hidden_states[-2][:, 1:]": lambda tower, x: tower(x, output_hidden_states=True).hidden_states[-2][:, 1:],
    "outputs[2][-2]": lambda tower, x: tower(x, output_hidden_states=True)[2][-2],
    "to_tuple()[1]": lambda tower, x: tower(x).to_tuple()[1],
}


class Host(nn.Module):
    def __init__(self, tower, read):
        super().__init__()
        self.tower, self.read, self.head = tower, READS[read], nn.Linear(12, 5)

    def forward(self, x):
        return self.head(self.read(self.tower, x))


@pytest.mark.parametrize("read", READS)
def test_what_is_read_by_number_stays_where_it_was(read):
    model = Host(Tower(12), read)
    image = torch.randn(IMAGE)
    before, adapted = model(image), aa.adapt(Tower(12), like=Tower(12), inputs=image)
    aa.swap(model, "tower", Tower(12), inputs=image)
    torch.testing.assert_close(model(image), before)
    assert adapted(image)[1].shape == (2, 12)
    other = Host(Tower(12), read)
    aa.swap(other, "tower", Tower(8), inputs=image)
    assert other(image).shape == before.shape
    other(image).sum().backward()
