"""The check `calls`: repeated calls give equal outputs, items of a batch are independent, and no memory is kept.

It consists of ten smaller checks, listed in `_KINDS`. Where one finds faults in an adapted module, the bare backbone is
put through it as well, and faults that it shares are not those of the adapted module.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from autoadapt.adapting.verification.comparing import TRIES, Leaves, differing, no_numbers
from autoadapt.adapting.verification.findings import Findings
from autoadapt.adapting.verification.given_values import written_inputs
from autoadapt.adapting.verification.sessions import NotApplicableError, Session, said
from autoadapt.adapting.verification.setting_checks import changed_settings
from autoadapt.contracts.capturing import Arguments
from autoadapt.contracts.randomness import OwnNumbers
from autoadapt.contracts.trees import flatten
from autoadapt.errors import AdaptError, Mismatch


def calls(session: Session) -> Findings:
    """Call copies repeatedly in eval mode: with the same, other and reordered values, and under `inference_mode`."""
    found = {kind: faults for kind, run in _KINDS.items() if (faults := _caught(run, session))}
    excused = set[str]()
    if found and (bare := session.backbone()) is not None:
        excusable = [kind for kind in found if kind not in _ITS_OWN]
        excused = {kind for kind in excusable if any(_caught(_KINDS[kind], bare) for _ in range(TRIES))}
        for kind in excused & set(_HARMING):
            found[kind] = [replace(fault, found=f"{fault.found}; so does the bare backbone") for fault in found[kind]]
        excused -= set(_HARMING)
    faults = [fault for kind, several in found.items() if kind not in excused for fault in several]
    if excused and not faults and excused == set(_KINDS):
        raise NotApplicableError("the bare backbone fails in each of them")
    session.blamed += sorted(excused)
    return Findings(faults, ", ".join(claim for claim, kinds in _CLAIMS.items() if excused.isdisjoint(kinds)))


def _caught(run: Callable[[Session], list[Mismatch]], session: Session) -> list[Mismatch]:
    """The faults that a check finds; an exception that it raises is one of them."""
    try:
        return run(session)
    except AdaptError as error:
        return list(error.mismatches) or [Mismatch("calls", "", error.summary)]
    except Exception as error:
        return [Mismatch("calls", "a run without error", said(error))]


def _values(arguments: Arguments) -> list[torch.Tensor]:
    return flatten(arguments.values)[1]


def _called(session: Session, module: nn.Module, arguments: Arguments) -> Leaves:
    """The outputs of a call with copies of the inputs, so that the inputs themselves are not written to."""
    return session.leaves(session.rebuilt([tensor.clone() for tensor in _values(arguments)]).call(module))


def _repeated(session: Session) -> list[Mismatch]:
    """Check that equal inputs give equal outputs, and that a later call does not overwrite returned tensors."""
    module, arguments = session.copy(), session.arguments(session.small(B=2))
    first = _called(session, module, arguments)
    kept = {path: tensor.clone() for path, tensor in first.items()}
    with OwnNumbers(1):
        faults = _with_other_values(session, module, -1)
        faults += differing(session, kept, first, "after another call", "memory of its own", "values of the later call")
        again = _called(session, module, arguments)
    return faults or differing(session, kept, again, "of equal inputs", "equal values in eval mode", "other values")


def _other(tensor: torch.Tensor, factor: float) -> torch.Tensor:
    return tensor * factor if tensor.is_floating_point() else tensor.clone()


def _with_other_values(session: Session, module: nn.Module, factor: float) -> list[Mismatch]:
    """Containers and shapes that change when floating-point inputs are multiplied by a factor."""
    sizes = session.small(B=2)
    changed = session.rebuilt([_other(tensor, factor) for tensor in _values(session.arguments(sizes))])
    found = session.compare(changed, changed.call(module), sizes)
    return [Mismatch(f"{one.where}, inputs times {factor:g}", one.expected, one.found) for one in found]


def _other_values(session: Session) -> list[Mismatch]:
    """Check that containers and shapes do not depend on values; the factor -1 is tried in `_repeated`."""
    faults = list[Mismatch]()
    for factor in (8.0, 0.0):
        with contextlib.suppress(Exception):  # some modules refuse values that no image has
            faults += _with_other_values(session, session.shared, factor)
    return faults


def _numbers(session: Session) -> list[Mismatch]:
    """Check that no output holds NaN or infinity."""
    return no_numbers(session, session.small_call[2])


def _unwritten_inputs(session: Session) -> list[Mismatch]:
    """Check that the call did not write to its inputs."""
    before, after, _ = session.small_call
    return written_inputs(session.signature, before, after)


def _writable_outputs(session: Session) -> list[Mismatch]:
    """Check that outputs can be written to in place, and are contiguous where the contract's are."""
    leaves = session.small_call[2]
    return _expanded(leaves) or [
        Mismatch(path, "contiguous memory, as the old module's", f"strides {leaves[path].stride()}", ".contiguous()")
        for path in session.signature.contiguous
        if path in leaves and not leaves[path].is_contiguous()
    ]


def _expanded(leaves: Leaves, where: str = "") -> list[Mismatch]:
    """Outputs of `Tensor.expand`, of which several entries share one place in memory."""
    return [
        Mismatch(
            path + where, "a place for each value", f"an expanded tensor of strides {tensor.stride()}", ".contiguous()"
        )
        for path, tensor in leaves.items()
        if tensor.layout == torch.strided and torch._debug_has_internal_overlap(tensor) == 1
    ]


def _items_alone(session: Session) -> list[Mismatch]:
    """Check that items of a batch do not affect one another: moved by one place, they keep their outputs."""
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
    return differing(
        session,
        {path: expected[path].narrow(axis, 0, 2) for path, axis in axes.items()},
        {path: found[path].narrow(axis, 1, 2) for path, axis in axes.items()},
        "of an item among others",
        "the values it has in another batch",
        "other values",
    )


