"""Families of models without a mode for other sizes: each equals the model that is built for the size."""

from __future__ import annotations

import copy
import pickle

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

FAMILIES = {
    "pit": ("pit_ti_224", {"base_dims": (8, 8, 8), "depth": (1, 1, 1), "heads": (1, 2, 4)}),
    "cait": ("cait_xxs24_224", {"embed_dim": 24, "depth": 2, "num_heads": 3}),
    "visformer": ("visformer_tiny", {"embed_dim": 48, "depth": (1, 1, 1), "num_heads": 3}),
    "volo": ("volo_d1_224", {"layers": (1, 1, 1, 1), "embed_dims": (16, 32, 32, 32), "num_heads": (2, 2, 2, 2)}),
}


def made(family: str, size: int) -> nn.Module:
    name, smaller = FAMILIES[family]
    model = timm.create_model(name, img_size=size, num_classes=4)
    kind = type(model)
    if family == "cait":
        return kind(img_size=size, num_classes=4, **smaller).eval()
    patches = {"patch_size": 16, "stride": 8} if family == "pit" else {}
    return kind(img_size=size, num_classes=4, **patches, **smaller).eval()


def noisy(model: nn.Module) -> nn.Module:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model


def moved(model: nn.Module, large: nn.Module) -> nn.Module:
    """The large model with the weights of the small one, positions resampled by hand."""
    state = model.state_dict()
    for name in [one for one in state if one.startswith("pos_embed")]:
        state[name] = moved_positions(state[name], large.get_parameter(name))
    large.load_state_dict(state)
    return large


def moved_positions(given: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    if given.dim() == 3:
        side, wide = int(given.shape[1] ** 0.5), int(wanted.shape[1] ** 0.5)
        cells = given.transpose(1, 2).unflatten(2, (side, side))
        cells = F.interpolate(cells, (wide, wide), mode="bicubic", antialias=True)
        return cells.flatten(2).transpose(1, 2)
    if given.shape[1] == wanted.shape[1]:
        return F.interpolate(given, wanted.shape[2:], mode="bicubic", antialias=True)
    cells = given.permute(0, 3, 1, 2)
    return F.interpolate(cells, wanted.shape[1:3], mode="bicubic", antialias=True).permute(0, 2, 3, 1)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_freed_model_equals_one_that_is_built_larger_with_resampled_positions(family: str) -> None:
    model = noisy(made(family, 64))
    large = moved(model, made(family, 128))
    lift, freed = lift_of(model), view(model)
    assert lift is not None
    assert tuple(lift.size) == (64, 64)
    lift.apply(freed)
    assert unproven(model, freed, lift.size, 3) == ""
    image = torch.randn(1, 3, 128, 128)
    with torch.no_grad():
        assert torch.allclose(freed(image), large(image), atol=1e-4, rtol=1e-4)
        assert freed(torch.randn(2, 3, 96, 64)).shape == (2, 4)


@pytest.mark.parametrize("shared", [False, True])
def test_biases_of_beit_are_those_of_a_larger_model_with_resampled_tables(shared: bool) -> None:
    sizes = {"patch_size": 16, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 4}
    sizes |= {"use_rel_pos_bias": not shared, "use_shared_rel_pos_bias": shared, "use_abs_pos_emb": False}
    model = noisy(timm.models.Beit(img_size=64, **sizes)).eval()
    large = timm.models.Beit(img_size=(96, 128), **sizes).eval()
    state = model.state_dict()
    for name in [one for one in state if one.endswith("bias_table")]:
        cells = state[name][:-3].reshape(7, 7, 3).permute(2, 0, 1)[None]
        cells = F.interpolate(cells, (11, 15), mode="bicubic", antialias=True)[0].permute(1, 2, 0).reshape(-1, 3)
        state[name] = torch.cat([cells, state[name][-3:]])
    large.load_state_dict(state)
    lift, freed = lift_of(model), view(model)
    assert lift is not None
    lift.apply(freed)
    own, image = torch.randn(1, 3, 64, 64), torch.randn(1, 3, 96, 128)
    with torch.no_grad():
        assert torch.equal(freed(own), model(own))
        assert torch.allclose(freed(image), large(image), atol=1e-4, rtol=1e-4)
    freed(image).sum().backward()
    table = next(one for name, one in freed.named_parameters() if name.endswith("bias_table"))
    assert table.grad is not None
    assert table.grad.abs().sum() > 0


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.slow
def test_it_serves_levels_at_any_size_and_survives_copies(family: str) -> None:
    old = nn.Conv2d(3, 6, 16, stride=16)
    net = aa.adapt(noisy(made(family, 64)), like=old, inputs=torch.zeros(1, 3, 96, 80)).eval()
    assert net.plan.inputs[0].steps[0].op == "native"
    assert "Native" not in str(net.plan)  # a name that nobody knows
    image = torch.randn(1, 3, 83, 131)
    with torch.no_grad():
        wanted = net(image)
        assert wanted.shape == old(image).shape
        for one in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
            assert torch.equal(one.eval()(image), wanted)


def vit_of(library: str) -> nn.Module:
    if library == "torchvision":
        return noisy(torchvision.models.VisionTransformer(32, 8, 2, 3, 24, 48, num_classes=4)).eval()
    if library == "swinv2_cr":
        sizes = {"img_size": 64, "embed_dim": 12, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4}
        return noisy(timm.create_model("swinv2_cr_tiny_ns_224", **sizes)).eval()
    sizes = {"image_size": 32, "patch_size": 8, "hidden_size": 24, "num_attention_heads": 3, "intermediate_size": 48}
    return noisy(transformers.ViTModel(transformers.ViTConfig(num_hidden_layers=2, **sizes))).eval()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["transformers", "pit", "torchvision", "swinv2_cr", "volo"])
