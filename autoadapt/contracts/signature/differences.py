"""Differences: where a signature does not keep what another one promises, as lists of mismatches."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from autoadapt.contracts.signature.axes import AxisSizes, equal_where_legal
from autoadapt.contracts.signature.observations import Gathering
from autoadapt.contracts.signature.specs import TensorSpec
from autoadapt.contracts.signature.values import Values, describe
from autoadapt.contracts.trees import Container, Path, Tree, path_text
from autoadapt.errors import Mismatch


def container_differences(expected: Tree, found: Tree, path: Path = ()) -> list[Mismatch]:
    """Containers, keys and constants that differ, each with its path."""
    where = path_text(path)
    if not isinstance(expected, Container) or not isinstance(found, Container):
        if expected == found:
            return []
        return [Mismatch(where, describe(expected), describe(found), "return the value of the old module here")]
    if (expected.kind, expected.type) != (found.kind, found.type):
        return [Mismatch(where, describe(expected), describe(found), "return the container of the old module")]
    if expected.keys != found.keys:
        return [
            Mismatch(
                where,
                f"{describe(expected)}: {', '.join(map(str, expected.keys))}",
                f"{describe(found)}: {', '.join(map(str, found.keys))}",
                "return the same names in the same order",
            )
        ]
    children = zip(expected.keys, expected.children, found.children, strict=True)
    return [fault for key, left, right in children for fault in container_differences(left, right, (*path, key))]


def leaf_differences(expected: Values, found: Values, axes: Mapping[str, AxisSizes]) -> list[Mismatch]:
    """Tensors, of those at paths that both have, that differ at a legal size."""
    other = dict(found.items())
    return [
        fault
        for path, spec in expected.items()
        if path in other
        for fault in (*_diff_spec(path, spec, other[path], axes), *_diff_place(path, spec, other))
    ]


def _diff_place(path: str, expected: TensorSpec, found: Mapping[str, TensorSpec]) -> list[Mismatch]:
    """A leaf that should be the very same tensor as another one, and is not."""
    place = expected.same_as
    if place in ("", found[path].same_as) or (place in found and found[place].same_as == found[path].same_as != ""):
        return []
    return [Mismatch(path, f"the tensor {place} itself", found[path].same_as or "another tensor", "")]


def _diff_spec(path: str, expected: TensorSpec, found: TensorSpec, axes: Mapping[str, AxisSizes]) -> list[Mismatch]:
    """Mismatches between two specs of one leaf."""
    faults = []
    if expected.dtype != found.dtype:
        faults.append(Mismatch(path, expected.dtype, found.dtype, f"cast to {expected.dtype}"))
    if len(expected.dims) != len(found.dims):
        faults.append(Mismatch(path, str(expected), str(found), "bring it to the same number of axes"))
        return faults
    for axis, (left, right) in enumerate(zip(expected.dims, found.dims, strict=True)):
        if not equal_where_legal(left, right, axes):
            faults.append(Mismatch(f"{path}, axis {axis}", str(left), str(right), "resample, pool or project the axis"))
    faults += _moved_cells(path, expected, found)
    known = "unknown" not in (expected.cells, found.cells)
    if known and expected.order != found.order:
        faults.append(Mismatch(path, str(expected), str(found), "bring its tokens into the same order"))
    if None not in (expected.point_axis, found.point_axis) and expected.point_axis != found.point_axis:
        faults.append(Mismatch(path, _points(expected), _points(found), "turn the axes of points and channels"))
    if None not in (expected.merged, found.merged) and expected.merged != found.merged:
        faults.append(Mismatch(path, str(expected.merged), str(found.merged), "merge its axes in the same order"))
    if expected.role in ("index", "coordinate") and found.role != expected.role:
        faults.append(Mismatch(path, f"role {expected.role}", f"role {found.role}", "pass it through untouched"))
    return faults


def _points(spec: TensorSpec) -> str:
    return f"{spec}, points on axis {spec.point_axis}"


def _moved_cells(path: str, expected: TensorSpec, found: TensorSpec) -> list[Mismatch]:
    """Axes whose cells lie more than half a step from the expected ones, another step apart, or in reverse order."""
    other = {one.axis: one for one in found.centres}
    pairs = [(one, other[one.axis]) for one in expected.centres if one.axis in other]
    return [
        Mismatch(f"{path}, cells along {left.axis}", f"pixels {left}", f"pixels {right}", "resample at the old centres")
        for left, right in pairs
        if 2 * abs(left.first - right.first) > left.step or (left.step, left.reversed) != (right.step, right.reversed)
    ]


def axis_differences(expected: Mapping[str, AxisSizes], found: Mapping[str, AxisSizes]) -> list[Mismatch]:
    """Input axes with legal sizes that the other signature does not allow."""
    faults = []
    for name, sizes in expected.items():
        other = found.get(name)
        if other is None and sizes.step == 0:
            continue  # the input has that size as a constant
        if other is None:
            faults.append(Mismatch(f"input axis {name}", str(sizes), "one size only", "resize the input"))
        elif not other.covers(sizes):
            faults.append(Mismatch(f"input axis {name}", str(sizes), str(other), "resize or pad the input"))
    return faults


def invariant_differences(expected: Sequence[Gathering], found: Collection[Gathering]) -> list[Mismatch]:
    """Invariants that the other signature does not have."""
    return [
        Mismatch(invariant.index, str(invariant), "it does not hold", "take indices and points by one choice")
        for invariant in expected
        if invariant not in found
    ]
