"""The check `deepcopy, pickle`: copies, as made for averaged weights, and pickles, as exchanged by processes."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Callable

import torch
from torch import nn

from autoadapt.adapting.verification.findings import Findings
from autoadapt.adapting.verification.sessions import NotApplicableError, Session, said
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.trees import flatten
from autoadapt.contracts.views import clone_buffers, copy_module
from autoadapt.errors import Mismatch


def copies(session: Session) -> Findings:
    """Check that deepcopy and pickle give a module of the same type, state-dict keys, attributes, hooks and outputs."""
    try:
        faults = _broken_copies(session)
    except Exception:
        session.excuse(_broken_copies, "to be copied and pickled")
        _excuse_layers(session.net)
        raise
    return Findings(faults, "type, keys, attributes, hooks and outputs")


def _broken_copies(session: Session) -> list[Mismatch]:
    original = session.net
    made = {"deepcopy": copy.deepcopy(original), "pickle": _pickled(original)}
    expected = _seeded_outputs(session, original)
    faults = []
    for how, twin in made.items():
        faults += _differences(how, original, twin)
        found = _seeded_outputs(session, twin)
        if len(found) != len(expected) or not all(map(_equal, expected, found)):
            faults.append(Mismatch(f"outputs after {how}", "the same values", "other values"))
    return faults


def _excuse_layers(net: nn.Module) -> None:
    """Raise `NotApplicableError` where torch copies or pickles no such layer by itself: one with a parametrization."""
    parts = [(name, one) for name, one in net.named_modules() if name.startswith("adapters.")]
    for name, layer in ((name, one) for name, one in parts if isinstance(getattr(one, "weight", None), torch.Tensor)):
        for how in _COPIES.values():
            try:
                how(layer)
            except Exception as error:
                raise NotApplicableError(f"torch does not copy {name} by itself: {said(error, 100)}") from error


def _equal(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether values are exactly equal; NaN equals NaN."""
    if left.shape != right.shape or left.dtype != right.dtype:
        return False
    return torch.equal(left, right) or (
        left.is_floating_point() and torch.allclose(left, right, rtol=0, atol=0, equal_nan=True)
    )


def _pickled(module: nn.Module) -> nn.Module:
    buffer = io.BytesIO()
    pickle.dump(module, buffer)
    buffer.seek(0)
    made: nn.Module = pickle.load(buffer)
    return made


_COPIES: dict[str, Callable[[nn.Module], nn.Module]] = {"deepcopy": copy.deepcopy, "pickle": _pickled}


def _seeded_outputs(session: Session, module: nn.Module) -> list[torch.Tensor]:
    """The outputs of a copy in eval mode, with random numbers of the same seed."""
    copied = copy_module(module, clone_buffers)
    copied.eval()
    with undisturbed():
        return flatten(session.arguments(session.small(B=2)).call(copied))[1]


def _differences(how: str, original: nn.Module, twin: nn.Module) -> list[Mismatch]:
    """Faults in what a copy has besides its outputs."""
    facts: dict[str, Callable[[nn.Module], object]] = {
        "type": lambda m: type(m).__qualname__,
        "state-dict keys": lambda m: list(m.state_dict()),
        "attributes": lambda m: sorted(name for name in vars(m) if not name.startswith("_")),
        "hooks": lambda m: [(len(x._forward_hooks), len(x._forward_pre_hooks)) for x in m.modules()],
    }
    faults = [
        Mismatch(f"{fact} after {how}", str(say(original))[:80], str(say(twin))[:80])
        for fact, say in facts.items()
        if say(original) != say(twin)
    ]
    return faults + _other_modes(how, original, twin)


def _other_modes(how: str, original: nn.Module, twin: nn.Module) -> list[Mismatch]:
    """Modules that are in another mode after the copy, unless their class itself causes that, as einops' layers do."""
    modes = {path: module.training for path, module in twin.named_modules()}
    words = {True: "train mode", False: "eval mode"}
    return [
        Mismatch(f"mode of {path or 'the module'} after {how}", words[module.training], words[modes[path]])
        for path, module in original.named_modules()
        if modes.get(path, module.training) != module.training
        and (not path or _COPIES[how](module).training == module.training)
    ]
