"""Consumers that adapters are folded into: libraries' decoders and detectors, one with the contract of BBAVectors."""

import copy

import segmentation_models_pytorch as smp
import timm
import torch
import torchvision
from torch import nn

import autoadapt as aa
from autoadapt.calibration.solvers import Recipe

SMP = ["Unet", "UnetPlusPlus", "FPN", "DeepLabV3Plus", "DeepLabV3", "MAnet", "PAN", "Linknet"]


def segmenter(name):
    return getattr(smp, name)("resnet18", encoder_weights=None, classes=3), "encoder"


def torchvision_segmenter(name):
    build = getattr(torchvision.models.segmentation, f"{name}_resnet50")
    return build(weights=None, weights_backbone=None, num_classes=5, aux_loss=True), "backbone"


def torchvision_detector(name):
    build = getattr(torchvision.models.detection, f"{name}_resnet50_fpn")
    return Heads(build(weights=None, weights_backbone=None, num_classes=5)), "detector.backbone.body"


class Heads(nn.Module):
    """A detector up to its pyramid and first head, before boxes are chosen, which a rounding may turn."""

    def __init__(self, detector):
        super().__init__()
        self.detector = detector

    def forward(self, images):
        maps = self.detector.backbone(images)
        head = self.detector.head if hasattr(self.detector, "head") else self.detector.rpn.head
        return maps, head(list(maps.values()))


class Combine(nn.Module):
    """What the decoder of an oriented detector does at each level: halve the width, enlarge, join with the skip."""

    def __init__(self, low, up):
        super().__init__()
        self.up = nn.Sequential(nn.Conv2d(low, up, 3, padding=1), nn.BatchNorm2d(up), nn.ReLU(inplace=True))
        self.cat = nn.Sequential(nn.Conv2d(up * 2, up, 1), nn.BatchNorm2d(up), nn.ReLU(inplace=True))

    def forward(self, low, up):
        low = self.up(nn.functional.interpolate(low, up.shape[2:], mode="bilinear", align_corners=False))
        return self.cat(torch.cat((up, low), 1))


HEADS = {"hm": 15, "wh": 10, "reg": 2, "cls_theta": 1}


class Oriented(nn.Module):
    """The contract of BBAVectors: a list of six, the image first, of which the last four are read."""

    def __init__(self, backbone, widths=(256, 512, 1024, 2048)):
        super().__init__()
        self.base_network = backbone
        c2, c3, c4, c5 = widths
        self.dec_c4, self.dec_c3, self.dec_c2 = Combine(c5, c4), Combine(c4, c3), Combine(c3, c2)
        self.heads = nn.ModuleDict({name: nn.Conv2d(c2, n, 3, padding=1) for name, n in HEADS.items()})

    def forward(self, images):
        levels = self.base_network(images)
        x = self.dec_c2(self.dec_c3(self.dec_c4(levels[-1], levels[-2]), levels[-3]), levels[-4])
        return {name: head(x) for name, head in self.heads.items()}


class WithImage(nn.Module):
    """A backbone that returns the image too, the same object, as the first of six."""

    def __init__(self, name):
        super().__init__()
        self.net = timm.create_model(name, features_only=True, pretrained=False)

    def forward(self, images):
        return [images, *self.net(images)]


def lived_in(model):
    """With running statistics as of a trained model."""
    torch.manual_seed(0)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.normal_(module.running_mean, std=0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
    return model.eval()


def calibrated(model, at, new, x, images=16):
    """With adapters that are fitted on a few images; random ones where that is no better than the mean of the old."""
    old = copy.deepcopy(lived_in(model).get_submodule(at))
    made = aa.swap(model, at, new, inputs=x)
    net = made.get_submodule(at)
    noise = torch.randn(images, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    coarse = nn.functional.interpolate(noise, size=96, mode="bilinear")
    found = aa.calibrate(net, like=old, data=[coarse[:8], coarse[8:]], augment=0, solver=Recipe(30.0))
    if not found.written:
        return with_random_adapters(made, at)
    assert all(bool(p.detach().abs().max() > 1e-3) for p in net.adapters.parameters())
    return made


def swapped(model, at, new, x, spread=0.1):
    """With adapters whose weights and offsets are those of a fitted one: none of them zero."""
    return with_random_adapters(aa.swap(lived_in(model), at, new, inputs=x), at, spread)


def with_random_adapters(made, at, spread=0.1):
    """None of whose weights and offsets is zero."""
    for parameter in made.get_submodule(at).adapters.parameters():
        nn.init.normal_(parameter, std=spread if parameter.dim() == 1 else parameter.shape[1] ** -0.5)
    return made


def worst(model, other, sizes):
    """The largest difference of any output, as a share of its largest value."""
    found = 0.0
    for height, width in sizes:
        x = torch.randn(1, 3, height, width)
        with torch.no_grad():
            pairs = zip(tensors(model(x)), tensors(other(x)), strict=True)
        found = max(found, *(float((a - b).abs().max() / a.abs().max()) for a, b in pairs))
    return found


def tensors(value):
    """All tensors in nested containers."""
    if isinstance(value, torch.Tensor):
        return [value]
    parts = value.values() if isinstance(value, dict) else value
    return [tensor for part in parts for tensor in tensors(part)]
