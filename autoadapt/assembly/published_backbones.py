"""Published backbones: models of a zoo under another library's arguments, as a tuple of levels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from autoadapt.errors import AssemblyError, Mismatch

__all__ = ["PublishedBackbone", "Recipe", "made"]

# Dimension letters: B batch, C channels, H W cells, N tokens.


@dataclass(frozen=True)
class Recipe:
    """What a backbone of a dialect is made of.

    Args:
        name: What the dialect calls it.
        source: The zoo.
        model: Its name there.
        options: The arguments of its constructor there.
        reads: Levels as maps, or the last tokens of a vision transformer.
        out_indices: Which levels are returned, as the dialect counts them.
        num_stages: How many there are to choose from; 0 where any block may be named.
        levels: Which level of the zoo's model each of them is.
        stages: The modules of each stage, the stem first.
        norm: The argument of the zoo's constructor for layers of normalisation.
        frozen_stages: Of the stages after the stem, how many are not trained; -1 trains the stem too.
        norm_eval: Whether batch norms keep their running averages in training.
        norm_cfg: The layer of normalisation, as the dialect writes it.
    """

    name: str
    source: Literal["timm", "torchvision"]
    model: str
    options: Mapping[str, Any]
    reads: Literal["levels", "tokens"]
    out_indices: tuple[int, ...]
    num_stages: int
    levels: tuple[int, ...]
    stages: tuple[tuple[str, ...], ...]
    norm: str
    frozen_stages: int = -1
    norm_eval: bool = False
    norm_cfg: Mapping[str, Any] | None = None


class PublishedBackbone(nn.Module):
    """A backbone that keeps its frozen stages, and its batch norms if asked, in eval mode.

    Shape:
        `[B, C, H, W]` -> a tuple: `[B, C_i, H_i, W_i]` for each level, or `[B, C]` of tokens
    """

    def __init__(self, body: nn.Module, frozen: tuple[str, ...], norm_eval: bool) -> None:
        super().__init__()
        self.body = body
        self._frozen, self._norm_eval = frozen, norm_eval
        for name in frozen:
            body.get_submodule(name).requires_grad_(requires_grad=False)
        self.train(self.training)

    def train(self, mode: bool = True) -> PublishedBackbone:
        """Switch all but what is frozen."""
        super().train(mode)
        for name in self._frozen:
            self.body.get_submodule(name).eval()
        if self._norm_eval:
            for module in self.body.modules():
                if isinstance(module, nn.modules.batchnorm._BatchNorm):
                    module.eval()
        return self

    def forward(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Compute the levels."""
        levels: tuple[torch.Tensor, ...] = self.body(images_BCHW)
        return levels


