"""Coarse steps: sizes that go up in steps of 128 or more, which a compiler gets as numbers."""

from __future__ import annotations

from autoadapt.contracts.dims import Dim

__all__ = ["coarse_step"]


def coarse_step(dim: Dim) -> tuple[str, int] | None:
    """The axis and the step of a size that goes up in steps of 128 or more; None for any other.

    Windows and images of one size make such steps. Tracing goes on for good when it has to prove things about the maps
    within them (torch 2.14, MaxViT), so that it gets them as numbers.

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