def test_rows_and_columns_beyond_whole_patches_are_read(kind: str) -> None:
    model = noisy(made(kind, 64)) if kind in FAMILIES else vit_of(kind)
    old = nn.Conv2d(3, 6, 8, stride=8, padding=4)
    net = aa.adapt(model, like=old, inputs=torch.zeros(1, 3, 73, 105)).eval()
    assert [step.op for step in net.plan.inputs[0].steps][:2] == ["native", "pad"]
    image = torch.randn(1, 3, 73, 105)
    low, right = image.clone(), image.clone()
    low[:, :, 72:], right[:, :, :, 104:] = 5, 5
    with torch.no_grad():
        found = net(image)
        assert found.shape == old(image).shape
        assert not torch.allclose(net(low), found, atol=1e-3)
        assert not torch.allclose(net(right), found, atol=1e-3)


def test_features_of_a_model_whose_other_entry_is_tied_are_read_from_resized_images() -> None:
    model = timm.create_model("cait_xxs24_224", features_only=True, out_indices=(1,))
    old = nn.Conv2d(3, 6, 16, stride=16)
    net = aa.adapt(model, like=old, inputs=torch.zeros(1, 3, 96, 80))
    assert [step.op for step in net.plan.inputs[0].steps][-1] == "resize"
    assert "images are resized to 224x224" in " ".join(net.plan.remarks)


@pytest.mark.slow
def test_a_program_that_was_exported_holds_at_the_own_size_too() -> None:
    model = noisy(made("pit", 64))
    net = aa.adapt(model, like=nn.Conv2d(3, 6, 16, stride=16), inputs=torch.zeros(1, 3, 96, 80)).eval()
    dims = dict.fromkeys((0, 2, 3), torch.export.Dim.DYNAMIC)
    program = torch.export.export(net, (torch.randn(3, 3, 96, 80),), dynamic_shapes=(dims,)).module()
    with torch.no_grad():
        for size in [(64, 64), (97, 131)]:
            image = torch.randn(2, 3, *size)
            assert torch.allclose(program(image), net(image), atol=1e-4)
