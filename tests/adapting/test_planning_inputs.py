"""Inputs that the new module would refuse: other layouts, channels and sizes; each said in the plan, each refusable."""

import pytest
import timm
import torch
from torch import nn

import autoadapt as aa
from autoadapt.adapting.layers import resize
from autoadapt.errors import AdaptError, MatchError


class ChannelsLast(nn.Module):
    """A backbone that takes and gives `[B, H, W, C]`, as ports from other frameworks do."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        out = self.inner(x.permute(0, 3, 1, 2))
        return [level.permute(0, 2, 3, 1) for level in out] if isinstance(out, list) else out


class Points(nn.Module):
    """Per-point features of `[B, N, 3]` or of `[B, 3, N]`."""

    def __init__(self, width, channels_first):
        super().__init__()
        self.conv = nn.Conv1d(3, width, 1)
        self.channels_first = channels_first

    def forward(self, points):
        if self.channels_first:
            return {"features": self.conv(points)}
        return {"features": self.conv(points.transpose(1, 2)).transpose(1, 2)}


def pyramid(name, **options):
    return timm.create_model(name, features_only=True, **options).eval()


def chain(net):
    return [step.op for step in net.plan.inputs[0].steps]


@pytest.mark.slow
def test_images_with_channels_first_reach_a_backbone_that_lists_them_last():
    new, old, x = pyramid("resnet18"), pyramid("resnet34"), torch.randn(1, 3, 64, 96)
    net = aa.adapt(ChannelsLast(new), like=old, inputs=x).eval()
    assert chain(net) == ["rearrange"]
    assert "b c h w -> b h w c" in str(net.plan)
    with torch.no_grad():
        assert all(map(torch.equal, net(x), new(x)))  # the same widths, so that nothing but axes is turned
    assert net.verify().passed


@pytest.mark.slow
def test_images_with_channels_last_reach_a_backbone_that_lists_them_first():
    new, x = pyramid("resnet18"), torch.randn(1, 64, 96, 3)
    net = aa.adapt(new, like=ChannelsLast(pyramid("resnet34")), inputs=x).eval()
    with torch.no_grad():
        expected = [level.permute(0, 2, 3, 1) for level in new(x.permute(0, 3, 1, 2))]
        assert all(map(torch.equal, net(x), expected))
    assert net.verify().passed


@pytest.mark.slow
def test_a_backbone_of_one_size_that_lists_channels_last_and_tells_nothing_serves_any_size_and_grey_images():
    new = ChannelsLast(timm.create_model("vit_tiny_patch16_224", depth=4)).eval()
    for channels, steps in ((3, ["resize", "rearrange"]), (1, ["channels", "resize", "rearrange"])):
        old = pyramid("resnet18", in_chans=channels)
        net = aa.adapt(new, like=old, inputs=torch.randn(1, channels, 96, 128)).eval()
        assert chain(net) == steps
        for height, width in ((97, 131), (224, 224)):
            x = torch.randn(2, channels, height, width)
            with torch.no_grad():
                assert [a.shape for a in net(x)] == [b.shape for b in old(x)]


def test_points_are_turned_both_ways_and_keep_their_values():
    for first in (True, False):
        old, new, x = Points(8, first), Points(8, not first), torch.randn(2, 3, 50) if first else torch.randn(2, 50, 3)
        net = aa.adapt(new, like=old, inputs=x)
        assert chain(net) == ["rearrange"]
        assert torch.equal(net(x)["features"], new(x.transpose(1, 2))["features"].transpose(1, 2))
        assert net.verify().passed


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "new", "x"),
    [
        ("layout", lambda: ChannelsLast(pyramid("resnet18")), torch.randn(1, 3, 64, 64)),
        ("size", lambda: timm.create_model("vit_tiny_patch16_224", depth=4), torch.randn(1, 3, 64, 96)),
        ("channels", lambda: pyramid("resnet18", in_chans=1), torch.randn(1, 3, 64, 64)),
    ],
)
def test_each_conversion_can_be_switched_off_and_the_refusal_says_which_it_was(kind, new, x):
    old, new = pyramid("resnet18"), new()
    others = tuple({"layout", "size", "channels"} - {kind})
    with pytest.raises(MatchError, match=f"convert_inputs leaves {kind} out") as refused:
        aa.adapt(new, like=old, inputs=x, convert_inputs=others)
    assert f'convert_inputs=("{kind}", ...)' in refused.value.mismatches[0].remedy
    assert aa.adapt(new, like=old, inputs=x, convert_inputs=(kind,)).plan.inputs[0].steps


@pytest.mark.slow
def test_images_too_small_for_the_new_module_are_enlarged_and_others_are_left_alone():
    old, new = pyramid("resnet18"), timm.create_model("inception_v3")
    net = aa.adapt(new, like=old, inputs=torch.randn(1, 3, 96, 128)).eval()
    assert str(net.plan.inputs[0].steps[-1]) == "resize to max(75, H) x max(75, W)"
    with torch.no_grad():
        for height, width in ((34, 49), (74, 97), (75, 75), (131, 97)):
            x = torch.randn(2, 3, height, width)
            assert [a.shape for a in net(x)] == [b.shape for b in old(x)]
        assert torch.equal(resize(x, [131, 97]), x)
        with pytest.raises(RuntimeError, match="Kernel size"):
            new(torch.randn(1, 3, 74, 97))
    with pytest.raises(MatchError, match="with H from 75 on, W from 75 on, and convert_inputs leaves size out"):
        aa.adapt(new, like=old, inputs=torch.randn(1, 3, 96, 128), convert_inputs=("layout",))


class Rounded(nn.Module):
    """A map of patches of 14, the last of which may be cut short."""

    def forward(self, x):
        return torch.nn.functional.avg_pool2d(x, 14, ceil_mode=True)


class Patches(nn.Module):
    """Tokens of patches of 14 behind a class token; what is left of an image over is not looked at."""

    def __init__(self):
        super().__init__()
        self.patch = nn.Conv2d(3, 24, 14, stride=14)
        self.token = nn.Parameter(torch.zeros(1, 1, 24))

    def forward(self, x):
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        return torch.cat([self.token.expand(len(tokens), -1, -1), tokens], 1)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("old", "resized"), [(Patches, "14*floor(H/14)"), (Rounded, "14*ceil(H/14)")])
def test_an_image_is_resized_to_the_legal_size_at_which_the_levels_have_the_wanted_cells(old, resized):
    new = timm.create_model("vit_small_patch14_dinov2", img_size=56, dynamic_img_size=True, depth=1)
    net = aa.adapt(new, like=old(), inputs=torch.zeros(2, 3, 56, 70)).eval()
    assert resized in str(net.plan.inputs[0].steps[0])
    assert not any(step.op == "resize" for route in net.plan.routes for step in route.steps)
    assert net.verify(sizes=[{"H": 75, "W": 97}, {"H": 84, "W": 55}]).passed


@pytest.mark.slow
def test_an_unknown_conversion_is_refused_with_the_known_ones():
    with pytest.raises(MatchError, match="some of layout, channels, size"):
        aa.adapt(pyramid("resnet18"), like=pyramid("resnet34"), convert_inputs=("colour",))


class Clips(nn.Module):
    """Averages windows of 16 by 16 cells, so that clips must not be smaller than 64 by 64."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv3d(3, 6, (2, 4, 4), (2, 4, 4))
        self.pool = nn.AvgPool3d((1, 16, 16), 1)

    def forward(self, x):
        made = self.embed(x)
        return made, self.pool(made)


