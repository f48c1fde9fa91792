"""The checks `train mode`, `gradients` and `checkpointing`: forward and backward passes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial

import torch
from torch import nn

from autoadapt.adapting.verification.channel_gradients import cut_channels
from autoadapt.adapting.verification.comparing import differing, no_numbers, not_excused
from autoadapt.adapting.verification.findings import Findings
from autoadapt.adapting.verification.given_values import as_given, written_inputs
from autoadapt.adapting.verification.sessions import NotApplicableError, Session, said
from autoadapt.contracts.trees import flatten
from autoadapt.errors import AdaptError, Mismatch

_DETACHED = "none: it is detached"


@dataclass(frozen=True)
class _Step:
    """The result of a forward and backward pass."""

    faults: list[Mismatch] = field(default_factory=list)
    unused: tuple[str, ...] = ()
    """Trainable parameters without a gradient: no output depends on them."""


def training(session: Session) -> Findings:
    """Run forward and backward in train mode: one item at the example's size, three at a small one."""
    rows = [dict(row) for row in dict.fromkeys(tuple(one.items()) for one in (session.at(B=1), session.small(B=3)))]
    for number, row in enumerate(rows, 1):
        step = _trained(session, row, each=number == len(rows))
        if step is not None and (faults := _own_faults(session, step, train=True)):
            return Findings(faults)
    return Findings(_cut_channels(session, train=True), f"forward and backward, {len(rows)} shapes of the input")


def _trained(session: Session, row: Mapping[str, int], *, each: bool) -> _Step | None:
    """A step in train mode; with two items if batch norm needs more than one, None if two are too few as well.

    Args:
        session: The verification.
        row: Sizes of the input axes.
        each: Go back from each output alone, instead of from all at once.
    """
    for sizes in [dict(row)] if row.get("B") != 1 else [dict(row), session.at(**{**row, "B": 2})]:
        try:
            return _step(session, sizes, train=True, each=each)
        except Exception as error:
            if "more than 1 value per channel" in str(error):  # raised by batch norm
                continue
            _refuse_writing(session, error)
            session.excuse(partial(_bare_run, sizes), "in train mode")
            raise
    return None


def _bare_run(sizes: Mapping[str, int], bare: Session) -> None:
    _step(bare, bare.at(**sizes), train=True, each=False)


def gradients(session: Session) -> Findings:
    """Check in eval mode that every feature output has gradients to the inputs and all trainable parameters."""
    if not any(parameter.requires_grad for parameter in session.net.parameters()):
        raise NotApplicableError("no parameter is trainable")
    sizes = session.small(B=2)
    try:
        step = _step(session, sizes, train=False, each=True)
    except Exception as error:
        _refuse_writing(session, error)
        session.excuse(lambda bare: _step(bare, bare.small(B=2), train=False, each=True), "to be trained in eval mode")
        raise
    new = _newly_unused(session, step, train=False)
    unused = [Mismatch(name, "a gradient", "none: it is not used") for name in new]
    count = len(step.unused)
    detail = f"{count} parameters that the backbone itself does not use" if count else "no unused parameter"
    faults = _own_faults(session, step, train=False) + unused
    return Findings(faults or _cut_channels(session, train=False), detail)


def _refuse_writing(session: Session, error: Exception) -> None:
    """Raise where a step failed since the module writes to an input that requires gradients.

    Raises:
        AdaptError: It does so, and the contract allows no writing to inputs.
    """
    if "leaf Variable that requires grad" in str(error) and not session.signature.written:
        found = Mismatch("inputs", "the values that they had", "written to by the call", "clone them first")
        raise AdaptError("the module writes to its inputs", [found]) from error


def one_step(session: Session) -> Findings:
    """One forward and backward pass in train mode at a small size, the check of `verify_step`."""
    sizes = session.small(B=2)
    try:
        step = _step(session, sizes, train=True, each=False)
    except Exception as error:
        if "more than 1 value per channel" in str(error):
            raise NotApplicableError("a batch norm gets a single value") from error
        _refuse_writing(session, error)
        session.excuse(partial(_bare_run, sizes), "in train mode")
        raise
    unused = [Mismatch(name, "a gradient", "none: it is not used") for name in _newly_unused(session, step, train=True)]
    return Findings(_own_faults(session, step, train=True) + unused, "forward and backward, with gradients")


def _newly_unused(session: Session, step: _Step, *, train: bool) -> list[str]:
    """Trainable parameters without a gradient, except those that the bare backbone does not use either.

    None where an output is detached, since that fault explains them.
    """
    if any(fault.found == _DETACHED for fault in step.faults):
        return []
    excused = _bare_step(session, train=train).unused if step.unused else ()
    return [name for name in step.unused if name.removeprefix("backbone.") not in excused]


def _own_faults(session: Session, step: _Step, *, train: bool) -> list[Mismatch]:
    """The faults of a step, without those that the bare backbone has as well."""
    return not_excused(session, step.faults, lambda: _bare_step(session, train=train).faults)


def _cut_channels(session: Session, *, train: bool) -> list[Mismatch]:
    """The faults of `cut_channels`; none for a module built from a plan, whose operations detach no channels."""
    return [] if session.plan is not None else cut_channels(session, train=train)


def _bare_step(session: Session, *, train: bool) -> _Step:
    bare = session.backbone()
    return _Step() if bare is None else _step(bare, bare.small(B=2), train=train, each=True)


