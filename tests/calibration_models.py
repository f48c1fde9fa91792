"""Small backbones and heads for the tests of calibration."""

import torch
from torch import nn

from autoadapt.adapting import adapt


class Pyramid(nn.Module):
    """Levels at strides 2, 4, ..., of given widths."""

    def __init__(self, widths, seed=0, container=list):
        super().__init__()
        torch.manual_seed(seed)
        pairs = zip((3, *widths), widths, strict=False)
        self.stages = nn.ModuleList(
            nn.Sequential(nn.Conv2d(source, target, 3, stride=2, padding=1), nn.BatchNorm2d(target), nn.Tanh())
            for source, target in pairs
        )
        self.container = container

    def forward(self, x):
        levels = []
        for stage in self.stages:
            x = stage(x)
            levels.append(x)
        return self.container(levels)


class Reader(nn.Module):
    """A head on all levels."""

    def __init__(self, widths, classes=5, seed=7):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.ModuleList(nn.Conv2d(width, classes, 1) for width in widths)

    def forward(self, levels):
        return sum(layer(level).relu().mean((2, 3)) * 8 for layer, level in zip(self.layers, levels, strict=True))


class Model(nn.Module):
    """A backbone and a head."""

    def __init__(self, widths, seed=0):
        super().__init__()
        self.backbone = Pyramid(widths, seed)
        self.head = Reader(widths)

    def forward(self, images):
        return self.head(self.backbone(images * 2))


class Mixed(nn.Module):
    """A backbone behind planted affine maps of its channels: what one projection can make of it is exact."""

    def __init__(self, backbone, widths, seed=3):
        super().__init__()
        torch.manual_seed(seed)
        self.backbone = backbone
        sources = [stage[0].out_channels for stage in backbone.stages]
        self.maps = nn.ModuleList(nn.Conv2d(a, b, 1) for a, b in zip(sources, widths, strict=True))

    def forward(self, x):
        return [layer(level) for layer, level in zip(self.maps, self.backbone(x), strict=True)]


def pictures(count, size=32, seed=0, dtype=torch.float32):
    """Smooth random images: tokens that are alike within an image and differ between images."""
    generator = torch.Generator().manual_seed(seed)
    coarse = torch.randn(count, 3, 5, 5, generator=generator, dtype=dtype)
    fine = torch.randn(count, 3, size, size, generator=generator, dtype=dtype)
    return nn.functional.interpolate(coarse, size=(size, size), mode="bilinear") + 0.3 * fine


def model_with(old, new, **options):
    """The old model with another backbone, adapted."""
    model = Model([stage[0].out_channels for stage in old.backbone.stages])
    model.load_state_dict(old.state_dict())
    model.backbone = adapt(new, like=old.backbone, inputs=torch.zeros(2, 3, 32, 32), **options)
    return model.eval()


def weights(*modules):
    """Every parameter and buffer as bytes-comparable copies."""
    return [tensor.clone() for module in modules for tensor in module.state_dict().values()]


def same(left, right):
    """Whether all are bit for bit the same."""
    return all(torch.equal(a, b) for a, b in zip(left, right, strict=True))


def segmenter():
    """A bigger model whose backbone is small."""
    return Model((4, 6))


def last_level_head():
    """Ten classes of the last level of timm's `test_resnet`."""
    torch.manual_seed(0)
    return nn.Sequential(_Last(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(96, 10))


class _Last(nn.Module):
    def forward(self, levels):
        return levels[-1]


def pictures_of_one():
    """No module."""
    return pictures(1)


def smooth():
    """A backbone of one coarse level."""
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 6, 32, stride=32), nn.Tanh())


def noise():
    """A backbone of features that have nothing to do with the input but their size."""
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(3, 5, 32, stride=32), Scrambled())


class Scrambled(nn.Module):
    """Values that change wholly with the least change of their input."""

    def forward(self, x):
        return torch.sin(1e4 * x)
