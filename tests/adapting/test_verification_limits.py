"""What verification can tell where outputs are of low precision, and where a module has no values at all."""

import pytest
import torch
from small_models import Pyramid, image
from torch import nn

import autoadapt as aa


class Low(nn.Module):
    """Its output is of a dtype that it chooses, the layer before of float32."""

    def __init__(self, width, dtype=torch.float32):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU())
        self.dtype = dtype

    def forward(self, x):
        return self.body(x).to(self.dtype)


class RoundsOtherwise(Low):
    """The last bit of bfloat16 falls otherwise where another number of items is in a batch, as with other kernels."""

    def forward(self, x):
        return super().forward(x) * (1 + (len(x) == 1) * 2**-7)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("dtypes", [(torch.bfloat16, torch.float32), (torch.float32, torch.bfloat16)])
def test_the_last_bit_of_a_low_precision_output_may_fall_otherwise(dtypes):
    new, old = RoundsOtherwise(4, dtypes[0]), Low(8, dtypes[1])
    report = aa.adapt(new, like=old, inputs=image()).verify(image())
    assert report["sizes"].outcome == report["calls"].outcome == "passed", report
    assert "bare" not in report["sizes"].detail + report["calls"].detail
    exact = aa.capture(Low(4), image())
    assert not aa.verify(RoundsOtherwise(4), exact, inputs=image()).passed


class Narrower(nn.Module):
    """A column is lost at one of the usual sizes."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x):
        return [y[..., 1:] if x.shape[-1] == 512 else y for y in self.net(x)]


def test_of_a_module_on_meta_the_contract_the_plan_and_all_shapes_are_verified():
    x = image().to("meta")
    net = aa.adapt(Pyramid(4, 8).to("meta"), like=Pyramid(6, 8).to("meta"), inputs=x)
    report = net.verify(x)
    assert report.passed, report
    assert {check.name for check in report.checks if check.outcome == "passed"} == {"signature", "plan", "sizes"}
    assert report["gradients"].detail == "the module is on the meta device and has no values"
    narrower = aa.verify(Narrower(net), net.signature, inputs=x)
    assert next(fault.where for fault in narrower["sizes"].faults) == "0 at 1x512x512"


def test_a_module_made_where_the_default_device_is_meta_is_verified_as_one_on_it():
    torch.set_default_device("meta")
    try:
        old, new, x = Pyramid(6, 8), Pyramid(4, 8), torch.rand(2, 3, 40, 56)
        assert aa.adapt(new, like=old, inputs=x).verify(x).passed
    finally:
        torch.set_default_device(None)


class Counted(Pyramid):
    """Counts the passes with values of all its copies."""

    passes = 0

    def forward(self, x):
        Counted.passes += not x.is_meta
        return super().forward(x)


def test_a_default_verification_makes_at_most_forty_passes_with_values(monkeypatch):
    x = torch.randn(2, 3, 224, 224)
    net = aa.adapt(Counted(4, 8), like=Pyramid(6, 8), inputs=x)
    monkeypatch.setattr(Counted, "passes", 0)
    assert net.verify(x).passed
    assert 30 < Counted.passes <= 40
