"""Calibration counts the tokens that a mask of the old module lets count, and no padding."""

from __future__ import annotations

import torch
from torch import nn

import autoadapt as aa


class Hiding(nn.Module):
    """Tokens that read each other, but for those that the mask hides."""

    def __init__(self, width: int) -> None:
        super().__init__()
        torch.manual_seed(width)
        self.embed, self.mix = nn.Embedding(50, width), nn.MultiheadAttention(width, 1, batch_first=True)

    def forward(self, ids, mask):
        x = self.embed(ids)
        return x + self.mix(x, x, x, key_padding_mask=mask == 0, need_weights=False)[0]


def test_a_fit_does_not_change_with_what_stands_at_hidden_tokens():
    generator = torch.Generator().manual_seed(0)
    masks = [(torch.arange(12) < torch.randint(4, 12, (4, 1), generator=generator)).long() for _ in range(10)]
    ids = [torch.randint(3, 50, (4, 12), generator=generator) for _ in masks]
    fitted = []
    for padding in (1, 2):
        net = aa.adapt(Hiding(6), like=(old := Hiding(4)), inputs=(ids[0], masks[0]))
        data = [(one.masked_fill(mask == 0, padding), mask) for one, mask in zip(ids, masks, strict=True)]
        told = aa.calibrate(net, like=old, data=data, augment=0, solver="ridge")
        assert told.tokens == sum(int(mask.sum()) for mask in masks)
        fitted.append(net.adapters["output"].project.weight.detach().clone())
    torch.testing.assert_close(*fitted)
