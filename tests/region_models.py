"""Models whose backbone is no submodule, in the styles in which people write them."""

from __future__ import annotations

import copy
import functools

import torch
import torch.nn.functional as F
from torch import nn

from autoadapt.contracts.capturing.regions import with_numbers
from autoadapt.contracts.trees import flatten, rebuild


class Block(nn.Module):
    """A residual block that halves the size."""

    def __init__(self, source: int, target: int, stride: int = 2, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(source, target, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(target)
        self.down = nn.Conv2d(source, target, 1, stride, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return F.relu(self.bn1(self.conv1(x)) + self.down(x))


class PoseNet(nn.Module):
    """A trunk inline, as in simple baselines, and deconvolutions on its last level."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(8)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = Block(8, 8, 1)
        self.layer2 = Block(8, 16)
        self.layer3 = Block(16, 24)
        self.deconv = nn.Sequential(nn.ConvTranspose2d(24, 16, 4, 2, 1), nn.BatchNorm2d(16), nn.ReLU(inplace=True))
        self.final = nn.Conv2d(16, 5, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer3(self.layer2(self.layer1(x)))
        return self.final(self.deconv(x))


class UNet(nn.Module):
    """Encoder blocks with one pool between them that is called four times; every block is a skip."""

    def __init__(self) -> None:
        super().__init__()
        self.enc1, self.enc2 = Block(3, 4, 1), Block(4, 8, 1)
        self.enc3, self.enc4 = Block(8, 12, 1), Block(12, 16, 1)
        self.pool = nn.MaxPool2d(2)
        self.middle = Block(16, 16, 1)
        self.dec4, self.dec3 = Block(32, 12, 1), Block(24, 8, 1)
        self.dec2, self.dec1 = Block(16, 4, 1), Block(8, 4, 1)
        self.out = nn.Conv2d(4, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        e1 = self.enc1(x)
        e2 = self.enc2(self.pool(e1))
        e3 = self.enc3(self.pool(e2))
        e4 = self.enc4(self.pool(e3))
        d = self.middle(self.pool(e4))
        for skip, block in ((e4, self.dec4), (e3, self.dec3), (e2, self.dec2), (e1, self.dec1)):
            d = block(torch.cat([F.interpolate(d, size=skip.shape[-2:]), skip], 1))
        return self.out(d)


class PSPNet(nn.Module):
    """`layer0` to `layer4` with dilation, and an auxiliary head that runs in train mode."""

    def __init__(self) -> None:
        super().__init__()
        self.layer0 = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(3, 2, 1))
        self.layer1, self.layer2 = Block(8, 8, 1), Block(8, 16)
        self.layer3, self.layer4 = Block(16, 24, 1, 2), Block(24, 32, 1, 4)
        self.cls = nn.Conv2d(64, 4, 1)
        self.aux = nn.Conv2d(24, 4, 1)

    def forward(self, x: torch.Tensor) -> object:
        size = x.shape[-2:]
        x = self.layer2(self.layer1(self.layer0(x)))
        middle = self.layer3(x)
        x = self.layer4(middle)
        pooled = F.interpolate(F.adaptive_avg_pool2d(x, 2), size=x.shape[-2:])
        out = F.interpolate(self.cls(torch.cat([x, pooled], 1)), size=size)
        return (out, F.interpolate(self.aux(middle), size=size)) if self.training else out


class SSD(nn.Module):
    """A list of layers walked by index, as the VGG of an SSD, with a source in the middle and extra layers."""

    def __init__(self) -> None:
        super().__init__()
        self.vgg = nn.ModuleList(
            [
                nn.Conv2d(3, 8, 3, 1, 1),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2, 2, ceil_mode=True),
                nn.Conv2d(8, 16, 3, 1, 1),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2, 2, ceil_mode=True),
                nn.Conv2d(16, 16, 3, 1, 1),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(2, 2),
                nn.Conv2d(16, 24, 3, 1, 1),
                nn.ReLU(inplace=True),
            ]
        )
        self.extras = nn.ModuleList([nn.Conv2d(24, 8, 1), nn.Conv2d(8, 16, 3, 2, 1)])
        self.loc = nn.ModuleList([nn.Conv2d(channels, 8, 3, 1, 1) for channels in (16, 24, 16)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sources = []
        for index in range(8):
            x = self.vgg[index](x)
        sources.append(F.normalize(x))
        for index in range(8, len(self.vgg)):
            x = self.vgg[index](x)
        sources.append(x)
        for layer in self.extras:
            x = F.relu(layer(x), inplace=True)
        sources.append(x)
        maps = [layer(source).permute(0, 2, 3, 1).flatten(1) for layer, source in zip(self.loc, sources, strict=True)]
        return torch.cat(maps, 1).view(len(x), -1, 4)


class Siamese(nn.Module):
    """A tracker that calls its inline trunk twice, with functions between, and correlates."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 5, 2, 2)
        self.layer1, self.layer2 = Block(8, 16), Block(16, 16)
        self.adjust = nn.Conv2d(1, 1, 1)

    def embed(self, x: torch.Tensor) -> torch.Tensor:
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        return self.layer2(self.layer1(x))

    def forward(self, template: torch.Tensor, search: torch.Tensor) -> torch.Tensor:
        z, x = self.embed(template), self.embed(search)
        b, c, h, w = x.shape
        found = F.conv2d(x.reshape(1, b * c, h, w), z, groups=b)
        return self.adjust(found.transpose(0, 1))


class Crossing(nn.Module):
    """A residual sum across the region's edge: what `layer1` gives is added to what `layer2` gives."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 8, 3, 2, 1)
        self.layer1, self.layer2 = Block(8, 8), Block(8, 8, 1)
        self.head = nn.Conv2d(8, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.layer1(F.relu(self.conv1(x)))
        return self.head(self.layer2(x) + x)


def by_hand(old: nn.Module, net: nn.Module, *inputs: torch.Tensor) -> object:
    """What the old model returns where the modules that something else reads return the levels of the new one."""
    old = copy.deepcopy(old).eval()
    passes = net.hand_on.handing
    alone = copy.deepcopy(net).alone().eval()
    levels = {}

    def enter(_module, args):
        returned = alone(*args)
        levels.clear()
        levels.update({name: returned if passes.is_bare else returned[name] for name in passes.served})

    old.get_submodule(passes.paths[0]).register_forward_pre_hook(enter)
    for one in passes.order:
        if any(one.read):
            hook = functools.partial(_with_levels, one, levels)
            old.get_submodule(one.path).register_forward_hook(lambda _module, _args, output, hook=hook: hook(output))
    with torch.no_grad():
        return old(*inputs)


def _with_levels(one, levels, output):
    """What a module returned, with levels in the places that something else reads."""
    tree, leaves = with_numbers(*flatten(output))
    kept = [levels[name] if read else leaf for name, read, leaf in zip(one.names, one.read, leaves, strict=True)]
    return rebuild(tree, kept)
