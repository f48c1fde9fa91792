"""More models whose backbone is no submodule, each as its field writes it."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from region_models import Block
from torch import nn
from torch.nn.utils.parametrizations import spectral_norm


class HighResolutionPose(nn.Module):
    """A stem of two convolutions with one activation, then branches that a list of transitions opens and that fuse."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.conv2, self.bn2 = nn.Conv2d(8, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.layer1 = Block(8, 16, 1)
        self.transition1 = nn.ModuleList([nn.Conv2d(16, 8, 3, 1, 1), nn.Conv2d(16, 12, 3, 2, 1)])
        self.branches = nn.ModuleList([Block(8, 8, 1), Block(12, 12, 1)])
        self.fuse = nn.Conv2d(12, 8, 1)
        self.final_layer = nn.Conv2d(8, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.relu(self.bn2(self.conv2(x)))
        x = self.layer1(x)
        high, low = (branch(step(x)) for step, branch in zip(self.transition1, self.branches, strict=True))
        return self.final_layer(self.relu(high + F.interpolate(self.fuse(low), size=high.shape[-2:])))


class CenterNet(nn.Module):
    """Levels walked by name, of which all are kept, and upward sums of the last of them."""

    def __init__(self) -> None:
        super().__init__()
        self.base_layer = nn.Sequential(nn.Conv2d(3, 4, 7, 1, 3, bias=False), nn.BatchNorm2d(4), nn.ReLU(inplace=True))
        self.level0, self.level1 = Block(4, 4, 1), Block(4, 8)
        self.level2, self.level3, self.level4 = Block(8, 12), Block(12, 16), Block(16, 20)
        self.up3, self.up4 = nn.ConvTranspose2d(16, 12, 4, 2, 1), nn.ConvTranspose2d(20, 16, 4, 2, 1)
        self.hm, self.wh = nn.Conv2d(12, 3, 3, 1, 1), nn.Conv2d(12, 2, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        x = self.base_layer(x)
        kept = []
        for i in range(5):
            x = getattr(self, f"level{i}")(x)
            kept.append(x)
        deep = kept[3] + self.up4(kept[4])
        fine = kept[2] + self.up3(deep)
        return {name: getattr(self, name)(fine) for name in ("hm", "wh")}


class SlicedSSD(nn.Module):
    """A VGG of which slices are run: each slice is a Sequential that is made anew for the call."""

    def __init__(self) -> None:
        super().__init__()
        plan = [8, 8, "M", 16, 16, "M", 24, 24]
        layers: list[nn.Module] = []
        source = 3
        for step in plan:
            layers += [nn.MaxPool2d(2)] if step == "M" else [nn.Conv2d(source, step, 3, 1, 1), nn.ReLU(inplace=True)]
            source = source if step == "M" else step
        self.features = nn.Sequential(*layers)
        self.scale = nn.Parameter(torch.full((1, 16, 1, 1), 20.0))
        self.head1, self.head2 = nn.Conv2d(16, 6, 3, 1, 1), nn.Conv2d(24, 6, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.features[:9](x)
        first = self.head1(F.normalize(x) * self.scale)
        x = self.features[9:](x)
        return torch.cat([one.flatten(2) for one in (first, self.head2(x))], 2)


class TextDetector(nn.Module):
    """A list of slices that is walked, and merging from the last to the first, as EAST does."""

    def __init__(self) -> None:
        super().__init__()
        sizes = [(3, 8), (8, 12), (12, 16), (16, 20)]
        self.stages = nn.ModuleList(nn.Sequential(Block(a, b, 1), nn.MaxPool2d(2)) for a, b in sizes)
        self.merge = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in ((36, 12), (24, 8), (16, 8)))
        self.score = nn.Conv2d(8, 1, 1)
        self.geometry = nn.Conv2d(8, 5, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        found: list[torch.Tensor] = []
        for stage in self.stages:
            x = stage(x)
            found.insert(0, x)
        merged = found[0]
        for layer, skip in zip(self.merge, found[1:], strict=True):
            merged = F.interpolate(merged, size=skip.shape[-2:], mode="bilinear", align_corners=False)
            merged = F.relu(layer(torch.cat([merged, skip], 1)))
        return torch.sigmoid(self.score(merged)), self.geometry(merged)


class CourseUNet(nn.Module):
    """Downs in a list, each followed by the one pool; sizes that do not fit are padded on the way up."""

    def __init__(self) -> None:
        super().__init__()
        widths = [4, 8, 12]
        self.downs, self.ups = nn.ModuleList(), nn.ModuleList()
        self.pool = nn.MaxPool2d(kernel_size=2, stride=2)
        source = 3
        for width in widths:
            self.downs.append(Block(source, width, 1))
            source = width
        for width in reversed(widths):
            self.ups.append(nn.ConvTranspose2d(width * 2, width, 2, 2))
            self.ups.append(Block(width * 2, width, 1))
        self.bottleneck = Block(widths[-1], widths[-1] * 2, 1)
        self.ups[2] = nn.ConvTranspose2d(12, 8, 2, 2)
        self.ups[4] = nn.ConvTranspose2d(8, 4, 2, 2)
        self.final_conv = nn.Conv2d(widths[0], 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        skips = []
        for down in self.downs:
            x = down(x)
            skips.append(x)
            x = self.pool(x)
        x = self.bottleneck(x)
        skips.reverse()
        for i in range(0, len(self.ups), 2):
            x = self.ups[i](x)
            skip = skips[i // 2]
            if x.shape != skip.shape:
                x = F.interpolate(x, size=skip.shape[2:])
            x = self.ups[i + 1](torch.cat((skip, x), dim=1))
        return self.final_conv(x)


class Discriminator(nn.Module):
    """Spectral norms, slopes between, and all features returned for a feature matching loss."""

    def __init__(self) -> None:
        super().__init__()
        self.conv0 = spectral_norm(nn.Conv2d(3, 8, 4, 2, 1))
        self.conv1 = spectral_norm(nn.Conv2d(8, 16, 4, 2, 1))
        self.conv2 = spectral_norm(nn.Conv2d(16, 24, 4, 2, 1))
        self.out = nn.Conv2d(24, 1, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        features = []
        for i in range(3):
            x = F.leaky_relu(getattr(self, f"conv{i}")(x), 0.2)
            features.append(x)
        return self.out(x), features


class Walked(nn.Module):
    """All children are walked by name, and kept or answered at some of them."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.stage1, self.stage2, self.stage3 = Block(8, 12), Block(12, 16), Block(16, 20)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(20, 4)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, list[torch.Tensor]]:
        kept = []
        for name, module in self._modules.items():
            x = module(x.flatten(1)) if name == "fc" else module(x)
            if name in ("stage2", "stage3"):
                kept.append(x)
        return x, kept
