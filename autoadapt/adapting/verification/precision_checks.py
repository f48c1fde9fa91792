"""The checks `bfloat16`, `float16`, `autocast` and `channels_last`; a small size suffices for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch

from autoadapt.adapting.verification.comparing import Leaves, differing, distance, not_excused
from autoadapt.adapting.verification.findings import Findings
from autoadapt.adapting.verification.sessions import NotApplicableError, Session
from autoadapt.contracts.capturing import Arguments
from autoadapt.contracts.signature import dtype_name
from autoadapt.contracts.trees import flatten, rebuild
from autoadapt.errors import Mismatch

_FARTHEST = 0.25
"""Largest distance to the output of full precision, relative to its norm.

In deep networks with random weights the rounding errors of bfloat16 add up to 0.02.
"""


def bfloat16(session: Session) -> Findings:
    """Run after a cast to bfloat16."""
    return _cast(session, session.small(B=2), torch.bfloat16, "in bfloat16")


def float16(session: Session) -> Findings:
    """Run after a cast to float16; one small item, since CPUs are slow at it."""
    return _cast(session, session.small(32, B=1), torch.float16, "in float16")


def _cast(session: Session, sizes: Mapping[str, int], dtype: torch.dtype, words: str) -> Findings:
    """Run a copy that was cast to a dtype, and compare its outputs with the contract and with full precision.

    Args:
        session: The verification.
        sizes: Of the input axes.
        dtype: What parameters and floating-point inputs are cast to.
        words: Names the cast in mismatches, as "in bfloat16".
    """

    def run(one: Session) -> tuple[Arguments, Any]:
        at = sizes if one is session else one.at(**sizes)
        arguments = one.arguments(at, dtype=dtype)
        return arguments, arguments.call(one.copy().to(dtype))

    try:
        arguments, returned = run(session)
    except Exception as error:
        session.excuse(run, words)
        _excuse_own_dtypes(session, run, dtype)
        if "not implemented for 'Half'" in str(error):
            raise NotApplicableError("this device has no such operations") from error
        raise
    faults = session.compare(arguments, returned, sizes, dtype=dtype)
    if faults:
        _excuse_own_dtypes(session, run, dtype)
    if not faults:
        faults = _not_numbers(session, sizes, returned, run) or _far_values(session, sizes, returned, run, words)
    return Findings(faults)


def _excuse_own_dtypes(session: Session, run: Callable[[Session], tuple[Arguments, Any]], dtype: torch.dtype) -> None:
    """Raise `NotApplicableError` where the bare backbone returns other dtypes than it is cast to.

    Such as one that uses autocast inside.
    """
    bare = session.backbone()
    found = flatten(run(bare)[1])[1] if bare is not None else []
    own = {tensor.dtype for tensor in found if tensor.is_floating_point()} - {dtype}
    if own:
        names = " and ".join(sorted(map(dtype_name, own)))
        raise NotApplicableError(f"the bare backbone returns {names} whatever it is cast to")


def _not_numbers(
    session: Session, sizes: Mapping[str, int], returned: Any, run: Callable[[Session], tuple[Arguments, Any]]
) -> list[Mismatch]:
    """Outputs that hold NaN or infinity after the cast and not before it.

    Raises:
        NotApplicableError: Outputs of the bare backbone do so too.
    """
    wrong = {path for path, tensor in session.leaves(returned).items() if not bool(tensor.isfinite().all())}
    if not wrong:
        return []
    full = session.leaves(session.arguments(sizes).call(session.copy()))
    wrong = {path for path in wrong if bool(full[path].isfinite().all())}
    bare = session.backbone() if wrong else None
    if bare is not None and not all(bool(tensor.isfinite().all()) for tensor in flatten(run(bare)[1])[1]):
        raise NotApplicableError("the bare backbone overflows as well")
    return [Mismatch(path, "finite values, as before the cast", "NaN or infinity") for path in sorted(wrong)]


def _far_values(
    session: Session,
    sizes: Mapping[str, int],
    returned: Any,
    run: Callable[[Session], tuple[Arguments, Any]],
    words: str,
) -> list[Mismatch]:
    """Feature outputs farther from full precision than rounding explains, unless the bare backbone's are as well."""
    if sizes != session.small(B=2):  # the only size whose outputs in full precision are at hand
        return []
    if not _far(session, session.small_call[2], returned, words):
        return []

    def of(one: Session) -> list[Mismatch]:
        """Compare with full precision on the rounded inputs, since rounding may change which points are chosen."""
        arguments, made = run(one)
        tensors = flatten(arguments.values)[1]
        pairs = zip(tensors, one.signature.inputs.leaves, strict=True)
        full = one.rebuilt([t.to(spec.torch_dtype) if t.is_floating_point() else t for t, spec in pairs])
        return _far(one, one.leaves(full.call(one.copy())), made, words)

    faults, bare = of(session), session.backbone()
    return faults if not faults or bare is None else not_excused(session, faults, lambda: of(bare))


