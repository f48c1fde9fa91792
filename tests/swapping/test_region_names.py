"""How a region is named: lists, spans, and the region that was swapped."""

import pytest
import torch
from region_models import PoseNet
from small_models import Pyramid, image

import autoadapt as aa

SPAN = "conv1:layer3"


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("at", "other"), [("conv1:zz", "zz"), (["conv1", "final"], "final")])
def test_what_was_not_swapped_with_the_region_is_no_part_of_its_name(at, other):
    torch.manual_seed(0)
    model = aa.swap(PoseNet(), SPAN, Pyramid(6, 12, 20, 28), inputs=image(2, 64, 64))
    for use in (aa.fold, lambda model, at, inputs: aa.calibrate(model, like=PoseNet(), data=[inputs], at=at)):
        with pytest.raises(aa.SwapError) as raised:
            use(model, at=at, inputs=image(2, 64, 64))
        lines = str(raised.value).splitlines()
        assert lines[0] == f"`{other}` was not swapped with `conv1`"
        assert lines[3] == f"  found     {other}"


def test_a_region_of_no_modules_and_a_span_of_three_are_refused():
    with pytest.raises(aa.CaptureError, match="a region has no modules"):
        aa.capture(PoseNet(), image(2, 64, 64), region=[])
    with pytest.raises(aa.CaptureError) as raised:
        aa.capture(PoseNet(), image(2, 64, 64), region="conv1:layer1:layer3")
    assert str(raised.value).splitlines()[2:] == [
        "  found     3 paths",
        "  try       \"conv1:layer3\", or ['conv1', 'layer1', 'layer3']",
    ]
