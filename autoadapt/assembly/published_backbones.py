"""Published backbones: models of a zoo under another library's arguments, as a tuple of levels."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import nn

from autoadapt.errors import AssemblyError, Mismatch

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
        stages: The modules, and parameters beside them, of each stage, as the dialect counts what is frozen.
        goes_on: Of these, the modules whose weights alone are frozen; their norms go on with their running averages.
        norm: The argument of the zoo's constructor for layers of normalisation.
        norms_each: Whether every level that is returned has a norm of its own.
        frozen_stages: The last of `stages` that is not trained; -1 trains all.
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
    norms_each: bool = False
    frozen_stages: int = -1
    norm_eval: bool = False
    norm_cfg: Mapping[str, Any] | None = None
    goes_on: tuple[str, ...] = ()


class PublishedBackbone(nn.Module):
    """A backbone that keeps its frozen stages, and its batch norms if asked, in eval mode.

    Shape:
        `[B, C, H, W]` -> a tuple: `[B, C_i, H_i, W_i]` for each level, or `[B, C]` of tokens
    """

    def __init__(self, body: nn.Module, frozen: tuple[str, ...], norm_eval: bool, goes_on: tuple[str, ...]) -> None:
        super().__init__()
        self.body = body
        modules = dict(body.named_modules())
        self._frozen = tuple(name for name in frozen if name in modules and name not in goes_on)
        self._norm_eval = norm_eval
        for name, parameter in body.named_parameters():
            if any(name == each or name.startswith(f"{each}.") for each in frozen):
                parameter.requires_grad = False
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
    """Levels of a timm model, the last one behind its own norm where it has one, the others behind one made for them.

    Args:
        net: The model.
        levels: Which of its levels.
        norms_each: Whether the levels before the last one have a norm too, as detectors' transformers do.
    """

    def __init__(self, net: Any, levels: tuple[int, ...], norms_each: bool) -> None:
        super().__init__()
        self.net = net
        self._levels = list(levels)
        last = len(net.feature_info) - 1
        widths = {str(level): net.feature_info[level]["num_chs"] for level in levels if norms_each and level != last}
        self.norms = nn.ModuleDict({name: nn.LayerNorm(width) for name, width in widths.items()})
        net.prune_intermediate_layers(self._levels, prune_head=True)

    def forward(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.net.forward_intermediates(
            images_BCHW, indices=self._levels, norm=True, output_fmt="NCHW", intermediates_only=True
        )
        names = map(str, sorted(self._levels))
        return tuple(
            _of_channels(self.norms[name], map_BCHW) if name in self.norms else map_BCHW
            for name, map_BCHW in zip(names, found, strict=True)
        )


def _of_channels(norm: nn.Module, map_BCHW: torch.Tensor) -> torch.Tensor:
    normed_BCHW: torch.Tensor = norm(map_BCHW.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    return normed_BCHW


class _TimmTokens(nn.Module):
    """What blocks of a vision transformer make of an image: class tokens, means of the others, or maps of them.

    Args:
        net: The model.
        blocks: Which of its blocks.
        kind: `cls_token`, `avg_featmap` (behind a norm of its own) or `featmap`.
        final_norm: Whether what the last block gives is normalised; what others give is not.
    """

    def __init__(self, net: Any, blocks: tuple[int, ...], kind: str, final_norm: bool) -> None:
        super().__init__()
        self.net = net
        self._kind = kind
        self._blocks = sorted(blocks)
        self._ends_normed = final_norm and self._blocks[-1] == len(net.blocks) - 1
        self.ln2 = nn.LayerNorm(net.embed_dim, eps=1e-6) if kind == "avg_featmap" else nn.Identity()
        net.prune_intermediate_layers(self._blocks, prune_norm=not self._ends_normed, prune_head=True)

    def forward(self, images_BCHW: torch.Tensor) -> tuple[torch.Tensor, ...]:
        found = self.net.forward_intermediates(
            images_BCHW, indices=self._blocks, return_prefix_tokens=True, intermediates_only=True
        )
        last = len(found) - 1
        return tuple(
            self._one(found_BCHW, front_BNC, self._ends_normed and i == last)
            for i, (found_BCHW, front_BNC) in enumerate(found)
        )

    def _one(self, map_BCHW: torch.Tensor, front_BNC: torch.Tensor, normed: bool) -> torch.Tensor:
        if self._kind == "cls_token":
            token_BC: torch.Tensor = self.net.norm(front_BNC[:, 0]) if normed else front_BNC[:, 0]
            return token_BC
        map_BCHW = _of_channels(self.net.norm, map_BCHW) if normed else map_BCHW
        if self._kind == "featmap":
            return map_BCHW
        mean_BC: torch.Tensor = self.ln2(map_BCHW.mean((2, 3)))
        return mean_BC


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
    kind, final_norm = str(options.pop("out_type", "cls_token")), bool(options.pop("final_norm", True))
    options.pop("stride_in", None)
    pads_windows = options.pop("pad_windows", False)
    requires_grad = _set_norm(recipe, options)
    reads_tokens, frozen = recipe.reads == "tokens", _frozen(recipe)
    levels = () if reads_tokens else _chosen(recipe, recipe.levels[: recipe.num_stages], "stage")
    if recipe.source == "timm":
        import timm

        net: Any = timm.create_model(recipe.model, **options)
        if stride_in:
            _stride_first(net)
        if pads_windows:
            from autoadapt.assembly.swin_blocks import pad_windows  # needs timm

            pad_windows(net)
        if reads_tokens:
            blocks = _chosen(recipe, tuple(range(len(net.blocks))), "block")
            frozen += ("norm", "ln2") if recipe.frozen_stages == len(net.blocks) else ()
            body: nn.Module = _TimmTokens(net, blocks, kind, final_norm)
        else:
            body = _TimmLevels(net, levels, recipe.norms_each)
        prefix = "net."
    else:
        import torchvision

        body, prefix = _SequenceLevels(torchvision.models.get_model(recipe.model, **options), levels), ""
    names = tuple(at for name in frozen for at in (prefix + name, name))
    backbone = PublishedBackbone(body, names, recipe.norm_eval, recipe.goes_on)
    if not requires_grad:
        _freeze_norms(backbone)
    return backbone


def _chosen(recipe: Recipe, levels: tuple[int, ...], unit: str) -> tuple[int, ...]:
    """Which levels of the zoo's model `out_indices` stands for."""
    count = len(levels)
    for index in recipe.out_indices:
        if not -count <= index < count:
            expected = f"indices below {count}, one for each {unit}"
            fault = Mismatch("out_indices", expected, str(list(recipe.out_indices)), f"out_indices: [{count - 1}]")
            raise AssemblyError(f"{recipe.name} has no level {index}", [fault])
    return tuple(levels[index] for index in recipe.out_indices)


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
