"""Clips, volumes and images in each other's place: layouts turned, frames one by one, one frame as a clip."""

import einops
import pytest
import torch
from clip_models import Clip3d, Images, ListedClip
from guests import guest

import autoadapt as aa

CLIP = (2, 3, 8, 32, 48)


def remarks(net):
    return " ".join(net.plan.remarks)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("order", "layout"), [("thw", "b c t h w"), ("wht", "b t h w c"), ("hwt", "b t c h w"), ("twh", "b t c h w")]
)
def test_tokens_of_a_clip_serve_maps_with_each_cell_in_its_place(order, layout):
    new, old = ListedClip(order, 1, layout=layout), torch.nn.Conv3d(3, 12, (2, 8, 8), (2, 8, 8))
    clip = torch.randn(CLIP)
    net = aa.adapt(new, like=old, inputs=clip)
    other = torch.randn(1, 3, 4, 16, 64)
    expected = new.map_of(new(einops.rearrange(other, f"b c t h w -> {layout}")), t=2, h=2, w=8)
    torch.testing.assert_close(net(other), expected)
    assert net.plan.parameters == 0


def test_maps_of_a_clip_serve_tokens_in_the_order_of_the_old_ones():
    new, old = torch.nn.Conv3d(3, 12, (2, 8, 8), (2, 8, 8)), ListedClip("hwt", layout="b t c h w")
    net = aa.adapt(new, like=old, inputs=torch.randn(2, 8, 3, 32, 48))
    clip = torch.randn(1, 4, 3, 16, 64)
    torch.testing.assert_close(net(clip), einops.rearrange(new(clip.transpose(1, 2)), "b c t h w -> b (h w t) c"))


class Placed(torch.nn.Module):
    """Tokens of 2 frames and 8 x 8 pixels in an order, with a table of positions."""

    def __init__(self, channels, order, count):
        super().__init__()
        self.order, self.embed = order, torch.nn.Conv3d(3, channels, (2, 8, 8), (2, 8, 8))
        self.table = torch.nn.Parameter(torch.randn(count, channels))

    def forward(self, x):
        return einops.rearrange(self.embed(x), f"b c t h w -> b ({' '.join(self.order)}) c") + self.table


@pytest.mark.slow
@pytest.mark.parametrize(
    ("orders", "cells"),
    [
        (("hwt", "thw"), (2, 2, 2)),
        (("thw", "wth"), (2, 2, 3)),
        (("hwt", "thw"), (2, 4, 4)),
        (("thw", "wth"), (2, 2, 2)),
    ],
)
def test_the_order_of_tokens_is_found_on_grids_of_two_along_a_side(orders, cells):
    (frames, rows, columns), count = cells, cells[0] * cells[1] * cells[2]
    old, new = Placed(8, orders[0], count), Placed(8, orders[1], count)
    clip = torch.randn(2, 3, 2 * frames, 8 * rows, 8 * columns)
    net = aa.adapt(new, like=old, inputs=clip)
    pattern = f"b ({' '.join(orders[1])}) c -> b ({' '.join(orders[0])}) c"
    torch.testing.assert_close(net(clip), einops.rearrange(new(clip), pattern, t=frames, h=rows, w=columns))


def test_a_module_of_images_serves_a_clip_frame_by_frame():
    new, old = Images(), Clip3d(6)
    net = aa.adapt(new, like=old, inputs=torch.randn(CLIP))
    assert "reads each frame of x as an image: nothing is seen across frames" in remarks(net)
    assert net.plan.inputs[0].steps[0].pattern == "b c t h w -> (b t) c h w"
    clip = torch.randn(3, 3, 5, 32, 40)
    torch.testing.assert_close(net(clip)[0][:, :, 3], new(clip[:, :, 3])[0])
    assert net(clip)[1].shape == old(clip)[1].shape
    assert net.verify().passed


def test_scores_of_a_clip_are_a_mean_over_frames_of_images():
    old = torch.nn.Sequential(torch.nn.Conv3d(3, 8, 3), torch.nn.AdaptiveAvgPool3d(1), torch.nn.Flatten())
    net = aa.adapt(Images(), like=old, inputs=torch.randn(CLIP))
    clip = torch.randn(CLIP)
    still = clip[:, :, :1].expand(CLIP)
    torch.testing.assert_close(net(still), net(still[:, :, :4]))
    torch.testing.assert_close(net(clip), net(clip.flip(2)))
    assert net.verify().passed


