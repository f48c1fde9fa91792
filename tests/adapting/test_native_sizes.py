"""Modules that were built for one image size read images at their own."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import pytest
import timm
import torch
import torchvision
import transformers
from torch import nn
from torch.nn import functional as F

import autoadapt as aa
from autoadapt.contracts.native import lift_of, unproven
from autoadapt.contracts.views import view

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 4}
EVA = VIT | {"img_size": 64, "patch_size": 16, "num_heads": 2}
SWIN = {"img_size": 64, "embed_dim": 12, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4, "num_classes": 4}
HF = {"image_size": 32, "patch_size": 8, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3}
HF |= {"intermediate_size": 48}


def timm_pair(name: str, sizes: dict[str, object], **dynamic: object) -> tuple[nn.Module, nn.Module]:
    """A model tied to its size, and the same as timm itself builds it for all sizes."""
    tied = filled(timm.create_model(name, **sizes))
    free = timm.create_model(name, **sizes, **dynamic).eval()
    free.load_state_dict(tied.state_dict())
    return tied, free


def filled(module: nn.Module) -> nn.Module:
    """In eval mode, with noise also where weights begin as zeros, such as position embeddings."""
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return module.eval()


def hugging(kind: str, **more: object) -> nn.Module:
    config = getattr(transformers, f"{kind}Config")(**HF, **more)
    name = f"{kind}Model" if hasattr(transformers, f"{kind}Model") else kind
    return filled(getattr(transformers, name)(config))


def freed(module: nn.Module) -> nn.Module:
    lift = lift_of(module)
    assert lift is not None
    made = view(module)
    lift.apply(made)
    assert unproven(module, made, lift.size, 3) == ""
    return made


class Levels(nn.Module):
    """Maps at strides 4 and 16, as a convolutional backbone returns them."""

    def __init__(self, padding: int = 1) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 6, 2 + padding, stride=4, padding=padding)
        self.second = nn.Conv2d(6, 8, 2 + padding, stride=4, padding=padding)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        first = self.first(x)
        return [first, self.second(first)]


def tied() -> nn.Module:
    return filled(timm.create_model("vit_tiny_patch16_224", **VIT))


DYNAMIC = {"dynamic_img_size": True}
FREE = {"strict_img_size": False}


@pytest.mark.parametrize(
    ("name", "sizes", "dynamic"),
    [
        ("vit_tiny_patch16_224", VIT, DYNAMIC),
        ("swin_tiny_patch4_window7_224", SWIN, FREE),
        ("eva02_tiny_patch14_224", EVA, DYNAMIC),
        ("deit_tiny_distilled_patch16_224", VIT, DYNAMIC),
        ("vit_small_patch14_reg4_dinov2", VIT, DYNAMIC),
        ("flexivit_small", VIT, DYNAMIC),
        ("swinv2_tiny_window8_256", SWIN, FREE),
        ("swinv2_cr_tiny_ns_224", SWIN, FREE),
    ],
)
@pytest.mark.sampled(3)
def test_a_freed_model_of_timm_returns_what_timm_s_own_dynamic_mode_does(
    name: str, sizes: dict[str, object], dynamic: dict[str, object]
) -> None:
    model, free = timm_pair(name, sizes, **dynamic)
    made = freed(model)
    with torch.no_grad():
        for size in [(sizes["img_size"],) * 2, (128, 64), (64, 128)]:
            image = torch.randn(1, 3, *size)
            assert torch.equal(made.forward_features(image), free.forward_features(image))


@pytest.mark.parametrize("kind", ["ViT", "DeiT", "CLIPVision", "SiglipVision", "IJepa"])
@pytest.mark.sampled(2)
def test_a_freed_model_of_transformers_returns_what_it_does_when_it_is_asked_to_interpolate(kind: str) -> None:
    model = hugging(kind)
    made, image = freed(model), torch.randn(1, 3, 64, 48)
    with torch.no_grad():
        found, wanted = made(image), model(image, interpolate_pos_encoding=True)
    assert torch.equal(found.last_hidden_state, wanted.last_hidden_state)


def test_a_freed_vision_transformer_of_torchvision_equals_one_that_is_built_larger_with_resampled_positions() -> None:
    sizes = {"patch_size": 8, "num_layers": 2, "num_heads": 3, "hidden_dim": 24, "mlp_dim": 48, "num_classes": 4}
    model = filled(torchvision.models.VisionTransformer(image_size=32, **sizes))
    large = torchvision.models.VisionTransformer(image_size=64, **sizes).eval()
    state = model.state_dict()
    cells = state["encoder.pos_embedding"][:, 1:].reshape(1, 4, 4, 24).permute(0, 3, 1, 2)
    moved = F.interpolate(cells, (8, 8), mode="bicubic", antialias=True).flatten(2).permute(0, 2, 1)
    state["encoder.pos_embedding"] = torch.cat([state["encoder.pos_embedding"][:, :1], moved], dim=1)
    large.load_state_dict(state)
    image = torch.randn(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.allclose(freed(model)(image), large(image), atol=1e-5)
        assert freed(model)(torch.randn(1, 3, 40, 64)).shape == (1, 4)


def test_a_backbone_of_one_size_reads_larger_images_whole() -> None:
    model, old = tied(), Levels()
    net = aa.adapt(model, like=old, inputs=torch.zeros(1, 3, 96, 80)).eval()
    assert [step.op for step in net.plan.inputs[0].steps] == ["native", "pad"]
    for size in [(96, 80), (97, 131), (32, 32), (33, 20)]:
        image = torch.randn(1, 3, *size)
        assert [one.shape for one in net(image)] == [one.shape for one in old(image)]
    assert str(net.plan).count("native: position embedding 4x4 resampled") == 1
    assert "resolution='fixed' would resize to 32x32" in " ".join(net.plan.remarks)


def test_a_freed_backbone_at_its_own_size_gives_the_features_that_it_gave() -> None:
    model = tied()
    like = timm.create_model("vit_tiny_patch16_224", **VIT, dynamic_img_size=True)
    like.reset_classifier(0, "")
    model.reset_classifier(0, "")
    net = aa.adapt(model, like=like, inputs=torch.zeros(1, 3, 64, 48)).eval()
    image = torch.randn(2, 3, 32, 32)
    assert [step.op for step in net.plan.inputs[0].steps] == ["native"]
    with torch.no_grad():
        assert torch.equal(net(image), model(image))


def test_features_of_a_smooth_image_at_twice_the_size_are_those_of_the_small_image() -> None:
    model = timm.create_model("vit_tiny_patch16_224", **VIT).eval()
    smooth = F.interpolate(torch.randn(1, 3, 3, 3), (32, 32), mode="bicubic")
    made = freed(model)
    with torch.no_grad():
        small = model.forward_features(smooth)[:, 1:].transpose(1, 2).unflatten(2, (4, 4))
        large = made.forward_features(F.interpolate(smooth, (64, 64), mode="bilinear"))
        large = F.avg_pool2d(large[:, 1:].transpose(1, 2).unflatten(2, (8, 8)), 2)
    assert F.cosine_similarity(small.flatten(1), large.flatten(1)) > 0.8


def test_the_user_s_module_stays_tied_and_shares_its_weights() -> None:
    model = tied()
    before = {name: vars(part).copy() for name, part in model.named_modules()}
    net = aa.adapt(model, like=Levels(), inputs=torch.zeros(1, 3, 64, 64))
    assert all(vars(part).keys() == before[name].keys() for name, part in model.named_modules())
    assert model.patch_embed.strict_img_size
    assert not model.dynamic_img_size
    with pytest.raises(AssertionError, match="doesn't match model"):
        model(torch.zeros(1, 3, 64, 64))
    own = dict(model.named_parameters())
    assert net.backbone.pos_embed.data_ptr() == own["pos_embed"].data_ptr()
    net(torch.randn(1, 3, 64, 48))[1].sum().backward()
    assert net.backbone.pos_embed.grad.abs().sum() > 0
    assert {name for name, _ in net.backbone.named_parameters()} <= own.keys()


@pytest.mark.sampled(1)
@pytest.mark.parametrize("make", [tied, lambda: hugging("ViT")], ids=["timm", "transformers"])
def test_copies_and_saved_folders_stay_free(make: Callable[[], nn.Module], tmp_path: Path) -> None:
    model, image = make(), torch.randn(1, 3, 48, 72)
    net = aa.adapt(model, like=Levels(), inputs=torch.zeros(1, 3, 64, 64)).eval()
    aa.save(net, tmp_path / "net")
    with torch.no_grad():
        wanted = net(image)
        for one in (copy.deepcopy(net), pickle.loads(pickle.dumps(net)), aa.restore(tmp_path / "net", new=make())):
            assert all(map(torch.equal, one.eval()(image), wanted))


def test_attributes_that_free_a_module_are_written_as_plain_pytorch(tmp_path: Path) -> None:
    model, image = tied(), torch.randn(1, 3, 97, 131)
    net = aa.adapt(model, like=Levels(), inputs=torch.zeros(1, 3, 64, 64)).eval()
    names: dict[str, type[nn.Module]] = {}
    exec(aa.to_source(net), names)
    written = names["Adapted"](copy.deepcopy(model))
    written.load_state_dict(net.state_dict())
    with torch.no_grad():
        assert all(map(torch.equal, written.eval()(image), net(image)))


@pytest.mark.slow
def test_more_than_attributes_is_refused_by_name() -> None:
    net = aa.adapt(hugging("ViT"), like=Levels(), inputs=torch.zeros(1, 3, 64, 64))
    with pytest.raises(aa.SavingError, match="native sizes are not written as plain PyTorch"):
        aa.to_source(net)


@pytest.mark.slow
def test_swin_reads_natively_and_is_then_exported_for_one_size_alone(tmp_path: Path) -> None:
    swin, old = filled(timm.create_model("swin_tiny_patch4_window7_224", **SWIN)), Levels()
    fixed = aa.adapt(swin, like=old, inputs=torch.zeros(1, 3, 96, 128), resolution="fixed")
    assert [step.op for step in fixed.plan.inputs[0].steps][-1] == "resize"
    net = aa.adapt(swin, like=old, inputs=torch.zeros(1, 3, 96, 128)).eval()
    assert net.plan.inputs[0].steps[0].op == "native"
    said = "it reads natively, but its windows can be neither compiled nor exported at sizes that vary"
    assert said in net.plan.remarks
    image = torch.randn(1, 3, 97, 131)
    assert [one.shape for one in net(image)] == [one.shape for one in old(image)]
    with pytest.raises(aa.ExportError, match="exported for one size alone") as caught:
        aa.export(net, tmp_path / "net.pt2")
    assert 'ranges={"H": 96, "W": 128}' in caught.value.mismatches[0].remedy


def test_padding_gives_the_features_of_the_image_with_zeros_below_and_to_the_right() -> None:
    net = aa.adapt(tied(), like=Levels(), inputs=torch.zeros(1, 3, 64, 64)).eval()
    image = torch.randn(1, 3, 50, 61)
    with torch.no_grad():
        found, padded = net(image), net(F.pad(image, (0, 3, 0, 6)))
    assert [one.shape[2:] for one in found] == [(13, 16), (4, 4)]
    assert torch.allclose(found[0], padded[0][:, :, :13, :16], atol=1e-5)


def test_resizing_is_had_on_request_and_keeps_the_dims() -> None:
    old = Levels()
    net = aa.adapt(tied(), like=old, inputs=torch.zeros(1, 3, 64, 64), fit="resize")
    assert [step.op for step in net.plan.inputs[0].steps] == ["native", "resize"]
    image = torch.randn(1, 3, 50, 61)
    assert [one.shape for one in net(image)] == [one.shape for one in old(image)]


def test_fixed_leaves_the_module_as_it_is() -> None:
    net = aa.adapt(tied(), like=Levels(), inputs=torch.zeros(1, 3, 64, 64), resolution="fixed")
    assert [step.op for step in net.plan.inputs[0].steps] == ["resize"]


def test_images_of_the_very_size_need_nothing() -> None:
    old = timm.create_model("vit_tiny_patch16_224", **VIT)
    net = aa.adapt(tied(), like=old, inputs=torch.zeros(1, 3, 32, 32))
    assert net.plan.inputs[0].steps == ()


@pytest.mark.slow
def test_native_is_refused_where_nothing_frees_the_module() -> None:
    mixer = timm.models.MlpMixer(img_size=64, patch_size=16, embed_dim=8, num_blocks=1, num_classes=2)
    left = aa.adapt(mixer, like=Levels(), inputs=torch.zeros(1, 3, 96, 96))
    said = "images are resized to 64x64, which MlpMixer was built for: nothing that is known frees it"
    assert said in left.plan.remarks
    fixed = aa.adapt(mixer, like=Levels(), inputs=torch.zeros(1, 3, 96, 96), resolution="fixed")
    assert said not in fixed.plan.remarks
    with pytest.raises(aa.AdaptError, match="MlpMixer cannot read images at their own size") as caught:
        aa.adapt(mixer, like=Levels(), inputs=torch.zeros(1, 3, 96, 96), resolution="native")
    (fault,) = caught.value.mismatches
    assert (fault.where, fault.found) == ("MlpMixer, resolution", "64x64 only, and nothing that is known frees it")
    assert 'resolution="fixed"' in fault.remedy


def test_padding_an_image_to_more_than_twice_its_size_is_refused() -> None:
    coarse = nn.Sequential(nn.Conv2d(3, 4, 64, stride=64), nn.Unflatten(2, (-1, 1)), nn.Flatten(2, 3))
    old = nn.Conv2d(3, 4, 8, stride=8)
    with pytest.raises(aa.AdaptError, match="legal size near") as caught:
        aa.adapt(_Strict(coarse[0]), like=old, inputs=torch.zeros(1, 3, 24, 24), fit="pad")
    assert caught.value.mismatches[0].remedy == 'fit="resize"'


def test_an_image_of_half_a_patch_is_resized_and_padding_that_is_asked_for_is_refused() -> None:
    old = Levels()
    net = aa.adapt(tied(), like=old, inputs=torch.zeros(1, 3, 4, 4)).eval()
    assert [step.op for step in net.plan.inputs[0].steps] == ["native", "resize"]
    assert "multiply-adds at 8x8, read natively" in " ".join(net.plan.remarks)
    with pytest.raises(aa.AdaptError, match="legal size near 4 pixels"):
        aa.adapt(tied(), like=old, inputs=torch.zeros(1, 3, 4, 4), fit="pad")


def test_padding_is_refused_where_the_contract_does_not_tell_which_cells_the_zeros_fill() -> None:
    text = aa.Signature.parse("f32[B, 6, ceil(H/4), ceil(W/4)]", inputs="f32[B, 3, H, W]")
    with pytest.raises(aa.AdaptError, match="images cannot be padded for these outputs") as caught:
        aa.adapt(tied(), like=text, inputs=torch.zeros(1, 3, 64, 64), fit="pad")
    (fault,) = caught.value.mismatches
    assert "stretched over the zeros too: the contract does not tell where cells lie" in fault.found
    assert fault.remedy.startswith('fit="resize"')


def test_cells_of_a_text_are_padded_where_none_is_stretched() -> None:
    text = aa.Signature.parse("f32[B, 24, ceil(H/8), ceil(W/8)]", inputs="f32[B, 3, H, W]")
    net = aa.adapt(tied(), like=text, inputs=torch.zeros(1, 3, 64, 64), fit="pad").eval()
    image = torch.randn(1, 3, 50, 61)
    with torch.no_grad():
        assert torch.equal(net(image), net(F.pad(image, (0, 3, 0, 6))))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("resolution", [None, "native"])
def test_a_contract_of_texts_alone_is_served_at_every_size_of_the_image(resolution: Literal["native"] | None) -> None:
    like = ["f32[B, 24, ceil(H/8), ceil(W/8)]"]
    net = aa.adapt(tied(), like=like, inputs=torch.zeros(1, 3, 40, 50), resolution=resolution).eval()
    assert [step.op for step in net.plan.inputs[0].steps] == ["native", "resize"]
    assert net(torch.zeros(1, 3, 40, 50))[0].shape == (1, 24, 5, 7)


def test_a_contract_of_texts_alone_gets_images_resized_for_a_module_of_one_size() -> None:
    mixer = timm.models.MlpMixer(img_size=64, patch_size=16, embed_dim=8, num_blocks=1, num_classes=2)
    net = aa.adapt(mixer, like=["f32[B, 8, ceil(H/8), ceil(W/8)]"], inputs=torch.zeros(1, 3, 40, 50)).eval()
    image = torch.randn(1, 3, 40, 50)
    assert [step.op for step in net.plan.inputs[0].steps] == ["resize"]
    assert net(image)[0].shape == (1, 8, 5, 7)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("like", [nn.Conv2d(3, 4, 8, stride=8), "f32[B, 4, floor(H/8), floor(W/8)]"])
def test_images_are_not_padded_for_a_module_of_one_size_since_larger_ones_would_be_cut(like: object) -> None:
    model = nn.Sequential(_OneSize(), nn.Conv2d(3, 4, 8, stride=8))
    with pytest.raises(aa.AdaptError) as caught:
        aa.adapt(model, like=like, inputs=torch.zeros(1, 3, 64, 48), fit="pad")
    (fault,) = caught.value.mismatches
    assert (fault.where, fault.found) == ("fit", "32 alone, which larger ones would be cut to")
    assert fault.remedy == 'fit="resize"'


class _OneSize(nn.Module):
    """Takes 32x32 alone."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2:] != (32, 32):
            raise ValueError("32x32 only")
        return x


