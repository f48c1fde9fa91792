"""The reader for models of transformers whose embeddings take `interpolate_pos_encoding=True`."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from autoadapt.contracts.native.lifts import Lift, lift_reader

_ASKED = "interpolate_pos_encoding"


def ask_to_interpolate(
    part: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """A forward pre-hook that passes `interpolate_pos_encoding=True`."""
    place = [name for name in inspect.signature(type(part).forward).parameters if name != "self"].index(_ASKED)
    return args[:place], {**kwargs, _ASKED: True}


def _hook(part: nn.Module) -> None:
    part.register_forward_pre_hook(ask_to_interpolate, with_kwargs=True)


@lift_reader
def _embeddings(part: nn.Module) -> Lift | None:
    """Embeddings whose `forward` takes `interpolate_pos_encoding`, over patches of one image size."""
    if not type(part).__module__.startswith("transformers.models.") or not hasattr(type(part), _ASKED):
        return None
    if _ASKED not in inspect.signature(type(part).forward).parameters:
        return None
    holders = [vars(one) for one in (part, *part.children()) if {"image_size", "patch_size"} <= vars(one).keys()]
    told = holders[0]["image_size"], holders[0]["patch_size"]
    (rows, columns), sides = (side if isinstance(side, (tuple, list)) else (side, side) for side in told)
    what = f"position embedding {rows // sides[0]}x{columns // sides[1]} resampled"
    return Lift((rows, columns), what, (("", _hook),), steps=(sides[0], sides[1]))
