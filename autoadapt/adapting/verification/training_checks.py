"""Checks of training: outputs and gradients in train and eval mode, with gradients on, and with checkpointing."""

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

__all__ = ["checkpointing", "gradients", "one_step", "training"]


_DETACHED = "none: it is detached"


@dataclass(frozen=True)
class _Step:
    """What a forward and backward pass showed."""

    faults: list[Mismatch] = field(default_factory=list)
    unused: tuple[str, ...] = ()
    """Parameters that no output depends on."""


def training(session: Session) -> Findings:
    """Run forward and backward in train mode: one item at the example's size, several at a small one."""
    rows = [dict(row) for row in dict.fromkeys(tuple(one.items()) for one in (session.at(B=1), session.small(B=3)))]
    for number, row in enumerate(rows, 1):
        step = _trained(session, row, each=number == len(rows))
        if step is not None and (faults := _own_faults(session, step, train=True)):
            return Findings(faults)
    return Findings(_cut_channels(session, train=True), f"forward and backward, {len(rows)} shapes of the input")


def _trained(session: Session, row: Mapping[str, int], *, each: bool) -> _Step | None:
    """A step in train mode, with a second item where one is too few; None where two are."""
    for sizes in [dict(row)] if row.get("B") != 1 else [dict(row), session.at(**{**row, "B": 2})]:
        try:
            return _step(session, sizes, train=True, each=each)
        except Exception as error:
            if "more than 1 value per channel" in str(error):  # what any batch norm says of a single value
                continue
            _refuse_writing(session, error)
            session.excuse(partial(_bare_run, sizes), "in train mode")
            raise
    return None


def _bare_run(sizes: Mapping[str, int], bare: Session) -> None:
    _step(bare, bare.at(**sizes), train=True, each=False)


def gradients(session: Session) -> Findings:
    """Whether gradients reach every output of features, every trainable parameter and the inputs, in eval mode."""
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
    """Tell of a module that writes to its input, which the backbone of an adapted one may and it must not.

    Raises:
        AdaptError: It does, and the contract has no such inputs.
    """
    if "leaf Variable that requires grad" in str(error) and not session.signature.written:
        found = Mismatch("inputs", "the values that they had", "written to by the call", "clone them first")
        raise AdaptError("the module writes to its inputs", [found]) from error


def one_step(session: Session) -> Findings:
    """One pass forward and backward in train mode, at a small size: shapes, aliases and gradients."""
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
    """Parameters that no output depends on, without those that the bare backbone does not use either.

    Where an output is detached, that says it all.
    """
    if any(fault.found == _DETACHED for fault in step.faults):
        return []
    excused = _bare_step(session, train=train).unused if step.unused else ()
    return [name for name in step.unused if name.removeprefix("backbone.") not in excused]


def _own_faults(session: Session, step: _Step, *, train: bool) -> list[Mismatch]:
    """The faults without those that the bare backbone shows as well."""
    return not_excused(session, step.faults, lambda: _bare_step(session, train=train).faults)


def _cut_channels(session: Session, *, train: bool) -> list[Mismatch]:
    """Channels that no gradient leaves; what a plan was built into cuts none but those of the backbone itself."""
    return [] if session.plan is not None else cut_channels(session, train=train)


def _bare_step(session: Session, *, train: bool) -> _Step:
    bare = session.backbone()
    return _Step() if bare is None else _step(bare, bare.small(B=2), train=train, each=True)


def _step(session: Session, sizes: Mapping[str, int], *, train: bool, each: bool) -> _Step:
    """One pass forward and backward over a copy, from inputs that require gradients.

    Args:
        session: The module.
        sizes: Of the input axes.
        train: In train mode, else in eval mode.
        each: Go back from each output alone, instead of from all at once.
    """
    copied = session.copy()
    copied.train(train)
    trained = {name: parameter for name, parameter in copied.named_parameters() if parameter.requires_grad}
    with torch.enable_grad():
        arguments = session.arguments(sizes, requires_grad=True)
        given = flatten(arguments.values)[1]
        before = as_given(given)
        if session.signature.written:  # as its caller may: a leaf that requires gradients cannot be written to
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
    """What a pass in train mode without gradients does not keep, as where statistics are gathered anew."""
    arguments = session.arguments(sizes)
    with torch.no_grad():
        faults = session.compare(arguments, arguments.call(copied), sizes)
    return [replace(fault, where=f"{fault.where}, without gradients") for fault in faults]


def _features(session: Session, leaves: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The outputs that learn."""
    return {
        path: leaves[path]
        for path, spec in session.signature.outputs.items()
        if spec.is_floating and spec.role == "feature" and not spec.same_as
    }


def _backward(outputs: Mapping[str, torch.Tensor], targets: Mapping[str, torch.Tensor], *, each: bool) -> _Step:
    """Go back from some outputs to parameters and inputs."""
    if not targets:
        return _Step()
    loose = [path for path, tensor in outputs.items() if not tensor.requires_grad]
    faults, used = [Mismatch(path, "a gradient", _DETACHED) for path in loose], set[str]()
    live = [path for path in outputs if path not in loose]
    if not live:  # a backbone that trains nothing excuses nothing
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
    """Linear, so that outputs of zero have a gradient too, and of other weight at each place."""
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(0)).to(output.device)
    return (output.float() * weights).mean().cpu()


def _gradients(loss: torch.Tensor, targets: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The gradients of those targets that have one; nobody's `.grad` is written to where that can be helped."""
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
    largest = [_largest(gradient) for gradient in gradients if gradient.numel()]
    if not all(map(math.isfinite, largest)):
        return [Mismatch(path, "finite gradients", "gradients of NaN or infinity")]
    if not any(largest):
        return [Mismatch(path, "a gradient", "none: it is zero everywhere")]
    return []


def _largest(gradient: torch.Tensor) -> float:
    """The largest of all values without their signs; NaN where there is one. A norm takes twenty times as long."""
    values = torch.view_as_real(gradient) if gradient.is_complex() else gradient
    return float(torch.stack(torch.aminmax(values)).abs().max())


def checkpointing(session: Session) -> Findings:
    """Run forward and backward with gradient checkpointing."""
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
