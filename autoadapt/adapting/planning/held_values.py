"""Held values: what brings back what held of the old values at every input, where a chain does not keep it."""

from __future__ import annotations

from autoadapt.adapting.operations import Mean, Operation, Pool, Project, Resample, Resize, ResizeTokens, Restore
from autoadapt.contracts.signature import TensorSpec

__all__ = ["with_held"]


def with_held(steps: tuple[Operation, ...], source: TensorSpec, target: TensorSpec) -> tuple[Operation, ...]:
    """A chain, and at its end what gives vectors norm 1 or makes them probabilities, if the old ones always were.

    Means of probabilities are probabilities, and those of vectors of norm 1 are shorter.

    Args:
        steps: The chain.
        source: What it begins with.
        target: What it leads to.
    """
    held = target.holds
    if held is None or not target.is_floating or target.role != "feature":
        return steps
    mixes: tuple[type, ...] = (Project,)
    if held.what == "norm 1":
        mixes = (Project, Mean, Pool, Resize, Resample, ResizeTokens)
    alike = source.holds is not None and source.holds.what == held.what
    kept = alike and not any(isinstance(step, mixes) for step in steps)
    return steps if kept else (*steps, Restore(what=held.what, axis=held.axis))