class _TimmLevels(nn.Module):
    """Levels of a timm model, the last one behind its own norm where it has one."""

    def __init__(self, net: Any, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.net = net
        self._levels = list(levels)
        net.prune_intermediate_layers(self._levels, prune_head=True)

    def forward(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        return tuple(
            self.net.forward_intermediates(
                images_BCHW, indices=self._levels, norm=True, output_fmt="NCHW", intermediates_only=True
            )
        )


class _TimmTokens(nn.Module):
    """What a vision transformer makes of an image: its class token, the mean of the others, or a map of them."""

    def __init__(self, net: Any, kind: str) -> None:
        super().__init__()
        self.net = net
        self._kind = kind
        net.prune_intermediate_layers(1, prune_head=True)

    def forward(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        if self._kind == "featmap":
            (map_BCHW,) = self.net.forward_intermediates(images_BCHW, indices=1, norm=True, intermediates_only=True)
            return (map_BCHW,)
        tokens_BNC = self.net.forward_features(images_BCHW)
        if self._kind == "cls_token":
            return (tokens_BNC[:, 0],)
        return (tokens_BNC[:, self.net.num_prefix_tokens :].mean(1),)


class _SequenceLevels(nn.Module):
    """Levels of torchvision's models that are a sequence of blocks."""

    def __init__(self, net: Any, levels: tuple[int, ...]) -> None:
        super().__init__()
        self.features = net.features[: max(levels) + 1]
        self._levels = levels

    def forward(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found: dict[int, torch.Tensor] = {}
        x = images_BCHW
        for index, block in enumerate(self.features):
            x = block(x)
            found[index] = x
        return tuple(found[level] for level in self._levels)


def made(recipe: Recipe) -> PublishedBackbone:
    """Make a backbone.

    Raises:
        AssemblyError: There is no such level, stage or norm.
    """
    options, stride_in = dict(recipe.options), recipe.options.get("stride_in", "")
    kind = str(options.pop("out_type", "cls_token"))
    options.pop("stride_in", None)
    requires_grad = _set_norm(recipe, options)
    levels, frozen = _levels(recipe), _frozen(recipe)
    if recipe.source == "timm":
        import timm

        net: Any = timm.create_model(recipe.model, **options)
        if stride_in:
            _stride_first(net)
        body: nn.Module = _TimmTokens(net, kind) if recipe.reads == "tokens" else _TimmLevels(net, levels)
        prefix = "net."
    else:
        import torchvision

        body, prefix = _SequenceLevels(torchvision.models.get_model(recipe.model, **options), levels), ""
    known = {name for name, _ in body.named_modules()}
    backbone = PublishedBackbone(body, tuple(prefix + n for n in frozen if prefix + n in known), recipe.norm_eval)
    if not requires_grad:
        _freeze_norms(backbone)
    return backbone


def _levels(recipe: Recipe) -> tuple[int, ...]:
    if recipe.reads == "tokens":
        if recipe.out_indices != (-1,):
            fault = Mismatch("out_indices", "-1", str(list(recipe.out_indices)), "out_indices: -1")
            raise AssemblyError(f"{recipe.name} gives what its last block gives", [fault])
        return ()
    count = recipe.num_stages
    for index in recipe.out_indices:
        if not -count <= index < count:
            expected = f"indices below {count}, one for each stage"
            fault = Mismatch("out_indices", expected, str(list(recipe.out_indices)), f"out_indices: [{count - 1}]")
            raise AssemblyError(f"{recipe.name} has no level {index}", [fault])
    return tuple(recipe.levels[index % count] for index in recipe.out_indices)


def _frozen(recipe: Recipe) -> tuple[str, ...]:
    """The modules of the stem and of the first stages."""
    if recipe.frozen_stages >= len(recipe.stages) > 0 or (recipe.frozen_stages >= 0 and not recipe.stages):
        fault = Mismatch("frozen_stages", f"less than {len(recipe.stages)}", str(recipe.frozen_stages), "-1")
        raise AssemblyError(f"{recipe.name} has no such stage", [fault])
    return tuple(name for stage in recipe.stages[: recipe.frozen_stages + 1] for name in stage)


def _set_norm(recipe: Recipe, options: dict[str, Any]) -> bool:
    """Hand the norm on to the zoo's constructor; gives whether its weights are trained."""
    if recipe.norm_cfg is None:
        return True
    given = dict(recipe.norm_cfg)
    kind, requires_grad = given.pop("type", None), bool(given.pop("requires_grad", True))
    layer = _norm_layer(str(kind), given) if recipe.norm else nn.LayerNorm if kind == "LN" else None
    if layer is None:
        expected = "type BN, SyncBN or GN" if recipe.norm else "type LN"
        fault = Mismatch("norm_cfg", expected, str(dict(recipe.norm_cfg)), "leave norm_cfg out")
        raise AssemblyError(f"{recipe.name} has no such norm", [fault])
    if recipe.norm:
        options[recipe.norm] = layer
    elif given:
        options["norm_layer"] = functools.partial(nn.LayerNorm, **given)
    return requires_grad


def _norm_layer(kind: str, given: Mapping[str, Any]) -> Callable[..., nn.Module] | None:
    """A layer by its name in a config; SyncBN is the BN that a distributed trainer converts."""
    if kind in ("BN", "BN2d", "SyncBN"):
        return functools.partial(nn.BatchNorm2d, **given)
    if kind == "GN" and "num_groups" in given:
        return lambda channels, **where: nn.GroupNorm(num_channels=channels, **given, **where)
    return None


def _freeze_norms(backbone: nn.Module) -> None:
    for module in backbone.modules():
        if isinstance(module, (nn.modules.batchnorm._BatchNorm, nn.GroupNorm, nn.LayerNorm)):
            module.requires_grad_(requires_grad=False)


def _stride_first(net: nn.Module) -> None:
    """Let the first 1x1 convolution of each bottleneck step, as Caffe's ResNets do, in place of the 3x3 one."""
    for block in net.modules():
        if hasattr(block, "conv3") and isinstance(block.conv1, nn.Conv2d) and isinstance(block.conv2, nn.Conv2d):
            block.conv1.stride, block.conv2.stride = block.conv2.stride, block.conv1.stride
