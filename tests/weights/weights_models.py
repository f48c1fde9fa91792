"""Small models with the traits of real pose networks, and helpers that the tests of weights share."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn


class PoseNet(nn.Module):
    """A pose network whose heads, offsets and fed-back maps count joints.

    The first deconvolution takes the features and both kinds of joint maps, so that the number of
    joints is on its input side; offsets have one small branch for each joint.
    """

    def __init__(self, joints: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.stage2 = nn.Sequential(nn.Conv2d(8, 16, 3, 2, 1, bias=False), nn.BatchNorm2d(16))
        self.stage3 = nn.Sequential(nn.Conv2d(16, 32, 3, 1, 1, bias=False), nn.BatchNorm2d(32))
        self.stage20 = nn.Conv2d(32, 32, 1)
        self.head_heatmap = nn.Sequential(nn.Conv2d(32, 16, 1), nn.BatchNorm2d(16), nn.Conv2d(16, joints + 1, 1))
        self.transition_offset = nn.Sequential(nn.Conv2d(32, joints * 15, 1, bias=False), nn.BatchNorm2d(joints * 15))
        self.offset_layers = nn.ModuleList(nn.Conv2d(15, 2, 1) for _ in range(joints))
        self.deconv_layers = nn.ModuleList([nn.ConvTranspose2d(32 + 2 * joints, 32, 4, 2, 1, bias=False)])


class Joints(nn.Module):
    """The keys of real pose networks, in number and kind: many layers that fit, few that count joints.

    `dekr`, `higher` (HigherHRNet) and `swahr` have as many as the networks of these names, with tiny channels.
    """

    def __init__(self, kind: str, joints: int) -> None:
        super().__init__()
        units, plain = {"dekr": (308, 0), "higher": (300, 5), "swahr": (300, 4)}[kind]
        self.trunk = nn.ModuleList(_unit(2, 2) for _ in range(units))
        self.plain = nn.ModuleList(nn.Conv2d(2, 2, 1, bias=False) for _ in range(plain))
        if kind == "dekr":
            self.head_heatmap = nn.Conv2d(2, joints + 1, 1)
            self.transition_offset = _unit(2, joints * 15)
            self.offset_layers = nn.ModuleList(nn.ModuleList(_unit(15, 15) for _ in range(4)) for _ in range(joints))
            return
        self.final_layers = nn.ModuleList([nn.Conv2d(2, 2 * joints, 1), nn.Conv2d(2, joints, 1)])
        self.deconv_layers = nn.ConvTranspose2d(32 + 2 * joints, 2, 2, bias=False)
        if kind == "swahr":
            self.scales = nn.ModuleList(_unit(2, joints) for _ in range(3))
            self.last = nn.Conv2d(2, joints, 1, bias=False)


def _unit(before: int, after: int) -> nn.Module:
    """Six keys: a convolution without a bias and its norm."""
    return nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))


class Tied(nn.Module):
    """Two names of one weight, as embeddings and output layers have."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(7, 3)
        self.output = nn.Linear(3, 7, bias=False)
        self.output.weight = self.embedding.weight


class Adapted(nn.Module):
    """The layout of an adapted module: the new backbone's own names, and adapters beside it."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.adapters = nn.ModuleDict({"c4": nn.ModuleDict({"project": nn.Conv2d(8, 4, 1)})})


def randomised(model: nn.Module, seed: int = 0) -> nn.Module:
    """Fill parameters and buffers with values that no two models share."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.copy_(torch.rand(tensor.shape, generator=generator) + 0.5)
            else:
                tensor.fill_(seed + 5)
    return model


def snapshot(model: nn.Module) -> dict[str, Tensor]:
    """A copy of all tensors of a model, the buffers that it does not save included."""
    tensors = {**dict(model.named_parameters(remove_duplicate=False)), **dict(model.named_buffers())}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def equal(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    """Whether two snapshots agree bit for bit."""
    return left.keys() == right.keys() and all(
        bytes(left[name].contiguous().view(-1).view(torch.uint8).numpy())
        == bytes(right[name].contiguous().view(-1).view(torch.uint8).numpy())
        for name in left
    )


def prefixed(state: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """A state dict under a prefix."""
    return {prefix + name: tensor for name, tensor in state.items()}


def rows(joints: int) -> nn.Module:
    """A head that counts joints, beside a layer that does not."""
    return nn.ModuleDict({"head": nn.Conv2d(2, joints, 1), "rest": nn.Conv2d(2, 2, 1)})
