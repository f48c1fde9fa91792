"""A model inside a `torch.compile` wrapper is swapped like the model itself, and compiled anew when it runs."""

import copy

import pytest
import region_models as written
import torch
from small_models import Pyramid, image
from torch import nn

import autoadapt as aa

SPAN = "conv1:layer3"
WRAPPED = "_orig_mod.conv1:_orig_mod.layer3"


@pytest.fixture
def compiled():
    torch.manual_seed(0)
    return torch.compile(written.PoseNet().eval(), backend="eager")


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("region", "has_run"), [(SPAN, True), (WRAPPED, False), (SPAN, False), (WRAPPED, True)], ids=str
)
def test_a_region_inside_the_wrapper_is_swapped_there(compiled, region, has_run):
    old, x = copy.deepcopy(compiled._orig_mod), image(2, 64, 64)
    with torch.no_grad():
        if has_run:
            compiled(x)
        assert aa.swap(compiled, region, Pyramid(6, 12, 20), inputs=x) is compiled
        expected = written.by_hand(old, compiled._orig_mod.conv1, x)
        assert torch.equal(compiled(x), expected)
        assert torch.equal(compiled._orig_mod(x), expected)


def test_a_submodule_inside_the_wrapper_is_swapped_there(compiled):
    x = image(2, 64, 64)
    with torch.no_grad():
        compiled(x)
        aa.swap(compiled, "layer3", nn.Conv2d(16, 20, 3, 2, 1), inputs=x)
        assert isinstance(compiled._orig_mod.layer3, aa.AdaptedModule)
        assert torch.equal(compiled(x), compiled._orig_mod(x))


@pytest.mark.slow
def test_regions_are_offered_captured_calibrated_and_folded_inside_the_wrapper(compiled):
    x = image(2, 64, 64)
    plain = compiled._orig_mod
    plain.deconv, plain.final = nn.Identity(), nn.Conv2d(24, 5, 1)
    old = copy.deepcopy(plain)
    assert aa.regions(compiled, x) == aa.regions(plain, x)
    assert aa.capture(compiled, x, region=SPAN) == aa.capture(plain, x, region=SPAN)
    aa.swap(compiled, SPAN, Pyramid(6, 12, 20), inputs=x)
    data = [image(2, 64, 64) + i for i in range(4)]
    left, right = (aa.calibrate(one, like=old, data=data, at=SPAN) for one in (compiled, plain))
    assert left.outputs == right.outputs
    with torch.no_grad():
        torch.testing.assert_close(aa.fold(compiled, at=SPAN, inputs=x)(x), plain(x), rtol=1e-4, atol=1e-5)
