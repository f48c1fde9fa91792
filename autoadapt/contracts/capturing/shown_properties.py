"""Shown properties: those of outputs, such as vectors of norm 1, as real runs and followed activations show them."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.capturing.probing import Observation, Probe, ProbeError
from autoadapt.contracts.signature import Bound, Held, TensorSpec
from autoadapt.contracts.trees import flatten, rebuild


def with_held(
    leaves: Sequence[TensorSpec], tensors: Sequence[torch.Tensor], bounds: Sequence[Bound | None]
) -> tuple[TensorSpec, ...]:
    """The specs of outputs with the property of their values.

    Args:
        leaves: The specs.
        tensors: The outputs of a real run; empty where there was none.
        bounds: The bounds within which an activation left each output.
    """
    seen: list[torch.Tensor | None] = [*tensors] if tensors else [None] * len(leaves)
    held = functools.cache(_held)  # one tensor may be many outputs
    told = [
        held(one, bound if leaf.is_floating else None) for leaf, one, bound in zip(leaves, seen, bounds, strict=True)
    ]
    rows = zip(leaves, told, strict=True)
    return tuple(leaf if holds is None else leaf.model_copy(update={"holds": holds}) for leaf, holds in rows)


def _held(seen: torch.Tensor | None, bound: Bound | None) -> Held | None:
    """The property of an output; bounds of an activation only if the values keep them: they may be overwritten."""
    held = Held(what=bound) if bound is not None else None
    if seen is None or seen.is_meta:
        return held
    return Held.found_in(seen) or (held if held is not None and held.is_kept_by(seen) else None)


def agreed_bounds(runs: Sequence[Observation], count: int) -> list[Bound | None]:
    """The bounds within which activations left each output, where all runs agree."""
    rows = zip(*(run.bounds for run in runs), strict=True) if runs else [()] * count
    return [told[0] if len(set(told)) == 1 else None for told in rows]


def telling_outputs(module: nn.Module, arguments: Arguments, run: Observation) -> Sequence[torch.Tensor]:
    """The outputs of a real run; where an example of zeros gave outputs of zeros, those of a run on noise.

    Args:
        module: The module; only a copy of it runs.
        arguments: The example call.
        run: The real run.
    """
    dead = any(one.is_floating_point() and one.numel() and not one.any() for one in run.tensors)
    if not dead or any(one.is_floating_point() and one.any() for one in run.inputs):
        return run.tensors
    tree, tensors = flatten(arguments.values)
    noise = [torch.empty_like(one, device="meta") if one.is_floating_point() else one for one in tensors]
    with contextlib.suppress(ProbeError):
        call = Arguments(rebuild(tree, noise), arguments.positional)
        return Probe(module, call, real=True, inner=False, forgets=False).run().tensors
    return run.tensors
