"""Checks of one call after another: the same answers, for every item alone, and nothing kept, shared or overwritten."""

from __future__ import annotations

import contextlib
import gc
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, TypeAlias

import torch
from torch import nn

from autoadapt.adapting.verification.findings import Findings
from autoadapt.adapting.verification.sessions import NotApplicableError, Session, said
from autoadapt.contracts.capturing import Arguments
from autoadapt.contracts.randomness import OwnNumbers
from autoadapt.contracts.trees import flatten
from autoadapt.errors import AdaptError, Mismatch

__all__ = ["calls"]

Leaves: TypeAlias = Mapping[str, torch.Tensor]
_TOLERANCE = 1e-3
"""Of the largest value: what another order of sums may change."""


def calls(session: Session) -> Findings:
    """Call one copy again and again, in eval mode: with the same, other and reordered values, and in other contexts."""
    found = {kind: faults for kind, run in _KINDS.items() if (faults := _caught(run, session))}
    excused = set[str]()
    if found and (bare := session.backbone()) is not None:
        excused = {kind for kind in found if kind not in _ITS_OWN and _caught(_KINDS[kind], bare)}
    faults = [fault for kind, several in found.items() if kind not in excused for fault in several]
    if excused and not faults and excused == set(_KINDS):
        raise NotApplicableError("the bare backbone fails in each of them")
    also = f"; the bare backbone does not keep: {', '.join(sorted(excused))}" if excused else ""
    return Findings(faults, "equal, writable, nothing kept, each item alone" + also)


def _caught(run: Callable[[Session], list[Mismatch]], session: Session) -> list[Mismatch]:
    try:
        return run(session)
    except AdaptError as error:
        return list(error.mismatches) or [Mismatch("calls", "", error.summary)]
    except Exception as error:
        return [Mismatch("calls", "a run without error", said(error))]


def _values(arguments: Arguments) -> list[torch.Tensor]:
    return flatten(arguments.values)[1]


def _called(session: Session, module: nn.Module, arguments: Arguments) -> Leaves:
    """The outputs of a call; the inputs are copied before, so that they stay what they are."""
    return session.leaves(session.rebuilt([tensor.clone() for tensor in _values(arguments)]).call(module))


def _differing(expected: Leaves, found: Leaves, where: str, wanted: str, got: str) -> list[Mismatch]:
    return [
        Mismatch(f"{path} {where}", wanted, got) for path, tensor in expected.items() if not _close(tensor, found[path])
    ]


