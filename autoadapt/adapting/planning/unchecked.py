"""Unchecked: remarks on what the captures of both modules did not check, and refusals of contradictions."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence

from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import Signature
from autoadapt.errors import Mismatch, PlanError


def unchecked_remarks(source: Signature, target: Signature, read: Collection[str]) -> list[str]:
    """Remarks on dims without a held-out check, and on modules that never ran for real.

    Args:
        source: Signature of the new module.
        target: The contract, with only the outputs to serve.
        read: Paths of the outputs of the new module that are read.
    """
    return [*_of(source, read), *_of(target, target.outputs.paths)]


def _of(signature: Signature, paths: Collection[str]) -> list[str]:
    unverified = ", ".join(path for path in signature.unverified if path in paths)
    found = [f"sizes of {unverified} of {signature.name} are unchecked: no image size was left to try them at"]
    ran = [f"{signature.name} never ran for real, so that its values are unchecked: {signature.unconfirmed}"]
    return found * bool(unverified) + ran * bool(signature.unconfirmed) + [*_exchangeable(signature)]


def _exchangeable(signature: Signature) -> Iterator[str]:
    """Remarks on clips with as many frames as channels, where the axis of frames is a guess."""
    times = signature.axes.get("T")
    for path, spec in signature.inputs.items():
        if times is not None and times.step == 0 and {*spec.dims[1:3]} == {Dim.axis("T"), Dim(times.example)}:
            yield (
                f"axes 1 and 2 of {path} of {signature.name} are both {times.example} long and take no other size: "
                f"axis {spec.dims.index(Dim.axis('T'))} is taken for the frames, unchecked"
            )


def refuse_contradictions(source: Signature, target: Signature, outputs: Sequence[str] | None) -> None:
    """Refuse modules with contradictions; those of outputs that are not served do not count."""
    kept = ["", *(target.outputs.paths if outputs is None else outputs)]
    found = [(source.name, one) for one in source.contradictions]
    found += [(target.name, one) for one in target.contradictions if one.path in kept]
    faults = [
        Mismatch(f"{name}, {one.where}", one.expected, one.found, 'adapt(..., nondeterministic="allow")')
        for name, one in found
    ]
    if faults:
        raise PlanError(f"{found[0][0]} is not deterministic, or is another function at another size", faults)
