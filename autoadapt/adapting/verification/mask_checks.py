"""The check `masks`: tokens that a mask hides in the old module are hidden in the adapted one."""

from __future__ import annotations

from collections.abc import Iterator

from autoadapt.adapting.verification.findings import Findings
from autoadapt.adapting.verification.sessions import Session
from autoadapt.contracts.capturing.graph_axes import InputAxes
from autoadapt.contracts.capturing.hiding import MOSTLY, STAYS, Trial
from autoadapt.contracts.signature import Mask
from autoadapt.errors import Mismatch


def masks_hide(session: Session) -> Findings:
    """Change the hidden tokens, and check that outputs at the other tokens stay the same."""
    masks = session.signature.masks
    faults = [fault for mask in masks for fault in _shown(session, mask)]
    hidden = [hides for mask in masks if (hides := _hides(mask)) not in session.blamed]
    return Findings(faults, f"{', '.join(hidden)} changes nothing of the rest" if hidden else "")


def _hides(mask: Mask) -> str:
    return f"what {mask.argument} hides"


def _shown(session: Session, mask: Mask) -> Iterator[Mismatch]:
    """Outputs that change with hidden tokens, are not zero there as in the old module, or misstate the mask."""
    trial, place = _trial(session), _place(session, mask)
    found = trial.share(place, mask)
    if found is None:
        yield Mismatch(mask.argument, "a call with half of the tokens hidden", "it raises", "")
        return
    most = MOSTLY if mask.loose else STAYS
    moved = {path: share for path, share in found.items() if share > most}
    if moved and _is_loose(session, mask, most):
        session.blamed.append(_hides(mask))
        moved = {}
    for path, share in moved.items():
        found_text = f"{path} changes, by {100 * share:.3g} % of what it does where nothing is hidden"
        yield Mismatch(path, f"the same for other values that {mask.argument} hides", found_text, _REMEDY)
    for path in trial.silent(place, mask):
        yield Mismatch(path, f"what {mask.argument} says, for its own frames", "other values", _REMEDY)
    for path in set(mask.zeroed) - set(trial.described(place, mask).zeroed):
        yield Mismatch(path, f"zeros where {mask.argument} hides", "other values", _REMEDY)


_REMEDY = "pairs={...}  # another output of the new module, or mask its values in a wrapper"


def _is_loose(session: Session, mask: Mask, most: float) -> bool:
    """Whether the bare backbone takes no such mask, or its own outputs change with hidden tokens.

    Args:
        session: The verification of the adapted module.
        mask: Of the contract.
        most: How far outputs may change, as a part of what they change where nothing is hidden.
    """
    bare, plan = session.backbone(), session.plan
    if bare is None or plan is None:
        return False
    names = [route.source for route in plan.inputs if route.target == mask.argument] or [mask.argument]
    own = next((one for one in plan.source.masks if one.argument in names), None)
    if own is None or own.loose:
        return True
    found = _trial(bare).share(_place(bare, own), own)
    return found is None or any(share > most for share in found.values())


def _place(session: Session, mask: Mask) -> int | str:
    """The position of a mask among the input tensors; its argument's name where the example call had none."""
    paths = list(session.signature.inputs.paths)
    return paths.index(mask.argument) if mask.argument in paths else mask.argument


def _trial(session: Session) -> Trial:
    signature, sizes = session.signature, session.at(B=2)
    names = tuple(tuple(str(dim) if dim.axes else "" for dim in spec.dims) for spec in signature.inputs.leaves)
    outputs = {path: spec.dims for path, spec in signature.outputs.items()}
    masks = [i for i, path in enumerate(signature.inputs.paths) if path in {mask.argument for mask in signature.masks}]
    return Trial(session.net, session.arguments(sizes), InputAxes(names, dict(sizes)), outputs, masks)
