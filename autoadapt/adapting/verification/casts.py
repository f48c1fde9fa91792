"""Casts: what a module was cast to since it was built, as by `net.half()`, and its contract in that dtype."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import nn

from autoadapt.adapting.planning import Plan
from autoadapt.adapting.verification.results import Check, failed
from autoadapt.adapting.verification.sessions import Session
from autoadapt.contracts.randomness import quiet, undisturbed
from autoadapt.contracts.signature import Signature, dtype_name, in_dtype
from autoadapt.errors import Mismatch


@dataclass(frozen=True)
class Recast:
    """A module that was cast: in which dtype it is now, and what it keeps in that dtype."""

    before: str
    now: torch.dtype
    kept: tuple[str, ...]
    """Outputs that have the dtype of the contract nevertheless, such as scores in full precision."""
    unfit: tuple[Mismatch, ...]
    """Inputs of the caller with which it does not run any more."""

    def contract(self, signature: Signature) -> Signature:
        """A signature in the dtype that the module has now."""
        return in_dtype(signature, self.now, but=self.kept)

    def row(self, signature: Signature) -> Check:
        """The row of the report, before all others."""
        if self.unfit:
            return failed("dtype", self.unfit)
        now, held = dtype_name(self.now), [f"`{path}` ({signature.outputs[path].dtype})" for path in self.kept]
        but = f" but for {', '.join(held)}" if held else ""
        detail = f"cast from {self.before} to {now} since it was built; the rows below are of {now}{but}"
        return Check(name="dtype", outcome="passed", detail=detail)


def recast(session: Session) -> Recast | None:
    """Whether a module has another dtype than when its plan was made, and does not keep its contract in the old one.

    Only a plan tells, in a bigger model that of its first adapted part; of a module that is nobody's cast, another
    dtype than the contract's is a fault.
    """
    part, plan = next(_planned(session.net), (session.net, None))
    own = next((p.dtype for p in part.parameters() if p.is_floating_point()), None)
    source = plan.source if plan is not None else None
    built = [spec for spec in (*source.inputs.leaves, *source.outputs.leaves) if spec.is_floating] if source else []
    if own is None or not built or own in {spec.torch_dtype.to_real() for spec in built}:
        return None
    specs = dict(session.signature.outputs.items())
    as_called, as_cast = _dtypes(session, None), _dtypes(session, own)
    floating = {path: spec.torch_dtype for path, spec in specs.items() if spec.is_floating}
    kept = tuple(path for path, dtype in floating.items() if as_cast is not None and as_cast[path] == dtype)
    if as_called == {path: spec.torch_dtype for path, spec in specs.items()} or len(kept) == len(floating) > 0:
        return None
    unfit = _other_dtypes(session, own) if as_called is None else ()
    return Recast(built[0].dtype, own, kept, unfit)


def _planned(net: nn.Module) -> Iterator[tuple[nn.Module, Plan]]:
    """The parts that were built from a plan, the outermost first."""
    for part in net.modules():
        if isinstance(plan := getattr(part, "plan", None), Plan):
            yield part, plan


def as_cast(session: Session, inputs: object = None) -> Session:
    """A session, or one in the module's own dtype where it was cast since it was built."""
    cast = recast(session)
    if cast is None or cast.unfit:
        return session
    return Session(session.net, cast.contract(session.signature), inputs=inputs, cast=cast.now)


def _dtypes(session: Session, dtype: torch.dtype | None) -> dict[str, torch.dtype] | None:
    """The dtypes of all outputs of a small call with inputs of a dtype; None where it raises."""
    try:
        with quiet(), undisturbed(0):
            returned = session.arguments(session.small(B=2), dtype=dtype).call(session.copy())
            return {path: tensor.dtype for path, tensor in session.leaves(returned).items()}
    except Exception:  # whatever a model raises; the checks tell it
        return None


def _other_dtypes(session: Session, dtype: torch.dtype) -> tuple[Mismatch, ...]:
    """The caller's inputs of other floating-point dtypes."""
    expected = f"{dtype_name(dtype)}, to which the module was cast"
    return tuple(
        Mismatch(f"inputs.{path}", expected, dtype_name(tensor.dtype), f".to({dtype})")
        for path, tensor in session.given.items()
        if tensor.is_floating_point() and tensor.dtype != dtype
    )
