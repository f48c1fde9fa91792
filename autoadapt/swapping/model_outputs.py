"""Model outputs: whether a whole model returns what it returned before one of its parts was swapped."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from autoadapt.contracts.capturing import Arguments
from autoadapt.contracts.capturing.roles import holds
from autoadapt.contracts.signature import Signature
from autoadapt.contracts.trees import Constant, Container, LeftOut, Opaque, Slot, Tree, flatten, path_text, paths
from autoadapt.errors import Mismatch
from autoadapt.swapping.readings import Outcome

Path: TypeAlias = tuple[int | str, ...]


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


@dataclass(frozen=True)
class Moving:
    """What follows the values that a model computes, not the shapes of its inputs."""

    axes: frozenset[tuple[str, int]] = frozenset()
    """Axes of tensors, as (path, axis)."""
    parts: frozenset[Path] = frozenset()
    """Texts, and containers whose entries are not always the same."""

    def without(self, path: Path, shape: Sequence[int]) -> list[int] | None:
        """The sizes of a tensor that do not follow the values, with 0 for those that do; None if all of it does."""
        if any(path[:end] in self.parts for end in range(len(path) + 1)):
            return None
        return [0 if (path_text(path), axis) in self.axes else size for axis, size in enumerate(shape)]


def moving_parts(outcomes: Sequence[Outcome]) -> Moving:
    """What differs between runs on inputs of the same shapes."""
    first = outcomes[0]
    axes, parts = set[tuple[str, int]](), set[Path]()
    for other in outcomes[1:]:
        shapes = dict(zip(other.paths, other.shapes, strict=True))
        for path, shape in zip(first.paths, first.shapes, strict=True):
            pairs = zip(shape, shapes.get(path, ()), strict=False)
            axes |= {(path, axis) for axis, (left, right) in enumerate(pairs) if left != right}
        parts |= set(_moving_within(first.tree, other.tree, ()))
    return Moving(frozenset(axes), frozenset(parts))


def _moving_within(left: Tree, right: Tree, path: Path) -> Iterator[Path]:
    match left, right:
        case Container(), Container() if (left.kind, left.type, left.keys) == (right.kind, right.type, right.keys):
            for key, one, other in zip(left.keys, left.children, right.children, strict=True):
                yield from _moving_within(one, other, (*path, key))
        case (Slot(), Slot()) | (Opaque(), Opaque()):
            pass
        case _ if left != right:
            yield path


def differences(
    before: Outcome, after: Outcome, *, absent: Collection[str] = (), moving: Moving = Moving()
) -> list[Mismatch]:
    """How two outcomes differ: containers, dims, dtypes; values are not compared, nor texts that follow them.

    Args:
        before: What the model returned.
        after: What it returns now.
        absent: Paths that may be missing or hold a placeholder.
        moving: What follows the values.
    """
    faults = _tree_differences(before.tree, after.tree, (), absent, moving)
    now = dict(zip(after.paths, zip(after.shapes, after.dtypes, strict=True), strict=True))
    for place, shape, dtype in zip(paths(before.tree), before.shapes, before.dtypes, strict=True):
        path = path_text(place)
        if path not in now or (still := moving.without(place, shape)) is None:
            continue
        found, kind = now[path]
        if still != moving.without(place, found):
            faults.append(Mismatch(path, str(list(shape)), str(list(found)), _REMEDY))
        if dtype != kind:
            faults.append(Mismatch(path, str(dtype), str(kind), _REMEDY))
    return faults


_REMEDY = "swap(..., dry_run=True) shows what the new module serves"


def _tree_differences(before: Tree, after: Tree, path: Path, absent: Collection[str], moving: Moving) -> list[Mismatch]:
    gone = paths(before, path)
    if gone and all(path_text(one) in absent for one in gone):
        return []
    match before, after:
        case (Slot(), Slot()) | (Opaque(), LeftOut()):  # no object is left out unless the caller asks for the rest
            return []
        case Constant(value=left), Constant(value=right) if type(left) is type(right) and (
            left == right or isinstance(left, (int, float)) or path in moving.parts
        ):
            return []
        case Container(), Container() if (before.kind, before.type) == (after.kind, after.type):
            return [] if path in moving.parts else _child_differences(before, after, path, absent, moving)
        case _ if before == after:
            return []
    return [Mismatch(path_text(path), _words(before), _words(after), _REMEDY)]


def _child_differences(
    before: Container, after: Container, path: Path, absent: Collection[str], moving: Moving
) -> list[Mismatch]:
    now = dict(zip(after.keys, after.children, strict=True))
    faults = []
    for key, child in zip(before.keys, before.children, strict=True):
        if key in now:
            faults += _tree_differences(child, now[key], (*path, key), absent, moving)
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
