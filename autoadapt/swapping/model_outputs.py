"""Model outputs: whether a whole model returns what it returned before one of its parts was swapped."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch

from autoadapt.contracts.capturing import Arguments
from autoadapt.contracts.capturing.roles import holds
from autoadapt.contracts.signature import Signature
from autoadapt.contracts.trees import Constant, Container, LeftOut, Opaque, Slot, Tree, flatten, path_text, paths
from autoadapt.errors import Mismatch
from autoadapt.swapping.readings import Outcome


def broken_invariants(signature: Signature, arguments: Arguments, returned: object) -> list[Mismatch]:
    """Invariants of a signature that the values of one call do not keep."""
    tree, tensors = flatten(arguments.values)
    known = {f"inputs.{path_text(path)}": tensor for path, tensor in zip(paths(tree), tensors, strict=True)}
    tree, tensors = flatten(returned)
    known |= {path_text(path): tensor for path, tensor in zip(paths(tree), tensors, strict=True)}
    return [
        Mismatch(one.index, str(one), "it does not hold", "pairs={...} must take indices and points from one choice")
        for one in signature.invariants
        if not holds(one, known)
    ]


def moving_sizes(outcomes: Sequence[Outcome]) -> set[tuple[str, int]]:
    """Which axes of which outputs differ between runs on inputs of the same shapes: those that follow the values."""
    first = outcomes[0]
    found: set[tuple[str, int]] = set()
    for other in outcomes[1:]:
        shapes = dict(zip(other.paths, other.shapes, strict=True))
        for path, shape in zip(first.paths, first.shapes, strict=True):
            pairs = zip(shape, shapes.get(path, ()), strict=False)
            found |= {(path, axis) for axis, (left, right) in enumerate(pairs) if left != right}
    return found


def differences(
    before: Outcome, after: Outcome, *, absent: Collection[str] = (), moving: Collection[tuple[str, int]] = ()
) -> list[Mismatch]:
    """How two outcomes differ: containers, dims, dtypes; values are not compared.

    Args:
        before: What the model returned.
        after: What it returns now.
        absent: Paths that may be missing or hold a placeholder.
        moving: Axes whose size follows the values, as (path, axis).
    """
    faults = _tree_differences(before.tree, after.tree, (), absent)
    now: Mapping[str, tuple[tuple[int, ...], torch.dtype]] = {
        path: (shape, dtype) for path, shape, dtype in zip(after.paths, after.shapes, after.dtypes, strict=True)
    }
    for path, shape, dtype in zip(before.paths, before.shapes, before.dtypes, strict=True):
        if path not in now:
            continue
        found, kind = now[path]
        still = [0 if (path, axis) in moving else size for axis, size in enumerate(shape)]
        same = [0 if (path, axis) in moving else size for axis, size in enumerate(found)]
        if still != same:
            faults.append(Mismatch(path, str(list(shape)), str(list(found)), _REMEDY))
        if dtype != kind:
            faults.append(Mismatch(path, str(dtype), str(kind), _REMEDY))
    return faults


_REMEDY = "swap(..., dry_run=True) shows what the new module serves"


def _tree_differences(
    before: Tree, after: Tree, path: tuple[int | str, ...], absent: Collection[str]
) -> list[Mismatch]:
    gone = paths(before, path)
    if gone and all(path_text(one) in absent for one in gone):
        return []
    match before, after:
        case (Slot(), Slot()) | (Opaque(), LeftOut()):  # no object is left out unless the caller asks for the rest
            return []
        case Constant(value=left), Constant(value=right) if type(left) is type(right) and (
            left == right or isinstance(left, (int, float))
        ):
            return []
        case Container(), Container() if (before.kind, before.type) == (after.kind, after.type):
            return _child_differences(before, after, path, absent)
        case _ if before == after:
            return []
    return [Mismatch(path_text(path), _words(before), _words(after), _REMEDY)]


def _child_differences(
    before: Container, after: Container, path: tuple[int | str, ...], absent: Collection[str]
) -> list[Mismatch]:
    now = dict(zip(after.keys, after.children, strict=True))
    faults = []
    for key, child in zip(before.keys, before.children, strict=True):
        if key in now:
            faults += _tree_differences(child, now[key], (*path, key), absent)
        elif not all(path_text(one) in absent for one in paths(child, (*path, key))) or not paths(child):
            faults.append(Mismatch(path_text((*path, key)), _words(child), "nothing", _REMEDY))
    new = [key for key in after.keys if key not in before.keys]
    faults += [Mismatch(path_text((*path, key)), "nothing", _words(now[key]), _REMEDY) for key in new]
    return faults


def _words(tree: Tree) -> str:
    match tree:
        case Container(kind=kind, keys=keys):
            return f"{kind.replace('_', ' ')} of {len(keys)}"
        case Slot():
            return "a tensor"
        case Constant(value=value):
            return repr(value)
        case _:
            return "an object"
