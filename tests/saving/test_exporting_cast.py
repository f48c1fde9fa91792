"""Exports of modules that were cast: the program takes what the module takes now."""

from __future__ import annotations

import pytest
import torch
from small_models import CastsItself, image
from torch import nn

import autoadapt as aa


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_a_module_that_was_cast_is_exported_in_its_own_dtype(dtype, tmp_path):
    net = aa.adapt(nn.Conv2d(3, 5, 2, stride=2), like=nn.Conv2d(3, 8, 4, stride=4), inputs=image()).to(dtype)
    aa.export(net, tmp_path / "net.pt2")
    x = image(3, 44, 60).to(dtype)
    made = torch.export.load(tmp_path / "net.pt2").module()(x)
    assert made.dtype == dtype
    assert torch.equal(made, net(x))


def test_a_module_that_casts_its_inputs_itself_is_exported_as_its_contract_says(tmp_path):
    net = aa.adapt(CastsItself(), like=nn.Conv2d(3, 8, 4, stride=4), inputs=image())
    aa.export(net, tmp_path / "net.pt2")
    x = image(3, 44, 60)
    assert torch.equal(torch.export.load(tmp_path / "net.pt2").module()(x), net(x))
