"""Levels of one step with a cell more at some sizes are cropped or padded by whole cells, never stretched."""

import pytest
import torch
from ramps import averaging, inner_cells, ramp
from torch import nn

import autoadapt as aa
from autoadapt.adapting.operations import Resize

POOLS = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)


def merged(spatial):
    """Patches of 4, and a merging that pads an odd one, as Swin does: `ceil((H - 3)/8)` cells at 3.5 + 8 i."""
    pool = POOLS[spatial - 1](2, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(averaging(spatial, 4, stride=4), pool).eval()


def floored(spatial):
    """A stem of stride 4 and an average that drops an odd cell, as DenseNet does: `ceil((H - 4)/8)` at 2 + 8 i."""
    stem = [averaging(spatial, 3, stride=2, padding=1) for _ in range(2)]
    return nn.Sequential(*stem, POOLS[spatial - 1](2)).eval()


def stem(spatial):
    """`ceil(H/4)` cells at 4 i."""
    return nn.Sequential(*[averaging(spatial, 3, stride=2, padding=1) for _ in range(2)]).eval()


def ceiled(spatial):
    """A stem and a pooling without padding that rounds up, as GoogLeNet has: `ceil((H - 2)/4)` cells at 2 + 4 i."""
    pool = POOLS[spatial - 1](3, 2, ceil_mode=True, count_include_pad=False)
    return nn.Sequential(averaging(spatial, 7, stride=2, padding=3), pool).eval()


PAIRS = {"merged, floored": (merged, floored), "stem, ceiled": (stem, ceiled)}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("spatial", [2, 1, 3])
@pytest.mark.parametrize("turned", [False, True], ids=["", "turned"])
@pytest.mark.parametrize("pair", PAIRS)
def test_cells_lie_within_half_a_step_where_counts_differ_by_one(pair, turned, spatial):
    new, old = (make(spatial) for make in (reversed(PAIRS[pair]) if turned else PAIRS[pair]))
    sizes = (48, 52, 61) if spatial == 3 else (128, 129, 132, 140)
    net = aa.adapt(new, like=old, inputs=ramp(spatial, sizes[0])).eval()
    step = net.signature.outputs.leaves[0].centres[-1].step
    for size in sizes:
        expected, inside = inner_cells(old, spatial, size)
        found, seen = inner_cells(net, spatial, size)
        assert len(found) == len(expected)
        both = inside & seen & (expected < found.max())
        assert both.sum() >= 2
        assert float((found - expected)[both].abs().max()) <= step / 2 + 1e-3


def test_whole_cells_are_the_cells_of_the_source():
    net = aa.adapt(merged(2), like=floored(2), inputs=ramp(2, 128))
    x = torch.rand(1, 2, 132, 132)
    made = net.backbone(x)
    assert made.shape[2:] == (17, 17)
    assert torch.equal(net(x), made[:, :, :16, :16])
    assert net.plan.routes[0].multiply_adds == 0
    assert net.plan.routes[0].remark.endswith("cells, rounded otherwise: the last one is left out or repeated")


@pytest.mark.slow
def test_verify_sees_a_stretch_where_counts_differ_at_other_sizes_alone():
    new, old = merged(2), floored(2)
    net = aa.adapt(new, like=old, inputs=ramp(2, 128))
    assert net.verify().passed
    (route,) = net.plan.routes
    stretched = route.model_copy(update={"steps": (Resize(dims=route.steps[0].dims),)})
    wrong = aa.build(new, net.plan.model_copy(update={"routes": (stretched,)}))
    checks = {check.name: check for check in wrong.verify(ramp(2, 128)).checks}
    assert checks["centres"].outcome == "failed"
    assert "pixels 2 + 8 i" in str(checks["centres"].faults[0])


class _Strict(nn.Conv2d):
    """Takes multiples of 32 alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[-1] % 32 or x.shape[-2] % 32:
            raise ValueError("multiples of 32 alone")
        return super().forward(x)


def test_a_remark_tells_by_how_many_cells_a_map_of_a_resized_image_is_brought_back() -> None:
    net = aa.adapt(_Strict(3, 4, 4, 4), like=nn.Conv2d(3, 4, 4, 4), inputs=torch.zeros(1, 3, 64, 64))
    assert "rounded otherwise: resized by up to 8 cells" in net.plan.routes[0].remark
