"""Models of timm that their constructor ties to one image size, freed as `dynamic_img_size=True` builds them."""

from __future__ import annotations

from torch import nn

from autoadapt.contracts.native.lifts import Change, Lift, grid_text, lift_reader, setting

__all__: list[str] = []


def _tied(part: nn.Module, *homes: str) -> nn.Module | None:
    """The patch embedding of a model of timm that refuses sizes; None for any other module."""
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
        what.append(f"position embedding {grid_text(grid)} resampled")
    rope = part._modules.get("rope")
    if rope is not None:
        changes += [("rope", setting(_use_cached_embed=False))] if "_use_cached_embed" in vars(rope) else []
        what.append("rotary positions follow the image")
    return Lift(vars(patches)["img_size"], ", ".join(what) or "no position embedding", tuple(changes))


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
    return Lift(vars(patches)["img_size"], "masks of windows follow the image", tuple(changes), untraced)
