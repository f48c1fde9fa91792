"""Draws the gallery: twelve plans as pictures, in `gallery/`, with their page, and `plan.svg`, the first of them.

Each is drawn twice, in `gallery/narrow/` for pages of less than 720 pixels.

python docs/gallery_pictures.py
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import segmentation_models_pytorch as smp
import timm
import torch
from torch import nn

import autoadapt as aa
from autoadapt.reports import plan_svg

HERE = Path(__file__).parent
IMAGE = torch.zeros(1, 3, 224, 224)


class Points(nn.Module):
    """cloud [B, N, 3] -> features, coordinates and indices of some of its points."""

    def __init__(self, count: int, width: int) -> None:
        super().__init__()
        self.count, self.mlp = count, nn.Linear(3, width)

    def forward(self, cloud: torch.Tensor) -> dict[str, torch.Tensor]:
        """Take the points that are highest along x."""
        indices = cloud[..., 0].topk(self.count).indices
        xyz = cloud.gather(1, indices[..., None].expand(-1, -1, 3))
        return {"features": self.mlp(xyz).transpose(1, 2), "xyz": xyz, "indices": indices}


def levels(name: str, **options: object) -> nn.Module:
    """The feature levels of a model of timm, with random weights."""
    return timm.create_model(name, features_only=True, **options)


def swapped(model: nn.Module, at: str, new: nn.Module) -> aa.Plan:
    """The plan of a swap inside a bigger model, where only what is read is served."""
    made = aa.swap(model, at, new, inputs=torch.zeros(2, 3, 64, 64)).get_submodule(at)
    assert isinstance(made, aa.AdaptedModule)
    return made.plan


PLANS: dict[str, tuple[str, Callable[[], aa.Plan]]] = {
    "vit": (
        "A ViT for a ResNet-101",
        lambda: aa.adapt("timm:vit_small_patch16_224", like="timm:resnet101").plan,
    ),
    "convnext": ("A ConvNeXt for a ResNet-50", lambda: aa.adapt("timm:convnext_atto", like="timm:resnet50").plan),
    "swin": (
        "A Swin, with channels last, for a ResNet-18",
        lambda: aa.adapt("timm:swin_tiny_patch4_window7_224", like="timm:resnet18").plan,
    ),
    "tokens": (
        "A ResNet-18 where patch tokens were",
        lambda: aa.adapt(levels("resnet18"), like="f32[B, floor(H/16)*floor(W/16), 192]", inputs=IMAGE).plan,
    ),
    "pooled": (
        "One vector for each image",
        lambda: aa.adapt("timm:vit_tiny_patch16_224", like=timm.create_model("resnet18", num_classes=0)).plan,
    ),
    "dilated": (
        "A dilated ResNet-50: levels of one stride",
        lambda: aa.adapt("timm:convnext_atto", like=levels("resnet50", output_stride=8)).plan,
    ),
    "unet": (
        "The encoder of a U-Net",
        lambda: swapped(smp.Unet("resnet18", encoder_weights=None), "encoder", levels("regnetx_002")),
    ),
    "valid": (
        "A network without padding: cells are read where the old ones lay",
        lambda: (
            aa.adapt(
                levels("resnet18"),
                like=nn.Sequential(nn.Conv2d(3, 32, 11, stride=2), nn.ReLU(), nn.MaxPool2d(3, 2), nn.Conv2d(32, 64, 5)),
                inputs=IMAGE,
            ).plan
        ),
    ),
    "points": (
        "A point cloud: one choice of points for features, coordinates and indices",
        lambda: aa.adapt(Points(24, 96), like=Points(16, 288), inputs=torch.rand(2, 64, 3)).plan,
    ),
    "video": (
        "Clips",
        lambda: (
            aa.adapt(
                nn.Sequential(nn.Conv3d(3, 24, (1, 8, 8), stride=(1, 8, 8)), nn.ReLU()),
                like=nn.Sequential(nn.Conv3d(3, 64, (3, 16, 16), stride=(2, 16, 16), padding=(1, 0, 0)), nn.ReLU()),
                inputs=torch.zeros(1, 3, 8, 64, 64),
            ).plan
        ),
    ),
    "sequence": (
        "Audio: frames of a sequence",
        lambda: (
            aa.adapt(
                nn.Conv1d(1, 24, 160, stride=160),
                like=nn.Conv1d(1, 64, 400, stride=320),
                inputs=torch.zeros(1, 1, 16000),
            ).plan
        ),
    ),
    "written": (
        "A contract that is written by hand",
        lambda: (
            aa.adapt(
                "timm:vit_tiny_patch16_224",
                like={"c3": "f32[B, 256, ceil(H/8), ceil(W/8)]", "c4": "f32[B, 256, ceil(H/16), ceil(W/16)]"},
            ).plan
        ),
    ),
}
"""Title and plan of each, by the name of its file."""


PAGE = """# Gallery

Twelve plans as pictures: at left what the new module makes and where it is taken, in the middle what each output goes
through, at right the old module's outputs. `autoadapt.reports.plan_svg(net.plan)` draws one; the page of `write_html`
has it too. Where the page is narrow, each way goes from top to bottom. `python docs/gallery_pictures.py` drew these.
"""


def page() -> str:
    """Every picture under its title, the narrow one where there is little room, with a link to it alone."""
    parts = [PAGE]
    for name, (title, _) in PLANS.items():
        narrow = f'<source media="(max-width: 719px)" srcset="gallery/narrow/{name}.svg">'
        shown = f'<picture>{narrow}<img src="gallery/{name}.svg" alt="The plan as a picture: {title}"></picture>'
        parts.append(f'## {title}\n\n<div class="picture" tabindex="0">{shown}</div>\n')
        parts.append(f"[In full size](gallery/{name}.svg)\n")
    return "\n".join(parts)


def main() -> None:
    """Draw them all."""
    (HERE / "gallery.md").write_text(page(), encoding="utf-8")
    (HERE / "gallery" / "narrow").mkdir(parents=True, exist_ok=True)
    for name, (_, plan) in PLANS.items():
        torch.manual_seed(0)
        drawn = plan()
        picture = plan_svg(drawn)
        (HERE / "gallery" / f"{name}.svg").write_text(picture, encoding="utf-8")
        (HERE / "gallery" / "narrow" / f"{name}.svg").write_text(plan_svg(drawn, narrow=True), encoding="utf-8")
        if name == "vit":
            (HERE / "plan.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