def test_images_are_resized_where_one_of_the_levels_alone_is_not_told_where_it_lies() -> None:
    told = aa.capture(Levels(), torch.zeros(1, 3, 64, 64))
    first, second = told.outputs.leaves
    leaves = (first.model_copy(update={"centres": ()}), second)
    old = told.model_copy(update={"outputs": told.outputs.model_copy(update={"leaves": leaves})})
    net = aa.adapt(tied(), like=old, inputs=torch.zeros(1, 3, 64, 64))
    assert [step.op for step in net.plan.inputs[0].steps] == ["native", "resize"]


class _Strict(nn.Module):
    """Takes multiples of 64 alone."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if x.shape[2] % 64 or x.shape[3] % 64:
            raise ValueError("multiples of 64")
        return self.conv(x)


@pytest.mark.parametrize(
    ("options", "text"),
    [({"resolution": "big"}, "there is no such resolution"), ({"fit": "crop"}, "there is no such fit")],
)
def test_other_words_are_refused(options: dict[str, str], text: str) -> None:
    with pytest.raises(aa.AdaptError, match=text):
        aa.adapt(tied(), like=Levels(), inputs=torch.zeros(1, 3, 64, 64), **options)


def test_costs_are_told_of_layers_that_are_called_with_their_weights_by_name() -> None:
    model = timm.create_model("eva02_tiny_patch14_224", **EVA)
    net = aa.adapt(model, like=Levels(), inputs=torch.zeros(1, 3, 128, 128), resolution="native")
    assert any("multiply-adds at 128x128, read natively" in remark for remark in net.plan.remarks)


def test_a_hybrid_is_freed_although_its_padding_cannot_be_exported_at_sizes_that_vary() -> None:
    hybrid = filled(timm.create_model("vit_tiny_r_s16_p8_224", img_size=64, embed_dim=24, depth=1, num_heads=3))
    lift, image = lift_of(hybrid), torch.randn(1, 3, 96, 160)
    assert lift is not None
    assert "its padding can be neither compiled nor exported" in lift.untraced
    assert freed(hybrid).forward_features(image).shape == (1, 1 + 3 * 5, 24)