def _batch_axis(dims: tuple[Any, ...]) -> int | None:
    return next((axis for axis, dim in enumerate(dims) if str(dim) == "B"), None)


def _moved(tensor: torch.Tensor, axis: int | None) -> torch.Tensor:
    """A batch moved by one place; the last item becomes the first, multiplied by -3, so that every place changes."""
    if axis is None:
        return tensor
    *others, last = tensor.unbind(axis)
    return torch.stack([_other(last, -3.0), *others], axis)


def _inference(session: Session) -> list[Mismatch]:
    """Check that outputs under `inference_mode` are the same, and that a backward pass works afterwards."""
    module, sizes = session.copy(), session.small(B=2)
    arguments, expected = session.arguments(sizes), session.small_call[2]
    with torch.inference_mode():
        try:
            found = {path: tensor.clone() for path, tensor in _called(session, module, arguments).items()}
        except Exception as error:
            return [Mismatch("inference_mode", "a run without error", said(error))]
    faults = differing(session, expected, found, "in inference_mode", "the values outside of it", "other values")
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


def _one_item(session: Session) -> list[Mismatch]:
    """Check that an item alone has the outputs that it has in a batch, and that they can be written to in place."""
    if session.small(B=1).get("B") != 1 or session.small(B=2).get("B") != 2:
        return []
    before, _, expected = session.small_call
    specs = session.signature.inputs.leaves
    single = [_first_item(tensor, _batch_axis(spec.dims)) for (tensor, _), spec in zip(before, specs, strict=True)]
    found = _called(session, session.shared, session.rebuilt(single))
    axes = {path: _batch_axis(spec.dims) for path, spec in session.signature.outputs.items()}
    return _expanded(found, " at batch 1") or differing(
        session,
        {path: _first_item(tensor, axes[path]) for path, tensor in expected.items() if axes[path] is not None},
        found,
        "of one item",
        "the values it has in a batch",
        "other values",
    )


def _first_item(tensor: torch.Tensor, axis: int | None) -> torch.Tensor:
    return tensor if axis is None else tensor.narrow(axis, 0, 1)


def _settings(session: Session) -> list[Mismatch]:
    """Check that a call leaves torch's global settings unchanged; its outputs are kept for the other checks."""
    vars(session).pop("small_call", None)
    return changed_settings(lambda: session.small_call)


class _Storages(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch annotates it in part
    """While active, collects weak references to the storage of every tensor that an operation returns."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: dict[int, StorageWeakRef] = {}
        """By the address of the storage object."""

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        returned = func(*args, **(kwargs or {}))
        for tensor in returned if isinstance(returned, (tuple, list)) else [returned]:
            if isinstance(tensor, torch.Tensor) and tensor.layout == torch.strided:
                ref = _memory_of(tensor)
                self.seen[ref.cdata] = ref
        return returned

    def living(self) -> set[int]:
        """The addresses of storages that something still refers to."""
        return {number for number, ref in self.seen.items() if not ref.expired()}  # type: ignore[no-untyped-call]


def _memory_of(tensor: torch.Tensor) -> StorageWeakRef:
    return StorageWeakRef(tensor.untyped_storage())  # type: ignore[no-untyped-call]


def _kept_memory(session: Session) -> list[Mismatch]:
    """Check that later calls keep no more memory alive than earlier ones, in the module, elsewhere, or as outputs."""
    module, arguments = session.copy(), session.arguments(session.small(B=1))
    counts, made, outputs = list[int](), list[_Storages](), set[int]()
    for _ in range(3):
        made.append(_Storages())
        with made[-1]:
            leaves = _called(session, module, arguments)
        outputs |= {_memory_of(tensor).cdata for tensor in leaves.values()}
        del leaves
        counts.append(sum(map(_held, module.modules())))
    if counts[2] > counts[1] > counts[0]:
        return [
            Mismatch("memory", "no more after each call", f"{counts[2] - counts[1]} objects more in its attributes")
        ]
    if all(_of_later_calls(made)):
        gc.collect()
    if all(kept := _of_later_calls(made)):
        what = "outputs" if kept[0] & outputs else "tensors"
        return [Mismatch("memory", f"{what} freed with their last use", "those of each call are kept")]
    return []


def _of_later_calls(made: list[_Storages]) -> list[set[int]]:
    """The storages that only the second of three calls has left alive, and those that only the third has."""
    living = [one.living() for one in made]
    return [living[1] - living[0] - living[2], living[2] - living[0] - living[1]]


def _held(module: nn.Module) -> int:
    """How many objects the attributes of a module hold, also in nested containers."""
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
    "settings of torch": _settings,
    "equal values": _repeated,
    "numbers": _numbers,
    "one structure": _other_values,
    "unchanged inputs": _unwritten_inputs,
    "writable outputs": _writable_outputs,
    "items alone": _items_alone,
    "one item": _one_item,
    "inference_mode": _inference,
    "memory": _kept_memory,
}
_CLAIMS = {
    "repeatable": ("equal values", "one structure", "inference_mode"),
    "writable": ("writable outputs",),
    "stateless": ("equal values",),
    "samples independent": ("items alone", "one item"),
}
"""What the report claims, by the kinds that must not fail for the bare backbone."""
_HARMING = ("settings of torch", "memory")
"""Kinds that stay faults even if the bare backbone has them too, since they harm the program around the module."""
_ITS_OWN = ("unchanged inputs", "numbers")
"""Kinds for which the bare backbone is not tried: an adapted module must not have them whatever the backbone does."""
