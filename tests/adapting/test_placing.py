"""Cells of an adapted module lie where those of the old one lay, to half a step, whatever the padding."""

import copy

import pytest
import timm
import torch
from ramps import CONVOLUTIONS, averaging, inner_cells, ramp
from torch import nn

import autoadapt as aa
from autoadapt.adapting.operations import Resample, Resize


def stack(spatial, *layers):
    return nn.Sequential(
        *(averaging(spatial, kernel, stride=stride, padding=pad) for kernel, stride, pad in layers)
    ).eval()


def pooled(spatial, *layers):
    pool = (nn.AvgPool1d, nn.AvgPool2d, nn.AvgPool3d)[spatial - 1]
    stages = [nn.Sequential(averaging(spatial, kernel, padding=pad), pool(2)) for kernel, pad in layers]
    return nn.Sequential(*stages).eval()


PADDED = [(3, 2, 1)] * 3
VALID = [(11, 2, 0), (3, 2, 0), (5, 1, 0), (3, 2, 0), (3, 1, 0), (3, 1, 0), (3, 1, 0)]
PAIRS = {
    "padded, valid tracker": (stack(2, *PADDED), stack(2, *VALID)),
    "padded, valid at another stride": (stack(2, *PADDED), stack(2, (5, 2, 0), (5, 2, 0))),
    "patches, stem": (stack(2, (8, 8, 0)), stack(2, *PADDED)),
    "patches, valid": (stack(2, (4, 4, 0)), stack(2, (7, 2, 0), (3, 2, 0))),
    "pooling, valid": (pooled(2, (3, 1), (3, 1)), pooled(2, (3, 0), (3, 0))),
    "padded, padded in front": (
        stack(2, *PADDED),
        nn.Sequential(nn.ConstantPad2d((6, 0, 6, 0), 0.0), *stack(2, (7, 8, 0))),
    ),
    "waveforms": (stack(1, *PADDED), stack(1, (10, 5, 0), (3, 2, 0))),
    "waveforms at one stride": (stack(1, (4, 2, 1), (4, 2, 1)), stack(1, (8, 2, 0), (8, 2, 0))),
    "volumes": (stack(3, (3, 2, 1), (3, 2, 1)), stack(3, (5, 2, 0), (3, 2, 0))),
    "volumes, patches": (stack(3, (4, 4, 0)), stack(3, (5, 2, 0), (3, 2, 0))),
}
SIZES = {1: (128, 200, 257), 2: (128, 200, 257), 3: (48, 61, 64)}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("turned", [False, True], ids=["", "turned"])
@pytest.mark.parametrize("pair", PAIRS)
def test_adapted_cells_lie_within_half_a_step_of_the_old_ones(pair, turned):
    old, new = reversed(PAIRS[pair]) if turned else PAIRS[pair]
    spatial = next(layer.weight.dim() - 2 for layer in old.modules() if isinstance(layer, CONVOLUTIONS))
    net = aa.adapt(new, like=old, inputs=ramp(spatial, SIZES[spatial][0])).eval()
    step = net.signature.outputs.leaves[0].centres[-1].step
    for size in SIZES[spatial]:
        expected, inside = inner_cells(old, spatial, size)
        found, seen = inner_cells(net, spatial, size)
        assert len(found) == len(expected)
        both = inside & seen & (expected > found.min()) & (expected < found.max())
        assert both.sum() >= 2
        assert float((found - expected)[both].abs().max()) <= step / 2 + 1e-3
    verified = net.verify()
    assert verified.passed, verified
    assert {check.name: check.outcome for check in verified.checks}["centres"] == "passed"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("strides", [(4, 3), (3, 5), (6, 4)])
def test_cells_of_steps_that_share_few_remainders_are_verified_at_every_size(strides):
    new, old = (stack(2, (5, stride, 2)) for stride in strides)
    net = aa.adapt(new, like=old, inputs=ramp(2, 64))
    assert net.verify(sizes=[{"H": size, "W": size + 1} for size in (64, 71, 75)]).passed


def test_cells_of_equal_steps_are_moved_by_whole_cells_exactly():
    old = nn.Sequential(nn.ConstantPad2d((16, 0, 16, 0), 0.0), *stack(2, (8, 8, 0)))
    net = aa.adapt(stack(2, (8, 8, 0)), like=old, inputs=torch.zeros(1, 2, 64, 64))
    assert net.plan.routes[0].steps[0].first == (-2.0, -2.0)
    x = torch.rand(1, 2, 64, 64)
    assert torch.equal(net(x)[:, :, 2:, 2:], old(x)[:, :, 2:, 2:])
    assert "its cells are read at pixels -12.5 + 8 i, made at pixels 3.5 + 8 i" in net.plan.routes[0].remark


def test_shrinking_reads_every_cell():
    old, new = stack(2, (16, 16, 0)), nn.Sequential(nn.ConstantPad2d((3, 0, 3, 0), 0.0), *stack(2, (4, 4, 0)))
    net = aa.adapt(new, like=old, inputs=torch.zeros(1, 2, 64, 64))
    x = torch.rand(1, 2, 64, 64, requires_grad=True)
    net(x).sum().backward()
    assert bool((x.grad[:, :, 8:-8, 8:-8] > 0).all())


