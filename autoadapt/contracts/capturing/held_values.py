"""Held values: what holds of outputs at every input, such as vectors of norm 1, as a real run tells."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.capturing.probing import Observation, Probe, ProbeError
from autoadapt.contracts.signature import Bound, Held, TensorSpec
from autoadapt.contracts.trees import flatten, rebuild

__all__ = ["agreed_bounds", "telling_outputs", "with_held"]


def with_held(
    leaves: Sequence[TensorSpec], tensors: Sequence[torch.Tensor], bounds: Sequence[Bound | None]
) -> tuple[TensorSpec, ...]:
    """Outputs with what holds of their values.

    Args:
        leaves: The outputs.
        tensors: What they were in a run; empty where there was none.
        bounds: Within which an activation left them.
    """
    seen: list[torch.Tensor | None] = [*tensors] if tensors else [None] * len(leaves)
    told = [
        _held(one, bound if leaf.is_floating else None) for leaf, one, bound in zip(leaves, seen, bounds, strict=True)
    ]
    rows = zip(leaves, told, strict=True)
    return tuple(leaf if held is None else leaf.model_copy(update={"holds": held}) for leaf, held in rows)


def _held(seen: torch.Tensor | None, bound: Bound | None) -> Held | None:
    """What holds of an output, which may have been written to behind an activation."""
    held = Held(what=bound) if bound is not None else None
    if seen is None or seen.is_meta:
        return held
    return Held.found_in(seen) or (held if held is not None and held.is_kept_by(seen) else None)


def agreed_bounds(runs: Sequence[Observation], count: int) -> list[Bound | None]:
    """Within which bounds activations left each output, where all runs agree."""
    rows = zip(*(run.bounds for run in runs), strict=True) if runs else [()] * count
    return [told[0] if len(set(told)) == 1 else None for told in rows]


def telling_outputs(module: nn.Module, arguments: Arguments, run: Observation) -> Sequence[torch.Tensor]:
    """The outputs of a run, or where an example of zeros left one without values, those of noise.

    Args:
        module: The module; never run itself.
        arguments: One call that is known to be meant.
        run: Made for real.
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
