"""Verifying: `verify`, which runs all checks of a module, and `verify_step`, which runs one training step."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from torch import nn

from autoadapt.adapting.planning.targets import with_inputs
from autoadapt.adapting.verification.casts import recast
from autoadapt.adapting.verification.checks import CHECKS, MASK_CHECKS, THOROUGH_CHECKS
from autoadapt.adapting.verification.children import UnstartedError, in_children, stopped
from autoadapt.adapting.verification.limits import OutOfTime, at_most
from autoadapt.adapting.verification.outcomes import checked
from autoadapt.adapting.verification.results import Check, Verification
from autoadapt.adapting.verification.sessions import Session
from autoadapt.adapting.verification.training_checks import one_step
from autoadapt.contracts.capturing import capture
from autoadapt.contracts.instances import check_module, not_a_module
from autoadapt.contracts.signature import Signature, dtype_name
from autoadapt.contracts.unfit import off_the_meta_device, refuse_unfit, without_autocast
from autoadapt.errors import VerificationError
from autoadapt.showing.progress import Tell, telling


@without_autocast()
def verify(
    net: nn.Module,
    signature: Signature,
    *,
    inputs: object = None,
    sizes: Sequence[Mapping[str, int]] | None = None,
    batches: Sequence[int] = (1, 3),
    thorough: bool = False,
    seconds: float = 600,
    memory: int = 8 << 30,
    seed: int = 0,
) -> Verification:
    """Run a module in many ways and compare with a signature.

    The module itself is not run; a copy over the same weights is.

    Values are looked at where it runs for real: at `sizes` and, where that takes less than a second, at 224 x 224. At
    the other usual sizes (256, 384, 512, 640, 480 x 640, 299) shapes alone are, and NaN, or items of a batch that see
    one another, which come up only there are not found; give such sizes as `sizes=`.

    Args:
        net: The module.
        signature: What it should keep; one written without inputs takes those of `net`.
        inputs: An example call, as for `capture`; invented where left out.
        sizes: Sizes of the input axes to run at; chosen from the legal ones where left out.
        batches: Batch sizes to run at.
        thorough: Also compile and export, which takes seconds to minutes, in a process of its own that ends with it: a
            crash there is one failed check. A module that does not pickle, or whose class stands in the script that
            runs, is compiled and exported in this process, and its row says so.
        seconds: How long each of these two may take; torch never ends its proofs about sizes in some backbones.
        memory: Bytes that they may allocate beyond the module; Linux alone keeps that limit.
        seed: For the sizes and the invented inputs.

    Returns:
        A row for each check. One that the bare backbone fails as well is not applicable, with that reason, or its
        row names what the backbone does not keep; NaN and what harms the program around, as settings of torch that are
        left changed or memory that is kept of each call, are faults even then. Of a module on the meta device, which
        has no values, the contract, the plan and the shapes at all sizes are checked. An adapted module that was cast
        since, as by `net.half()`, is checked in its new dtype, which its first row and the title say; inputs of the old
        one, with which it does not run any more, are a fault.

    Raises:
        CaptureError: The inputs do not fit the module's `forward`, or it stands in FakeTensorMode.
        VerificationError: `sizes` names an axis or a size that the signature does not have, or `batches` no batch.

    Example:
        >>> from autoadapt.contracts.capturing import capture
        >>> import torch
        >>> layer = nn.Conv2d(3, 8, 3, stride=2, padding=1)
        >>> x = torch.zeros(2, 3, 32, 32)
        >>> verify(layer, capture(layer, x), inputs=x).passed
        True
    """
    check_module(net, "net", VerificationError)
    _check_signature(signature)
    started = time.perf_counter()
    refuse_unfit(net)
    checks = list[Check]()
    if not signature.inputs.leaves:
        signature = with_inputs(signature, capture(net, inputs))
    quick = {**CHECKS, **(MASK_CHECKS if signature.masks else {})}
    asked: dict[str, Any] = {"net": net, "signature": signature, "inputs": inputs}
    asked |= {"sizes": sizes, "batches": batches, "seed": seed}
    with off_the_meta_device(), telling("verify", len(quick) + len(THOROUGH_CHECKS) * thorough) as tell:
        session = Session(**asked)
        cast = recast(session)
        if cast is not None:
            checks.append(cast.row(signature))
            asked |= {"signature": cast.contract(signature), "cast": cast.now}
            session = Session(**asked)
        unfit = cast is not None and bool(cast.unfit)
        for name, run in quick.items() if not unfit else ():
            tell(name, len(checks))
            checks.append(checked(session, name, run))
        if thorough and not unfit:
            tell(", ".join(THOROUGH_CHECKS), len(checks))
            checks += _thorough(session, asked, seconds, memory, tell)
    left = [name for name in (*quick, *THOROUGH_CHECKS) if name not in {check.name for check in checks}]
    checks += [Check(name=name, outcome="not run", detail="dtype" if unfit else "thorough=True") for name in left]
    unnamed = signature.title == Signature.model_fields["name"].default  # one in texts
    name = (type(net).__name__ if unnamed else signature.title) + (f" in {dtype_name(cast.now)}" if cast else "")
    return Verification(name=name, checks=tuple(checks), seconds=time.perf_counter() - started)


def verify_step(net: nn.Module, signature: Signature, *, inputs: object = None) -> Check:
    """One small step of training with a copy of a module: the cheap part of `verify`.

    Args:
        net: The module.
        signature: What it should keep.
        inputs: An example call, as for `capture`; invented where left out.
    """
    with off_the_meta_device():
        return checked(Session(net, signature, inputs=inputs), "training step", one_step)


def _check_signature(signature: object) -> None:
    if isinstance(signature, Signature):
        return
    refused = not_a_module(signature, "signature", VerificationError, "a Signature, which `capture` makes of a module")
    if isinstance(signature, str):  # it tells itself what makes a signature of it
        raise refused
    remedy = "aa.verify(net, aa.capture(old, inputs), inputs=inputs)"
    raise VerificationError(refused.summary, [replace(fault, remedy=remedy) for fault in refused.mismatches])


def _thorough(session: Session, asked: Mapping[str, Any], seconds: float, memory: int, tell: Tell) -> Iterator[Check]:
    """Run the thorough checks in a child process; those that cannot run there, in this process."""
    left = list(THOROUGH_CHECKS)
    try:
        for check in in_children(asked, left, seconds=seconds, memory=memory, tell=tell) if session.has_values else ():
            left.remove(check.name)
            yield check
        reason = ""
    except UnstartedError as error:
        reason = f"in this process, without a limit of memory: {error}"
    for name in left:
        found = _in_time(session, name, seconds)
        yield found.model_copy(update={"detail": "; ".join(filter(None, [found.detail, reason]))})


def _in_time(session: Session, name: str, seconds: float) -> Check:
    """Run one thorough check in this process; it is stopped if it takes too long."""
    try:
        with at_most(seconds):
            return checked(session, name, THOROUGH_CHECKS[name])
    except OutOfTime:
        return stopped(name, seconds)