def _close(expected: torch.Tensor, found: torch.Tensor) -> bool:
    """Equal up to rounding; of whole numbers a few may differ, which rounding has tipped over."""
    if expected.shape != found.shape:
        return False
    if expected.numel() == 0 or expected.is_complex():
        return True
    if not expected.is_floating_point():
        return float((expected != found).double().mean()) <= 0.02
    values = expected.detach().double()
    scale = float(values.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(values, found.double(), rtol=_TOLERANCE, atol=_TOLERANCE * scale, equal_nan=True)


def _repeated(session: Session) -> list[Mismatch]:
    """The same inputs give the same outputs; what was returned stays as it was when the module is called again."""
    module, arguments = session.copy(), session.arguments(session.small(B=2))
    first = _called(session, module, arguments)
    kept = {path: tensor.clone() for path, tensor in first.items()}
    with OwnNumbers(1):
        _called(session, module, session.rebuilt([_other(tensor, -1) for tensor in _values(arguments)]))
        faults = _differing(kept, first, "after another call", "memory of its own", "values of the later call")
        again = _called(session, module, arguments)
    faults = faults or _differing(kept, again, "of equal inputs", "equal values in eval mode", "other values")
    nan = [path for path, spec in session.signature.outputs.items() if spec.role == "feature"]
    return faults + [Mismatch(path, "numbers", "NaN") for path in nan if bool(kept[path].isnan().any())]


def _other(tensor: torch.Tensor, factor: float) -> torch.Tensor:
    return tensor * factor if tensor.is_floating_point() else tensor


def _other_values(session: Session) -> list[Mismatch]:
    """The containers and shapes do not depend on values."""
    module, sizes = session.shared, session.small(B=2)
    arguments, faults = session.arguments(sizes), list[Mismatch]()
    for factor in (-1.0, 8.0, 0.0):
        changed = session.rebuilt([_other(tensor, factor) for tensor in _values(arguments)])
        try:
            returned = changed.call(module)
        except Exception:  # some refuse values that are no picture's
            continue
        found = session.compare(changed, returned, sizes)
        faults += [Mismatch(f"{one.where}, inputs times {factor:g}", one.expected, one.found) for one in found]
    return faults


def _unwritten_inputs(session: Session) -> list[Mismatch]:
    """The inputs are as they were."""
    before, after, _ = session.small_call
    names = session.signature.inputs.paths
    return [
        Mismatch(f"inputs.{name}", "the values that it had", "written to by the call", "clone it first")
        for name, old, tensor in zip(names, before, after, strict=False)
        if not torch.equal(old, tensor)
    ]


def _writable_outputs(session: Session) -> list[Mismatch]:
    """Every value of an output stands in a place of its own, so that a caller can write to it."""
    leaves = session.small_call[2]
    return [
        Mismatch(path, "a place for each value", f"an expanded tensor of strides {tensor.stride()}", ".contiguous()")
        for path, tensor in leaves.items()
        if tensor.layout == torch.strided and torch._debug_has_internal_overlap(tensor) == 1
    ]


def _items_alone(session: Session) -> list[Mismatch]:
    """The items of a batch do not see one another: the first is the same in another place among other items."""
    sizes = session.small(B=3)
    if sizes.get("B") != 3:
        return []
    module, arguments = session.shared, session.arguments(sizes)
    specs = session.signature.inputs.leaves
    moved = [_moved(tensor, _batch_axis(spec.dims)) for tensor, spec in zip(_values(arguments), specs, strict=True)]
    axes = {
        path: axis for path, spec in session.signature.outputs.items() if (axis := _batch_axis(spec.dims)) is not None
    }
    expected, found = _called(session, module, arguments), _called(session, module, session.rebuilt(moved))
    return _differing(
        {path: expected[path].select(axis, 0) for path, axis in axes.items()},
        {path: found[path].select(axis, 1) for path, axis in axes.items()},
        "of an item among others",
        "the values it has in another batch",
        "other values",
    )


def _batch_axis(dims: tuple[Any, ...]) -> int | None:
    return next((axis for axis, dim in enumerate(dims) if str(dim) == "B"), None)


def _moved(tensor: torch.Tensor, axis: int | None) -> torch.Tensor:
    """The first item in the second place, among others that are brighter than they were."""
    if axis is None:
        return tensor
    first, *others = tensor.unbind(axis)
    changed = [_other(other, factor) for factor, other in zip((3.0, -2.0), others, strict=True)]
    return torch.stack([changed[0], first, changed[1]], axis)


def _inference(session: Session) -> list[Mismatch]:
    """Runs under `inference_mode`, with the same outputs, and can be trained on afterwards."""
    module, sizes = session.copy(), session.small(B=2)
    arguments = session.arguments(sizes)
    expected = _called(session, session.shared, arguments)
    with torch.inference_mode():
        try:
            found = {path: tensor.clone() for path, tensor in _called(session, module, arguments).items()}
        except Exception as error:
            return [Mismatch("inference_mode", "a run without error", said(error))]
    faults = _differing(expected, found, "in inference_mode", "the values outside of it", "other values")
    tensors = [tensor.clone().requires_grad_(tensor.is_floating_point()) for tensor in _values(arguments)]
    try:
        with torch.enable_grad():
            live = list(session.leaves(session.rebuilt(tensors).call(module)).values())
            live = [leaf.float().sum() for leaf in live if leaf.requires_grad]
            wanted = [tensor for tensor in tensors if tensor.requires_grad]
            if live and wanted:
                torch.autograd.grad(torch.stack(live).sum(), wanted, allow_unused=True)
    except Exception as error:
        return [*faults, Mismatch("training after inference_mode", "a run without error", said(error))]
    return faults


def _kept_memory(session: Session) -> list[Mismatch]:
    """Later calls keep no more than earlier ones, in the module or of what they returned."""
    module, arguments = session.copy(), session.arguments(session.small(B=1))
    counts, alive = list[int](), list[list[weakref.ref[torch.Tensor]]]()
    for _ in range(3):
        leaves = _called(session, module, arguments)
        alive.append([weakref.ref(tensor) for tensor in leaves.values()])
        del leaves
        counts.append(sum(map(_held, module.modules())))
    if counts[2] > counts[1] > counts[0]:
        return [
            Mismatch("memory", "no more after each call", f"{counts[2] - counts[1]} objects more in its attributes")
        ]
    if _living(alive) > 1:
        gc.collect()
    if (calls_kept := _living(alive)) > 1:
        return [Mismatch("memory", "outputs freed with their last use", f"those of {calls_kept} calls are kept")]
    return []


def _living(calls_made: list[list[weakref.ref[torch.Tensor]]]) -> int:
    """How many calls have left a tensor that no other call has left as well, as a constant would be."""
    kept = [{id(tensor) for ref in refs if (tensor := ref()) is not None} for refs in calls_made]
    return len({frozenset(one) for one in kept if one})


def _held(module: nn.Module) -> int:
    """How many things the attributes of a module hold, in containers of containers."""
    return sum(1 for name, value in vars(module).items() if not name.startswith("_modules") for _ in _inside(value, 4))


def _inside(value: object, depth: int) -> Iterator[object]:
    yield value
    if depth == 0 or isinstance(value, (str, bytes, torch.Tensor, nn.Module)):
        return
    with contextlib.suppress(TypeError):
        inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple, set)) else ()
        for one in inner:
            yield from _inside(one, depth - 1)


_KINDS: Mapping[str, Callable[[Session], list[Mismatch]]] = {
    "equal values": _repeated,
    "one structure": _other_values,
    "unchanged inputs": _unwritten_inputs,
    "writable outputs": _writable_outputs,
    "items alone": _items_alone,
    "inference_mode": _inference,
    "memory": _kept_memory,
}
_ITS_OWN = ("unchanged inputs",)
"""What an adapted module keeps from its caller even where the backbone alone does not."""