@pytest.mark.slow
def test_clips_too_small_for_a_backbone_are_enlarged():
    old = nn.Conv3d(3, 4, (2, 8, 8), (2, 8, 8))
    net = aa.adapt(Clips(), like=old, inputs=torch.zeros(2, 3, 4, 48, 40))
    assert str(net.plan.inputs[0].steps[0]) == "resize to T x max(64, H) x max(64, W)"
    assert net(torch.zeros(1, 3, 6, 57, 33)).shape == (1, 4, 3, 7, 4)
    assert net.verify().passed


def test_a_module_that_refuses_every_size_is_refused_with_what_was_tried():
    class Refuses(nn.Module):
        def forward(self, x):
            raise ValueError("not today")

    with pytest.raises(AdaptError, match="not today") as refused:
        aa.adapt(Refuses(), like=pyramid("resnet18"), inputs=torch.randn(1, 3, 64, 64))
    assert "at the sizes in use (32, 64, 96" in str(refused.value)


def test_a_contract_for_any_number_of_channels_is_narrowed_to_the_number_that_the_new_module_takes():
    class First(nn.Module):
        def forward(self, points):
            return points[..., :2] * 2

    old, new, x = First(), nn.Linear(4, 2), torch.randn(2, 9, 4)
    assert str(aa.capture(old, x).inputs.leaves[0]) == "f32[B, N, C]"
    net = aa.adapt(new, like=old, inputs=x)
    assert str(net.plan.target.inputs.leaves[0]) == "f32[B, N, 4]"
    assert torch.equal(net(x), new(x))  # nothing is interpolated along channels


@pytest.mark.slow
def test_a_module_that_runs_but_cannot_be_explained_is_not_run_at_guessed_sizes():
    seen = []

    class Random(nn.Module):
        def forward(self, x):
            seen.append(tuple(x.shape[2:]))
            return x[..., : (x.shape[-1] * 7919) % 31 + 1]

    with pytest.raises(AdaptError):
        aa.adapt(Random(), like=pyramid("resnet18"), inputs=torch.randn(1, 3, 64, 64))
    assert (1024, 1024) not in seen


def test_verification_runs_at_sizes_that_need_to_be_enlarged():
    old, new, x = nn.Conv2d(3, 8, 4, 4), nn.Conv2d(3, 6, 16, 16), torch.randn(2, 3, 64, 96)
    net = aa.adapt(new, like=old, inputs=x)
    assert [str(step) for step in net.plan.inputs[0].steps] == ["resize to max(16, H) x max(16, W)"]
    assert net.verify().passed
    bare = net.plan.model_copy(update={"inputs": (net.plan.inputs[0].model_copy(update={"steps": ()}),)})
    assert "Kernel size" in str(aa.verify(aa.build(new, bare), net.signature, inputs=x)["sizes"].faults)
    by_text = aa.adapt(new, like="f32[B, 8, floor(H/4), floor(W/4)]", inputs=x)
    assert by_text.plan.inputs[0].steps == ()