def _step(session: Session, sizes: Mapping[str, int], *, train: bool, each: bool) -> _Step:
    """One forward and backward pass through a copy, with inputs that require gradients.

    Args:
        session: The verification.
        sizes: Of the input axes.
        train: Run in train mode, else in eval mode.
        each: Go back from each output alone, instead of from all at once.
    """
    copied = session.copy()
    copied.train(train)
    trained = {name: parameter for name, parameter in copied.named_parameters() if parameter.requires_grad}
    with torch.enable_grad():
        arguments = session.arguments(sizes, requires_grad=True)
        given = flatten(arguments.values)[1]
        before = as_given(given)
        if session.signature.written:  # a leaf of autograd cannot be written to in place
            arguments = session.rebuilt([tensor.clone() for tensor in given])
        returned = arguments.call(copied)
        if not torch.is_grad_enabled():
            return _Step([Mismatch("gradients", "on after the call", "switched off by the module")])
        faults = session.compare(arguments, returned, sizes)
        if faults:
            return _Step(faults)
        leaves = session.leaves(returned)
        faults = written_inputs(session.signature, before, given) + no_numbers(session, leaves, " in training" * train)
        if not train and sizes == session.small(B=2):
            without = session.small_call[2]
            faults += differing(session, without, leaves, "with gradients", "the values without", "other values")
        if faults:
            return _Step(faults)
        inputs = {f"inputs.{i}": tensor for i, tensor in enumerate(given) if tensor.requires_grad}
        if train and each and (faults := _without_gradients(session, copied, sizes)):
            return _Step(faults)
        return _backward(_features(session, leaves), {**trained, **inputs}, each=each)


def _without_gradients(session: Session, copied: nn.Module, sizes: Mapping[str, int]) -> list[Mismatch]:
    """The faults of a call in train mode without gradients, as when statistics of batch norm are recomputed."""
    arguments = session.arguments(sizes)
    with torch.no_grad():
        faults = session.compare(arguments, arguments.call(copied), sizes)
    return [replace(fault, where=f"{fault.where}, without gradients") for fault in faults]


def _features(session: Session, leaves: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The feature outputs, each tensor once."""
    return {
        path: leaves[path]
        for path, spec in session.signature.outputs.items()
        if spec.is_floating and spec.role == "feature" and not spec.same_as
    }


def _backward(outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor], *, each: bool) -> _Step:
    """Compute gradients of outputs with respect to parameters and inputs.

    Args:
        outputs: By path.
        targets: Parameters by name, inputs as `inputs.<number>`.
        each: From each output alone, instead of from all at once.
    """
    if not targets:
        return _Step()
    loose = [path for path, tensor in outputs.items() if not tensor.requires_grad]
    faults, used = [Mismatch(path, "a gradient", _DETACHED) for path in loose], set[str]()
    live = [path for path in outputs if path not in loose]
    if not live:  # report no unused parameters, which would excuse those of an adapted module
        return _Step(faults)
    for paths in [[path] for path in live] if each else [live]:
        loss = sum((_loss(outputs[path]) for path in paths), torch.zeros(()))
        found = _gradients(loss, targets)
        used |= found.keys()
        faults += _of_values(", ".join(paths), list(found.values()))
    unused = [name for name in targets if name not in used]
    given = [name for name in unused if name.startswith("inputs.")]
    if given and len(given) == sum(name.startswith("inputs.") for name in targets):
        faults.append(Mismatch("inputs", "a gradient", "none: the outputs are cut off from the inputs"))
    return _Step(faults, tuple(name for name in unused if name not in given))


def _loss(output: torch.Tensor) -> torch.Tensor:
    """A random linear function of an output, so that outputs of zero have a gradient too."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output.device)
    return (output.float() * weights).mean().cpu()


def _gradients(loss: torch.Tensor, targets: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The gradients of those targets that have one; `.grad` is not written to unless checkpointing requires it."""
    try:
        found: Sequence[torch.Tensor | None] = torch.autograd.grad(
            loss, list(targets.values()), retain_graph=True, allow_unused=True
        )
    except RuntimeError as error:
        if "not compatible with .grad()" not in str(error):
            raise
        torch.autograd.backward(
            loss, retain_graph=True
        )  # reentrant checkpointing knows no other way; the targets are copies
        found = [tensor.grad for tensor in targets.values()]
    return {name: gradient for name, gradient in zip(targets, found, strict=True) if gradient is not None}


def _of_values(path: str, gradients: Sequence[torch.Tensor]) -> list[Mismatch]:
    """The faults in the values of gradients: NaN or infinity, or zeros everywhere."""
    largest = [_largest(gradient) for gradient in gradients if gradient.numel()]
    if not all(map(math.isfinite, largest)):
        return [Mismatch(path, "finite gradients", "gradients of NaN or infinity")]
    if not any(largest):
        return [Mismatch(path, "a gradient", "none: it is zero everywhere")]
    return []


def _largest(gradient: torch.Tensor) -> float:
    """The largest absolute value; NaN if there is one. Computing a norm would take twenty times as long."""
    values = torch.view_as_real(gradient) if gradient.is_complex() else gradient
    return float(torch.stack(torch.aminmax(values)).abs().max())


def checkpointing(session: Session) -> Findings:
    """Run forward and backward in train mode with gradient checkpointing."""
    copied = session.copy()
    method = getattr(copied, "set_grad_checkpointing", None)
    if method is None:
        raise NotApplicableError("the backbone has none")
    try:
        method(True)
    except (AssertionError, NotImplementedError) as error:
        raise NotApplicableError(f"the backbone refuses it: {said(error, 60)}") from error
    sizes = session.small(B=2)
    arguments = session.arguments(sizes)
    copied.train()
    with torch.enable_grad():
        returned = arguments.call(copied)
        live = [_loss(tensor) for tensor in flatten(returned)[1] if tensor.requires_grad]
        if live:
            torch.autograd.backward(torch.stack(live).sum())
    return Findings(session.compare(arguments, returned, sizes))
