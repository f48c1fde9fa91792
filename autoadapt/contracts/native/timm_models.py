"""Readers for models of timm that are built for one image size.

Where a model has the option `dynamic_img_size`, the lift sets what that option sets; else it gives the model a class of
`timm_forwards`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import nn

from autoadapt.contracts.native.lifts import Change, Lift, grid_text, lift_reader, setting


def _tied(part: nn.Module, *homes: str) -> nn.Module | None:
    """The patch embedding of a model in one of timm's files `homes`, where it refuses other sizes; else None."""
    if not type(part).__module__.startswith(tuple(f"timm.models.{home}" for home in homes)):
        return None
    patches = part._modules.get("patch_embed")
    is_tied = patches is not None and vars(patches).get("strict_img_size") is True
    return patches if is_tied and vars(patches).get("img_size") is not None else None


@lift_reader
def _vision_transformer(part: nn.Module) -> Lift | None:
    """Plain vision transformers, DeiT, FlexiViT and EVA: position embeddings are resampled by timm's own code."""
    patches = _tied(part, "vision_transformer", "deit", "eva")
    if patches is None or vars(part).get("dynamic_img_size") is not False or vars(patches).get("flatten") is not True:
        return None
    changes: list[tuple[str, Change]] = [
        ("", setting(dynamic_img_size=True)),
        ("patch_embed", setting(strict_img_size=False, flatten=False, output_fmt="NHWC")),
    ]
    grid, what = vars(patches)["grid_size"], list[str]()
    if getattr(part, "pos_embed", None) is not None:
        what.append(_resampled(grid))
    rope = part._modules.get("rope")
    if rope is not None:
        changes += [("rope", setting(_use_cached_embed=False))] if "_use_cached_embed" in vars(rope) else []
        what.append("rotary positions follow the image")
    padded = any(type(inner).__name__ in _PADDED for inner in patches.modules())
    untraced = "its padding can be neither compiled nor exported at sizes that vary" if padded else ""  # takes minutes
    return Lift(
        vars(patches)["img_size"], ", ".join(what) or "no position embedding", tuple(changes), untraced=untraced
    )


_PADDED = ("StdConv2dSame", "Conv2dSame", "MaxPool2dSame")
"""Layers of timm, in stems of hybrid models, with padding computed from the size (TensorFlow's "same")."""


@lift_reader
def _windowed(part: nn.Module) -> Lift | None:
    """Swin: the masks of shifted windows are made for the image at hand."""
    patches = _tied(part, "swin_transformer")
    if patches is None or vars(part).get("dynamic_img_size") is not False:
        return None
    masked = [path for path, block in part.named_modules() if vars(block).get("dynamic_mask") is False]
    changes = [(path, setting(dynamic_mask=True)) for path in masked]
    changes += [("", setting(dynamic_img_size=True)), ("patch_embed", setting(strict_img_size=False))]
    untraced = "its windows can be neither compiled nor exported at sizes that vary"  # torch 2.14 never ends
    size, steps = vars(patches)["img_size"], vars(patches)["patch_size"]
    return Lift(size, "masks of windows follow the image", tuple(changes), steps=tuple(steps), untraced=untraced)


@lift_reader
def _cait(part: nn.Module) -> Lift | None:
    """CaiT: positions are added to flat tokens."""
    patches = _tied(part, "cait")
    if patches is None or type(part).__name__ != "Cait":
        return None
    changes = (("patch_embed", setting(strict_img_size=False)), ("", AsClass("NativeCait")))
    return Lift(vars(patches)["img_size"], _resampled(vars(patches)["grid_size"]), changes)


@lift_reader
def _relative(part: nn.Module) -> Lift | None:
    """BEiT: biases of attention are learned for distances in one grid."""
    patches = _tied(part, "beit")
    if patches is None or type(part).__name__ != "Beit":
        return None
    attentions = [path for path, inner in part.named_modules() if _is_of(inner, "beit", "Attention")]
    what = f"attention biases of {grid_text(vars(patches)['grid_size'])} resampled"
    if getattr(part, "pos_embed", None) is not None:
        what = f"{_resampled(vars(patches)['grid_size'])}, {what}"
    changes: list[tuple[str, Change]] = [(path, AsClass("NativeBeitAttention")) for path in attentions]
    changes += [("patch_embed", setting(strict_img_size=False)), ("", AsClass("NativeBeit"))]
    return Lift(vars(patches)["img_size"], what, tuple(changes))


@lift_reader
def _staged(part: nn.Module) -> Lift | None:
    """Visformer: positions are maps, at each stage."""
    if not _is_of(part, "visformer", "Visformer"):
        return None
    patches = [name for name, _ in part.named_children() if name.startswith("patch_embed")]
    free: list[tuple[str, Change]] = [(name, setting(strict_img_size=False)) for name in patches]
    grids = [tuple(one.shape[2:]) for name, one in part.named_parameters(recurse=False) if name.startswith("pos_embed")]
    what = f"position embeddings {', '.join(map(grid_text, grids))} resampled"
    return Lift(tuple(vars(part)["img_size"]), what, (*free, ("", AsClass("NativeVisformer"))))


@lift_reader
def _pooling(part: nn.Module) -> Lift | None:
    """PiT: positions are a map, of patches that overlap."""
    if not _is_of(part, "pit", "PoolingVisionTransformer"):
        return None
    patches = vars(part.get_submodule("patch_embed"))
    steps = tuple(vars(part.get_submodule("patch_embed.conv"))["stride"])
    return Lift(patches["img_size"], _resampled(patches["grid_size"]), (("", AsClass("NativePit")),), steps=steps)


@lift_reader
def _outlooking(part: nn.Module) -> Lift | None:
    """VOLO: positions are a map with channels last, two halvings behind the patches."""
    if not _is_of(part, "volo", "VOLO"):
        return None
    rows, columns = part.get_parameter("pos_embed").shape[1:3]
    strides = [vars(part.get_submodule(f"patch_embed.{inner}"))["stride"][0] for inner in ("conv.0", "proj")]
    step = 2 * math.prod(strides)
    size, what = (rows * step, columns * step), _resampled((rows, columns))
    return Lift(size, what, (("", AsClass("NativeVolo")),), steps=(step, step))


def _is_of(part: nn.Module, home: str, name: str) -> bool:
    return type(part).__module__ == f"timm.models.{home}" and type(part).__name__ == name


def _resampled(grid: Sequence[int]) -> str:
    return f"position embedding {grid_text(grid)} resampled"


class AsClass:
    """A change that gives a submodule a class of `timm_forwards`, whose forward pass takes other sizes."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, part: nn.Module) -> None:
        from autoadapt.contracts.native import timm_forwards

        part.__class__ = getattr(timm_forwards, self.name)