def test_a_module_of_clips_serves_an_image_as_a_clip_of_one_frame():
    new, old = Clip3d(), Images()
    net = aa.adapt(new, like=old, inputs=torch.randn(2, 3, 32, 48))
    assert "reads x as a clip of one frame: it sees nothing move" in remarks(net)
    image = torch.randn(1, 3, 40, 24)
    features = new(image[:, :, None])[0][:, :, 0]
    project = next(one for one in net.adapters.modules() if isinstance(one, torch.nn.Conv2d))
    torch.testing.assert_close(net(image)[0], project(features))
    assert net.verify().passed


def test_an_image_that_is_given_by_name_is_tried_as_a_clip_and_with_other_channels_too():
    image = {"x": torch.randn(2, 3, 32, 48)}
    assert aa.adapt(Clip3d(), like=Images(), inputs=image)(**image)[0].shape == (2, 6, 16, 24)
    grey = aa.adapt(torch.nn.Conv2d(1, 6, 2, 2), like=Images(), inputs=image, outputs=["0"])
    assert grey(**image)[0].shape == (2, 6, 16, 24)


@pytest.mark.slow
def test_a_module_of_clips_of_8_frames_is_given_an_image_8_times():
    new = ListedClip(size=(8, 32, 32))
    net = aa.adapt(new, like=torch.nn.Conv2d(3, 12, 8, 8), inputs=torch.randn(1, 3, 32, 32))
    assert "a clip of 8 frames that are all it" in remarks(net)
    image = torch.randn(2, 3, 32, 32)
    tokens = new(image[:, :, None].expand(-1, -1, 8, -1, -1))
    torch.testing.assert_close(net(image), new.map_of(tokens, t=4, h=4, w=4).mean(2))


@pytest.mark.guest
@pytest.mark.slow
@pytest.mark.parametrize("name", ["r3d_18", "s3d", "swin3d_t", "mvit_v2_s"])  # one of each class
def test_video_models_of_torchvision_serve_images(name):
    video = guest("torchvision").models.video
    net = aa.adapt(getattr(video, name)(weights=None).eval(), like=Images(), inputs=torch.randn(1, 3, 64, 64))
    assert [level.shape for level in net(torch.randn(2, 3, 96, 80))] == [(2, 6, 48, 40), (2, 10, 12, 10)]
    assert "it sees nothing move" in remarks(net)


def videomae():
    transformers = guest("transformers")
    torch.manual_seed(0)
    return transformers.VideoMAEModel(
        transformers.VideoMAEConfig(
            image_size=32,
            patch_size=8,
            num_frames=8,
            tubelet_size=2,
            hidden_size=24,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=32,
        )
    ).eval()


@pytest.mark.guest
def test_videomae_and_convolutions_of_clips_serve_each_other():
    new, old = videomae(), torch.nn.Conv3d(3, 24, (2, 8, 8), (2, 8, 8))
    net = aa.adapt(new, like=old, inputs=torch.randn(2, 3, 8, 32, 32))
    clip = torch.randn(1, 3, 8, 32, 32)
    tokens = new(clip.transpose(1, 2)).last_hidden_state
    torch.testing.assert_close(net(clip), einops.rearrange(tokens, "b (t h w) c -> b c t h w", t=4, h=4))
    back = aa.adapt(old, like=new, inputs=clip.transpose(1, 2))
    made = back(clip.transpose(1, 2)).last_hidden_state
    torch.testing.assert_close(made, einops.rearrange(old(clip), "b c t h w -> b (t h w) c"))


@pytest.mark.guest
@pytest.mark.parametrize("kind", ["conv", "perceptron"])
def test_a_vit_of_monai_serves_a_volume(kind):
    nets = guest("monai.networks.nets")
    options = {"patch_size": 16, "hidden_size": 24, "mlp_dim": 32, "num_layers": 2, "num_heads": 2}
    torch.manual_seed(0)
    vit = nets.ViT(1, (64, 64, 64), proj_type=kind, classification=False, **options).eval()
    like, shape = torch.nn.Conv3d(1, 24, 16, 16), (1, 1, 64, 64, 64)
    net = aa.adapt(vit, like=like, inputs=torch.randn(shape))
    assert net.plan.routes[0].source == "0"
    volume = torch.randn(1, 1, 64, 64, 64)
    torch.testing.assert_close(net(volume), einops.rearrange(vit(volume)[0], "b (t h w) c -> b c t h w", t=4, h=4))


