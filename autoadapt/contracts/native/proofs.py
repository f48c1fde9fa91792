"""Proofs: whether a freed view returns what its module returns, at the size that the module was built for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from autoadapt.contracts.caches import OutsideCaches
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.trees import flatten
from autoadapt.contracts.views import eval_copy

_ROUNDING = 1e-6
"""The largest difference, relative to the largest value: some libraries resample even to the same size."""


def unproven(module: nn.Module, view: nn.Module, size: Sequence[int], channels: int) -> str:
    """Run a module and its freed view on one image of the module's size, and compare the outputs.

    Args:
        module: The module; a copy of it runs, in eval mode.
        view: The freed view.
        size: Height and width.
        channels: Channels of the image.

    Returns:
        Why the view is not used; empty where both returned the same, and for modules on the meta device, which cannot
        be compared.
    """
    reference = next((p for p in module.parameters() if p.is_floating_point()), None)
    if reference is None or reference.is_meta:
        return ""
    image = torch.rand((1, channels, *size), generator=torch.Generator().manual_seed(0)) * 2 - 1
    image = image.to(reference.device, reference.dtype)
    try:
        before, after = (_outputs(one, image) for one in (module, view))
    except Exception as error:  # whatever a model raises
        return f"it raises at {size[0]}x{size[1]}: {_first_line(error)}"
    same = len(before) == len(after) and all(_are_alike(left, right) for left, right in zip(before, after, strict=True))
    return "" if same else f"its values at {size[0]}x{size[1]} would be others"


def _outputs(module: nn.Module, image: torch.Tensor) -> list[torch.Tensor]:
    copied = eval_copy(module)
    with undisturbed(), OutsideCaches(copied).kept():
        return list(flatten(copied(image))[1])


def _are_alike(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two outputs are equal up to rounding."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    if torch.equal(left, right):
        return True
    if not left.is_floating_point() or not left.numel():
        return False
    most = float(left.abs().max())
    return float((left - right).abs().max()) <= _ROUNDING * most


def _first_line(error: Exception) -> str:
    said = (str(error).splitlines() or [""])[0] or type(error).__name__
    return "".join(one if one.isascii() and one.isprintable() else "?" for one in said)[:160]
