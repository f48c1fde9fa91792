"""Sizes of exported programs: from where on no axis is 1, also inside the model around the adapted parts."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from whole_models import Levels

import autoadapt as aa
from autoadapt.errors import ExportError
from autoadapt.saving.exporting import SizeRange

X = torch.randn(2, 3, 64, 96, generator=torch.Generator().manual_seed(0))


class Encoder(Levels):
    """Levels of strides 2, 4, ..., sizes rounded up."""

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        return super().forward(image)[1:]


class UNet(nn.Module):
    """Returns a map of the image's size, which says nothing of how small the deepest level is."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = Encoder((4, 8, 12, 16))
        self.up = nn.ModuleList([nn.Conv2d(28, 12, 1), nn.Conv2d(20, 8, 1), nn.Conv2d(12, 4, 1)])
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        *levels, deep = self.encoder(image)
        for up, level in zip(self.up, reversed(levels), strict=True):
            deep = up(torch.cat([F.interpolate(deep, size=level.shape[-2:]), level], dim=1))
        return F.interpolate(self.out(deep), size=image.shape[-2:], mode="bilinear")


class Strided(nn.Module):
    """A head that goes on to stride 32 and pools there, behind all outputs of the adapted part."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = Encoder((4, 8, 12))
        self.head = nn.Sequential(nn.Conv2d(12, 6, 3, stride=2, padding=1), nn.MaxPool2d(2))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.head(self.backbone(image)[-1]).mean((2, 3))


class Two(nn.Module):
    """Two backbones, of which the deeper one counts."""

    def __init__(self) -> None:
        super().__init__()
        self.fine, self.coarse = Encoder((4,)), Encoder((4, 8, 12, 16))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        coarse = F.interpolate(self.coarse(image)[-1], size=image.shape[-2:])
        return torch.cat([F.interpolate(self.fine(image)[-1], size=image.shape[-2:]), coarse], dim=1)


MODELS = {UNet: ({"encoder": 4}, 17), Strided: ({"backbone": 3}, 49), Two: ({"fine": 1, "coarse": 4}, 17)}
"""What is swapped, with its number of levels, and the smallest height and width of a program."""


def swapped(model: type[nn.Module]) -> nn.Module:
    torch.manual_seed(0)
    made = model().eval()
    for path, levels in MODELS[model][0].items():
        made = aa.swap(made, path, Encoder((*range(5, 5 + levels),)).eval(), inputs=X)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("ending", [".pt2", ".onnx"])
@pytest.mark.parametrize("model", MODELS)
def test_a_whole_model_is_exported_from_where_no_axis_inside_it_is_1(model, ending, tmp_path) -> None:
    if ending == ".onnx":
        pytest.importorskip("onnxruntime")
    low = MODELS[model][1]
    done = aa.export(swapped(model), tmp_path / f"model{ending}", X)
    found = [(one.axis, one.low, one.high) for one in done.ranges]
    assert found == [("B", 1, None), ("H", low, None), ("W", low, None)]
    assert all("below it an axis inside the module is 1" in one.why for one in done.ranges[1:])
    assert done.compared[0].sizes == {"B": 1, "H": low, "W": low}


def test_shapes_for_torch_begin_where_no_axis_inside_a_backbone_is_1() -> None:
    net = aa.adapt(UNet().eval(), like=nn.Conv2d(3, 5, 3, padding=1), inputs=X)
    shapes = aa.dynamic_shapes(net)["input"]
    assert {axis: dim.min for axis, dim in shapes.items()} == {0: 1, 2: 17, 3: 17}
    assert aa.dynamic_shapes(net, {"H": 64})["input"].keys() == {0, 3}


def test_sizes_that_are_asked_for_below_that_are_refused_with_those_that_hold(tmp_path) -> None:
    net = aa.adapt(UNet().eval(), like=nn.Conv2d(3, 5, 3, padding=1), inputs=X)
    with pytest.raises(ExportError, match="cannot be exported for these sizes") as caught:
        aa.export(net, tmp_path / "net.pt2", X, ranges={"H": (8, 128)})
    assert "from 17 (below it an axis inside the module is 1, and an axis of 1 never varies)" in str(caught.value)
    assert str(caught.value).endswith("ranges={'H': (17, 128)}")


def test_a_module_that_does_not_run_without_values_keeps_the_sizes_of_its_plan() -> None:
    class Peeks(UNet):
        def forward(self, image: torch.Tensor) -> torch.Tensor:
            return super().forward(image) * image.abs().max().item()

    net = aa.adapt(Peeks().eval(), like=nn.Conv2d(3, 5, 3, padding=1), inputs=X)
    plain = aa.saving.exporting.size_ranges(net.plan)
    assert isinstance(plain["H"], SizeRange)
    assert aa.dynamic_shapes(net)["input"][2].min == plain["H"].low


@pytest.mark.parametrize("ending", [".pt2", ".pt", ".ts"])
def test_an_opset_of_onnx_is_refused_for_other_files(ending, tmp_path) -> None:
    net = aa.adapt(nn.Conv2d(3, 5, 2, 2), like=nn.Conv2d(3, 8, 2, 2), inputs=X)
    with pytest.raises(ExportError, match="only ONNX has an opset_version") as caught:
        aa.export(net, tmp_path / f"net{ending}", X, opset_version=18)
    assert f'"{tmp_path / "net.onnx"}"  # or leave opset_version out' in str(caught.value)
    assert not list(tmp_path.iterdir())
