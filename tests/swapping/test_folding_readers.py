"""Readers and shuffles that are folded: deformable convolutions, flattened maps, channels shuffled in several ways."""

import pytest
import torch
import torchvision
from test_folding import Between, Model, X, adapted, assert_alike
from torch import nn

from autoadapt.swapping.folding import fold


def is_folded(consumer, *others, outputs=("1",)):
    """Fold the level of ten channels, of which seven are handed on, into a consumer, and compare at three sizes."""
    model = adapted(Model([nn.Conv2d(8, 4, 1), consumer, *others]), 6, 7)
    folded = fold(model, inputs=X, outputs=outputs)
    for size in (32, 36, 52):
        x = torch.randn(1, 3, size, size)
        assert_alike(folded(x), model(x))
    return folded


def by_views(level, groups=2):
    """As ShuffleNet does it."""
    batch, channels, height, width = level.shape
    split = level.view(batch, groups, channels // groups, height, width)
    return torch.transpose(split, 1, 2).contiguous().view(batch, -1, height, width)


def halves_by_view(level):
    """The first half of the channels, by a view."""
    return level.unflatten(1, (2, 5))[:, 0]


def nested(level):
    """A part of a part, joined with another in another order."""
    left, right = level.chunk(2, 1)
    first, rest = torch.split(right, [2, 3], 1)
    return torch.cat([rest, left, by_views(torch.cat([first, left[:, :2]], 1))], 1)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("function", "channels"),
    [
        (by_views, 10),
        (halves_by_view, 5),
        (nested, 12),
        (lambda level: nn.functional.channel_shuffle(level, 5), 10),
        (lambda level: by_views(by_views(level), 5), 10),
    ],
    ids=["views", "halves", "nested", "channel_shuffle", "twice"],
)
def test_channels_in_another_order_are_folded(function, channels):
    folded = is_folded(Between(nn.Conv2d(channels, 5, 3, padding=1), function))
    assert not list(folded.backbone.adapters.children())[1:]


def turned(level):
    """Channels shuffled, and rows for columns."""
    batch, channels, height, width = level.shape
    return level.view(batch, 2, channels // 2, height, width).permute(0, 2, 1, 4, 3).reshape(batch, -1, width, height)


def half_shuffled(level):
    """Still spread over two axes when it is added to."""
    batch, channels, height, width = level.shape
    return (level.view(batch, 2, channels // 2, height, width) + 1).view(batch, channels, height, width)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("function", [turned, half_shuffled])
def test_places_that_move_with_the_channels_keep_the_adapter(function):
    model = adapted(Model([nn.Conv2d(8, 4, 1), Between(nn.Conv2d(10, 5, 1), function)]), 6, 7)
    folded = fold(model, inputs=X)
    assert [stay.output for stay in folded.backbone.folded.stays] == ["1"]
    assert_alike(folded(X), model(X))


class Deformed(nn.Module):
    def __init__(self):
        super().__init__()
        self.offset = nn.Conv2d(10, 18, 3, padding=1)
        self.deform = torchvision.ops.DeformConv2d(10, 5, 3, padding=1)

    def forward(self, level):
        return self.deform(level, 3 * self.offset(level))


def test_a_deformable_convolution_and_its_offsets_are_two_readers():
    folded = is_folded(Deformed())
    assert (folded.consumers[1].deform.in_channels, folded.consumers[1].offset.in_channels) == (8, 8)  # and one of ones
    assert len(folded.backbone.folded.readers) == 2


class Flattened(nn.Module):
    def __init__(self, last):
        super().__init__()
        self.pool, self.linear, self.last = nn.AdaptiveAvgPool2d((2, 3)), nn.Linear(60, 4), last

    def forward(self, level):
        pooled = self.pool(level)
        cells = pooled.movedim(1, -1) if self.last else pooled
        return self.linear(cells.flatten(1))[:, :, None, None]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("last", [False, True])
def test_a_linear_layer_over_a_flattened_map_is_folded(last):
    folded = is_folded(Flattened(last))
    assert folded.consumers[1].linear.in_features == 7 * 6
    assert not folded.backbone.folded.ones
