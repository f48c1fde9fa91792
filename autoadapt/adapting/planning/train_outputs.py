"""Train outputs: modules that return other tensors in train mode than in eval mode, as for auxiliary losses."""

from __future__ import annotations

from collections.abc import Iterable

from autoadapt.contracts.signature import Signature, TensorSpec, describe
from autoadapt.errors import Mismatch, PlanError

__all__ = ["steady_sources", "train_remarks"]


def steady_sources(source: Signature, read: Iterable[str]) -> dict[str, str]:
    """Inner outputs to tap instead of outputs that stand elsewhere in train mode, by the path of the output.

    Args:
        source: Signature of the new module, with what inner modules return.
        read: The outputs that are taken.

    Raises:
        PlanError: No inner module returns such an output.
    """
    if source.train_outputs is None:
        return {}
    makers = {inner.output: inner.name for inner in reversed(source.inner) if inner.output}
    outputs, in_train = dict(source.outputs.items()), dict(source.train_outputs.items())
    alike = describe(source.outputs.tree) == describe(source.train_outputs.tree)
    moved = [path for path in read if path in outputs and not (alike and _stays(outputs[path], in_train.get(path)))]
    faults = [
        Mismatch(path, str(outputs[path]), _found(source), "taps={...} names an inner module that returns it")
        for path in moved
        if path not in makers
    ]
    if faults:
        raise PlanError(f"{source.name} returns something else in train mode", faults)
    return {path: makers[path] for path in moved}


def _stays(spec: TensorSpec, in_train: TensorSpec | None) -> bool:
    """Whether train mode has the same tensor at its path; sizes may differ, as with tokens that are dropped."""
    return in_train is not None and len(in_train.dims) == len(spec.dims)


def _found(source: Signature) -> str:
    assert source.train_outputs is not None, "asked for where they differ"
    if describe(source.outputs.tree) == describe(source.train_outputs.tree):
        leaves = zip(source.outputs.leaves, source.train_outputs.items(), strict=True)
        other = [
            f"{path} as {spec}" for left, (path, spec) in leaves if (left.dtype, left.dims) != (spec.dtype, spec.dims)
        ]
        return f"{', '.join(other)} in train mode"
    return f"{describe(source.train_outputs.tree)} ({', '.join(source.train_outputs.paths)}) in train mode"


def _served(source: Signature) -> str:
    """What becomes of outputs that the new module has in train mode alone."""
    assert source.train_outputs is not None, "asked for where they differ"
    if describe(source.outputs.tree) == describe(source.train_outputs.tree):
        return "the contract is that of eval mode, and not kept in training"
    return "what it returns in eval mode is taken in both"


def train_remarks(source: Signature, target: Signature) -> tuple[str, ...]:
    """What is not served of the outputs that either module has in train mode alone."""
    remarks = []
    if target.train_outputs is not None:
        remarks.append(
            f"{target.name} returns {_found(target)}; the adapted module returns in both what it does in eval mode"
        )
    if source.train_outputs is not None:
        remarks.append(f"{source.name} returns {_found(source)}; {_served(source)}")
    return tuple(remarks)
