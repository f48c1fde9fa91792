"""Plans that read images at their own size, and by other statistics, stay so in all that they are saved as."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import timm
import torch
import torchvision
from torch import nn

import autoadapt as aa

VIT = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 3, "num_classes": 4}
OLD = aa.Statistics(mean=(103.5, 116.3, 123.7), order="bgr", range=255)


def vit() -> nn.Module:
    model = timm.create_model("vit_tiny_patch16_224", **VIT)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) * 0.3)
    return model.eval()


class Patches(nn.Module):
    """Patches of 8, the last of them filled up with zeros."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 6, 8, stride=8)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(nn.functional.pad(x, (0, -x.shape[3] % 8, 0, -x.shape[2] % 8)))


def adapted(model: nn.Module) -> aa.AdaptedModule:
    """Patches of a model whose own mean and spread are 0.5, behind images as caffe wants them."""
    image = torch.zeros(1, 3, 64, 48)
    net = aa.adapt(model, like=Patches(), inputs=image, input_statistics=OLD).eval()
    assert [step.op for step in net.plan.inputs[0].steps] == ["native", "renormalize", "pad"]
    return net


def images() -> list[torch.Tensor]:
    return [torch.rand(1, 3, 72, 48) * 255 - 110, torch.rand(2, 3, 53, 91) * 255 - 110]


def read_by_hand(model: nn.Module, net: aa.AdaptedModule, image: torch.Tensor) -> torch.Tensor:
    """As timm itself reads images of other sizes, behind preprocessing written by hand."""
    free = timm.create_model("vit_tiny_patch16_224", **VIT, dynamic_img_size=True).eval()
    free.load_state_dict(model.state_dict())
    mean = torch.tensor(OLD.mean)[:, None, None]
    rgb = ((image + mean) / 255).flip(1)
    padded = nn.functional.pad((rgb - 0.5) / 0.5, (0, -image.shape[3] % 8, 0, -image.shape[2] % 8))
    taps = [tap.module for tap in net.plan.taps.values()]
    found: list[torch.Tensor] = []
    free.get_submodule(taps[0]).register_forward_hook(lambda *call: found.append(call[2]))
    free(padded)
    grid = [-(-size // 8) for size in image.shape[2:]]
    cells = found[0][:, 1:].transpose(1, 2).unflatten(2, grid)
    made: torch.Tensor = net.adapters["output"](cells)
    return made


@torch.no_grad()
def test_folders_keep_sizes_and_statistics(tmp_path: Path) -> None:
    model = vit()
    net = adapted(model)
    aa.save(net, tmp_path)
    again = aa.restore(tmp_path, new=vit()).eval()
    assert again.plan.inputs == net.plan.inputs
    for image in images():
        assert torch.equal(again(image), net(image))
        assert torch.allclose(net(image), read_by_hand(model, net, image), atol=1e-4)


@torch.no_grad()
def test_source_keeps_sizes_and_statistics() -> None:
    model = vit()
    net = adapted(model)
    names: dict[str, type[nn.Module]] = {}
    exec(aa.to_source(net), names)
    written = names["Adapted"](copy.deepcopy(model))
    written.load_state_dict(net.state_dict())
    for image in images():
        assert torch.equal(written.eval()(image), net(image))


@pytest.mark.slow
@torch.no_grad()
def test_onnx_files_keep_sizes_and_statistics_in_onnxruntime(tmp_path: Path) -> None:
    net = adapted(vit())
    aa.export(net, tmp_path / "net.onnx")
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    for image in images():
        (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        np.testing.assert_allclose(found, net(image).numpy(), atol=1e-3)


def swin() -> nn.Module:
    sizes = {"img_size": 64, "embed_dim": 12, "depths": (2, 2), "num_heads": (1, 2), "window_size": 4}
    return timm.create_model("swin_tiny_patch4_window7_224", **sizes).eval()


@pytest.mark.slow
@torch.no_grad()
def test_windows_are_exported_for_one_size_or_refused_by_name(tmp_path: Path) -> None:
    net = aa.adapt(swin(), like=Patches(), inputs=torch.zeros(1, 3, 96, 128)).eval()
    with pytest.raises(aa.ExportError, match="exported for one size alone"):
        aa.export(net, tmp_path / "net.onnx")
    aa.export(net, tmp_path / "net.onnx", ranges={"H": 96, "W": 128})
    session = onnxruntime.InferenceSession(tmp_path / "net.onnx", providers=["CPUExecutionProvider"])
    image = torch.randn(2, 3, 96, 128)
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    np.testing.assert_allclose(found, net(image).numpy(), atol=1e-3)


def test_a_forward_pass_of_another_class_is_refused_as_source_by_name() -> None:
    model = torchvision.models.VisionTransformer(32, 8, 1, 2, 8, 16, num_classes=4)
    net = aa.adapt(model, like=nn.Conv2d(3, 6, 8, stride=8), inputs=torch.zeros(1, 3, 64, 48))
    with pytest.raises(aa.SavingError, match="native sizes are not written as plain PyTorch"):
        aa.to_source(net)