_CHOSEN = ("coordinate", "index")
"""Roles of outputs that show which points of a point cloud the module chose."""


def _far(session: Session, expected: Leaves, returned: Any, words: str) -> list[Mismatch]:
    found, outputs = session.leaves(returned), [*session.signature.outputs.items()]
    paths = [path for path, spec in outputs if spec.is_floating and spec.role == "feature"]
    farthest = {path: _FARTHEST if spec.role == "coordinate" else 0 for path, spec in outputs if spec.role in _CHOSEN}
    if any(distance(expected[path], found[path]) > most for path, most in farthest.items()):
        return []  # other points were chosen, so that features may differ
    return [
        Mismatch(f"{path} {words}", "the values of full precision, but for rounding", "other values")
        for path in paths
        if distance(expected[path], found[path]) > _FARTHEST
    ]


def autocast(session: Session) -> Findings:
    """Run under autocast; an output may be bfloat16 or have its usual dtype, as with the old module."""

    def run(one: Session) -> tuple[Arguments, Any]:
        with torch.autocast(one.device.type, dtype=torch.bfloat16):
            arguments = one.arguments(one.small(B=2))
            return arguments, arguments.call(one.copy())

    try:
        _, returned = run(session)
    except Exception as error:
        session.excuse(run, "under autocast")
        if session.cast in (torch.float16, torch.bfloat16):  # torch itself does not mix them in a batch norm
            reason = f"it was cast to {dtype_name(session.cast)}, and autocast casts modules of full precision"
            raise NotApplicableError(reason) from error
        raise
    sizes, faults, leaves = session.small(B=2), list[Mismatch](), session.leaves(returned)
    for path, spec in session.signature.outputs.items():
        fine = (torch.bfloat16, spec.torch_dtype) if spec.is_floating else (spec.torch_dtype,)
        if leaves[path].dtype not in fine:
            faults.append(Mismatch(path, " or ".join(map(str, fine)), str(leaves[path].dtype)))
        if tuple(leaves[path].shape) != spec.shape(sizes):
            faults.append(Mismatch(path, str(list(spec.shape(sizes))), str(list(leaves[path].shape))))
    if not faults:
        faults = _not_numbers(session, sizes, returned, run)
        faults = faults or _far_values(session, sizes, returned, run, "under autocast")
    return Findings(faults)


def channels_last(session: Session) -> Findings:
    """Run with images and weights in channels-last memory format."""
    if not any(len(spec.dims) == 4 for spec in session.signature.inputs.leaves):
        raise NotApplicableError("no input is an image")
    try:
        arguments, returned = _with_channels_last(session)
    except Exception:
        session.excuse(_with_channels_last, "in channels-last memory")
        raise
    if faults := session.compare(arguments, returned, session.small(B=2)):
        return Findings(faults)
    faults = _other_values(session, returned, "in channels-last memory")
    bare = session.backbone() if faults else None
    if bare is not None:
        faults = not_excused(
            session, faults, lambda: _other_values(bare, _with_channels_last(bare)[1], "in channels-last memory")
        )
    return Findings(faults)


def _other_values(session: Session, returned: Any, words: str) -> list[Mismatch]:
    expected, found = session.small_call[2], session.leaves(returned)
    return differing(session, expected, found, words, "the values that it has without", "other values")


def _with_channels_last(session: Session) -> tuple[Arguments, Any]:
    arguments = session.arguments(session.small(B=2))
    tree, tensors = flatten(arguments.values)
    last = [one.contiguous(memory_format=torch.channels_last) if one.dim() == 4 else one for one in tensors]
    changed = Arguments(rebuild(tree, last), arguments.positional)
    return changed, changed.call(session.copy().to(memory_format=torch.channels_last))
