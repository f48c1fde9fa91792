"""Coarse steps: sizes that are multiples of 128 or more, which torch.compile and export get as plain numbers."""

from __future__ import annotations

from autoadapt.contracts.dims import Dim


def coarse_step(dim: Dim) -> tuple[str, int] | None:
    """The axis and the step of a size that is an axis rounded up to a multiple of 128 or more; None for any other.

    Window attention needs such sizes. With symbolic ones torch 2.14 never ends proving facts about the maps inside of
    windows (MaxViT).

    Example:
        >>> coarse_step(Dim.axis("H").ceildiv(224) * 224), coarse_step(Dim.axis("H").ceildiv(32) * 32)
        (('H', 224), None)
    """
    if len(dim.axes) != 1:
        return None
    (axis,) = dim.axes
    step = int(dim.evaluate({axis: 1}))
    return (axis, step) if step >= _COARSE and dim == Dim.axis(axis).ceildiv(step) * step else None


_COARSE = 128
