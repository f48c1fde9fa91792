"""What verification says of backbones that draw numbers, or that choose their dtype themselves."""

import numpy as np
import pytest
import torch
from small_models import Pyramid, image
from torch import nn

import autoadapt as aa


class NumpyNoise(Pyramid):
    """Other numbers at every call, drawn from numpy."""

    def forward(self, x):
        return [one + float(np.random.randn()) for one in super().forward(x)]


def test_noise_that_the_bare_backbone_draws_from_numpy_is_not_put_down_to_copies():
    net = aa.adapt(NumpyNoise(4), like=Pyramid(6), inputs=image(), nondeterministic="allow")
    report = net.verify()
    assert report.passed, report
    assert "the bare backbone does not keep: equal values" in report["calls"].detail


class Narrow(nn.Module):
    """Has autocast of its own, in bfloat16."""

    def __init__(self, widen):
        super().__init__()
        self.conv, self.widen = nn.Conv2d(3, 8, 3, 2, 1), widen

    def forward(self, x):
        with torch.autocast(x.device.type, dtype=torch.bfloat16):
            made = self.conv(x)
        return made.float() if self.widen else made


class TableOnce(nn.Module):
    """Multiplies by a table in float32 that it makes on first use."""

    def __init__(self):
        super().__init__()
        self.conv, self.table = nn.Conv2d(3, 8, 3, 2, 1), None

    def forward(self, x):
        made = self.conv(x)
        if self.table is None:
            self.table = torch.linspace(0, 1, 8)[:, None, None].to(x.device)
        return made * self.table


@pytest.mark.parametrize(
    ("new", "dtype", "returns"),
    [
        (Narrow(widen=False), torch.float32, "bf16"),
        (Narrow(widen=True), torch.float32, "f32"),
        (TableOnce().half(), torch.float16, "f32"),
        (TableOnce().bfloat16(), torch.bfloat16, "f32"),
    ],
    ids=["own autocast", "own autocast, widened", "a table beside float16", "a table beside bfloat16"],
)
def test_a_backbone_that_chooses_its_dtype_itself_is_no_fault_of_the_cast(new, dtype, returns):
    x = torch.randn(2, 3, 32, 40, dtype=dtype)
    net = aa.adapt(new, like=nn.Conv2d(3, 5, 3, 2, 1).to(dtype), inputs=x)
    assert net(x).dtype == dtype
    report = net.verify(x)
    assert report.passed, report
    assert report["float16"].detail == f"the bare backbone returns {returns} whatever it is cast to"