def test_pyramids_of_the_same_family_are_resized_as_before():
    old, new = (timm.create_model(name, features_only=True) for name in ("resnet10t", "resnet18"))
    net = aa.adapt(new, like=old, inputs=torch.zeros(1, 3, 64, 64))
    assert not any(isinstance(step, (Resample, Resize)) for route in net.plan.routes for step in route.steps)


def test_verify_sees_cells_that_are_stretched_over_others():
    old, new = PAIRS["padded, valid tracker"][::-1]
    net = aa.adapt(new, like=old, inputs=ramp(2, 128))
    (route,) = net.plan.routes
    stretched = route.model_copy(update={"steps": (Resize(dims=route.steps[0].dims),)})
    wrong = aa.build(new, net.plan.model_copy(update={"routes": (stretched,)}))
    checks = {check.name: check for check in wrong.verify(ramp(2, 128)).checks}
    assert checks["centres"].outcome == "failed"
    assert "pixels 43 + 8 i" in str(checks["centres"].faults[0])


@pytest.mark.slow
def test_the_resampled_net_compiles_and_exports_at_every_size():
    old, new = PAIRS["padded, valid tracker"][::-1]
    net = aa.adapt(new, like=old, inputs=ramp(2, 128))
    assert net.verify(thorough=True).passed


class SamePadded(nn.Module):
    """Pads so that there are as many cells as steps fit in, more behind than in front: TensorFlow's `SAME`."""

    def __init__(self):
        super().__init__()
        self.conv = averaging(2, 3, stride=2)

    def forward(self, x):
        missing = [max((-(-size // 2) - 1) * 2 + 3 - size, 0) for size in (x.shape[3], x.shape[2])]
        return self.conv(nn.functional.pad(x, [side for m in missing for side in (m // 2, m - m // 2)]))


@pytest.mark.parametrize("turned", [False, True], ids=["", "turned"])
def test_cells_whose_place_follows_the_size_of_the_image_are_remarked_on_once(turned):
    class Two(nn.Module):
        def __init__(self, layer):
            super().__init__()
            self.first, self.second = layer, copy.deepcopy(layer)

        def forward(self, x):
            return [self.first(x), self.second(x)]

    old, new = Two(SamePadded()).eval(), Two(averaging(2, 3, stride=2, padding=1)).eval()
    old, new = (new, old) if turned else (old, new)
    plan = aa.adapt(new, like=old, inputs=torch.zeros(1, 2, 32, 32)).plan
    said = (
        "its cells are not known to lie where the old ones do at every size, as with padding that follows the size,"
        " or where they are listed in another order"
    )
    assert [route.remark for route in plan.routes] == [said, said]
    lines = [line for line in str(plan).splitlines() if line.startswith(" remark")]
    assert len(lines) == 1
    assert lines[0].startswith(" remark  all:  its cells are not known")


def test_no_such_remark_where_both_follow_the_size_or_neither():
    for make in (SamePadded, lambda: averaging(2, 3, stride=2, padding=1)):
        plan = aa.adapt(make().eval(), like=make().eval(), inputs=torch.zeros(1, 2, 32, 32)).plan
        assert plan.routes[0].remark == ""


class Tracker(nn.Module):
    """Finds a template in a search image by the correlation of features, as SiamFC does."""

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone

    def forward(self, template, search):
        kernel, features = self.backbone(template), self.backbone(search)
        kernel = kernel - kernel.mean((2, 3), keepdim=True)
        return nn.functional.conv2d(features, kernel)


@pytest.mark.slow
@pytest.mark.parametrize("size", [255, 287, 319])
@pytest.mark.parametrize("new", ["resnet18", "convnext_atto", "mobilenetv3_small_050"])
def test_a_tracker_finds_a_square_within_one_cell_after_its_backbone_was_swapped(new, size):
    torch.manual_seed(0)
    valid = [
        nn.Conv2d(3, 16, 11, 2),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(16, 32, 5),
        nn.MaxPool2d(3, 2),
        nn.Conv2d(32, 32, 3),
    ]
    model = Tracker(nn.Sequential(*valid)).eval()
    square = torch.rand(3, 32, 32)
    template = torch.full((1, 3, 127, 127), 0.5)
    template[0, :, 48:80, 48:80] = square
    search = torch.full((1, 3, size, size), 0.5)
    search[0, :, 152:184, 96:128] = square
    backbone = timm.create_model(new, features_only=True).eval()
    model = aa.swap(model, "backbone", backbone, inputs=(template, search))
    with torch.no_grad():
        scores = model(template, search)[0, 0]
    row, column = divmod(int(scores.argmax()), scores.shape[1])
    assert abs(row * 8 + 63 - 167.5) <= 8
    assert abs(column * 8 + 63 - 111.5) <= 8