def transformer_of_clips(name, hidden):
    transformers = guest("transformers")
    options = {"image_size": 32, "patch_size": 16, "num_frames": 8, "num_hidden_layers": 4, "num_attention_heads": 2}
    config = getattr(transformers, f"{name}Config")(**options, hidden_size=hidden, intermediate_size=48)
    return getattr(transformers, f"{name}Model")(config).eval()


class Cut3d(torch.nn.Module):
    """A network of clips that ends at stride 8, as the first three stages of a residual one."""

    def __init__(self):
        super().__init__()
        strides = ((1, 2, 2), (2, 2, 2), (2, 2, 2))
        self.layers = torch.nn.Sequential(*(torch.nn.LazyConv3d(8, 3, stride, 1) for stride in strides))

    def forward(self, pixel_values):
        return self.layers(pixel_values.transpose(1, 2))


@pytest.mark.guest
@pytest.mark.slow
@pytest.mark.parametrize("old", ["Timesformer", "cut"])
@pytest.mark.parametrize("new", ["VideoMAE", "Vivit"])
def test_what_a_transformer_of_clips_returns_serves_a_single_result_not_one_of_its_blocks(old, new):
    x = {"pixel_values": torch.randn(2, 8, 3, 32, 32)}
    like = Cut3d() if old == "cut" else transformer_of_clips(old, 24)
    like(**x)
    net = aa.adapt(transformer_of_clips(new, 20), like=like, inputs=x)
    assert [route.source for route in net.plan.routes] == ["last_hidden_state"]


class Divided(torch.nn.Module):
    """Tokens frame by frame, and a sum over groups of as many frames as it was built for, `[B, T, 3, H, W]`."""

    def __init__(self, frames, width):
        super().__init__()
        torch.manual_seed(0)
        self.frames, self.embed = frames, torch.nn.Linear(3 * 8 * 8, width)

    def forward(self, x):
        patches = einops.rearrange(x, "b t c (h r) (w k) -> b t h w (c r k)", r=8, k=8)
        tokens = self.embed(patches).unflatten(1, (-1, self.frames))
        return (tokens + tokens.mean(2, keepdim=True)).flatten(1, 4)


@pytest.mark.slow
@pytest.mark.parametrize("frames", [3, 4, 5])
def test_a_module_of_as_many_frames_as_colours_takes_multiples_of_them_as_others_do(frames):
    seen = aa.capture(Divided(frames, 12), torch.randn(2, frames, 3, 32, 32))
    assert str(seen.inputs.leaves[0]) == "f32[B, T, 3, H, W]"
    assert seen.axes["T"].step == frames
    new, old = Divided(frames, 12), Divided(2, 8)
    clip = torch.randn(2, 2 * frames, 3, 32, 32)
    net = aa.adapt(new, like=old, inputs=clip)
    torch.testing.assert_close(net(clip), net.adapters["output"](new(clip)))


def test_tokens_of_one_number_alone_are_refused_without_a_word_of_channels():
    class Words(torch.nn.Linear):
        def __init__(self, width, count=0):
            super().__init__(5, width)
            self.count = count

        def forward(self, x):
            if self.count not in (0, x.shape[1]):
                raise ValueError(f"{self.count} words")
            return super().forward(x)

    with pytest.raises(aa.AdaptError, match=r"build the new module for these inputs, whatever N is"):
        aa.adapt(Words(6, 9), like=Words(8), inputs=torch.randn(2, 9, 5))


def test_tokens_of_images_serve_those_of_clips_with_the_mean_of_all_cells_as_class_token():
    class Tokens(torch.nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.embed, self.first = torch.nn.Conv2d(3, 12, 8, 8), torch.nn.Parameter(torch.randn(1, 1, 12))

        def forward(self, x):
            return torch.cat([self.first.expand(len(x), -1, -1), self.embed(x).flatten(2).mT], 1)

    new, old = Tokens(), ListedClip("hwt", 1, patch=(1, 8, 8))
    clip = torch.randn(2, 3, 4, 32, 48)
    net = aa.adapt(new, like=old, inputs=clip)
    cells = einops.rearrange(new.embed(clip.transpose(1, 2).flatten(0, 1)), "(b t) c h w -> b (h w t) c", b=2)
    torch.testing.assert_close(net(clip), torch.cat([cells.mean(1, keepdim=True), cells], 1))
