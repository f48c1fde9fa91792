"""Paired tokens: what goes into a projection and what should come out, and which of it no mask hides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch

from autoadapt.adapting.mask_layers import counted_tokens, fit_mask, thin_mask, what_counts
from autoadapt.adapting.planning import Plan, counted_along
from autoadapt.calibration.projections import Projection

# Dimension letters: B images, T tokens of an image, C and D channels.


class PairedTokens(NamedTuple):
    """Of one projection and one call of the backbone."""

    given: torch.Tensor
    """What goes in, `[B, T, C]`."""
    wanted: torch.Tensor
    """What should come out, `[B, T, D]`."""
    counts: torch.Tensor | None = None
    """Where tokens count, `[B, T]`, in truth values; None where all do."""


def what_counts_of(
    plan: Plan, projection: Projection, given: Mapping[str, object], x_BTC: torch.Tensor, sizes: Mapping[str, int]
) -> torch.Tensor | None:
    """Which tokens of a projection no mask hides; None where there is no mask for them.

    Args:
        plan: Of the adapted module.
        projection: The projection.
        given: The tensors of a call, by path.
        x_BTC: What goes into the projection.
        sizes: Of the input axes in that call.
    """
    spec = projection.route.specs[projection.index]
    for where in counted_along(spec, range(1, len(spec.dims)), plan.target.masks):
        mask, is_listed = given.get(where.mask.argument), spec.dims[where.axis].evaluate(sizes) == x_BTC.shape[1]
        if isinstance(mask, torch.Tensor) and is_listed:
            one = where.mask
            counting = what_counts(mask, sizes[one.axis], one.form, one.counts, one.shared)
            counting = thin_mask(counting, *where.frames) if where.frames is not None else counting
            counting = fit_mask(counting, x_BTC.shape[1]) if where.fitted else counting
            return counted_tokens(x_BTC, counting, 1, where.front, where.behind)[..., 0] > 0
    return None
