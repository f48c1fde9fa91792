"""Remarks on cells and on what is kept are true of what they tell, and are left out where nothing is lost."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

import autoadapt as aa
from autoadapt.adapting.planning.kept_share import kept_share

IMAGES = torch.randn(1, 3, 64, 64, generator=torch.Generator().manual_seed(0))


class Large(nn.Module):
    """Takes images of at least 40 pixels, and returns cells or tokens."""

    def __init__(self, *, tokens: bool) -> None:
        super().__init__()
        self.stem, self.tokens = nn.Conv2d(3, 4, 3, 4, 1), tokens

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if min(x.shape[2:]) < 40:
            raise ValueError("too small")
        cells = self.stem(x)
        return cells.flatten(2).transpose(1, 2) if self.tokens else cells


@pytest.mark.parametrize("tokens", [False, True])
def test_cells_that_are_as_many_wherever_no_image_is_enlarged_are_not_called_rounded_otherwise(tokens):
    net = aa.adapt(Large(tokens=tokens), like=nn.Conv2d(3, 4, 3, 4, 1), inputs=IMAGES)
    assert "max(" in str(net.plan.routes[0].specs[0])
    assert net.plan.routes[0].remark == ""


@pytest.mark.parametrize(("deeper", "share"), [("first", 1.0), ("last", 0.5)])
def test_what_lies_deeper_is_cut_only_where_it_depends_on_what_is_not_kept(deeper, share):
    """As where cells were regrouped on the way, so that a module inside has those of a coarser stride."""
    model = nn.Sequential(OrderedDict(first=nn.Conv2d(3, 4, 3, 2, 1), last=nn.Conv2d(4, 4, 3, 2, 1)))
    source = aa.capture(model, IMAGES, inner=True)
    inner = tuple(
        one.model_copy(update={"spec": one.spec.model_copy(update={"depth": 4.0 if one.module == deeper else 2.0})})
        for one in source.inner
    )
    kept = kept_share(source.model_copy(update={"inner": inner}), ["first" if deeper == "last" else "output"])
    assert kept is not None
    assert kept.depth == share
