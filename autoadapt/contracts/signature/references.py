"""References: paths, axes and ranges that a signature names and does not have, as one read from a file may."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping

from autoadapt.contracts.signature.axes import AxisSizes
from autoadapt.contracts.signature.cell_centres import spatial_axes
from autoadapt.contracts.signature.specs import TensorSpec
from autoadapt.contracts.signature.values import Values
from autoadapt.errors import Mismatch
from autoadapt.errors.printable import visible

_LARGEST = 1 << 62


def loose_identities(outputs: Values, inputs: Values) -> Iterator[Mismatch]:
    """Outputs that are said to be the same tensor as one that is no input and no earlier output.

    Example:
        >>> outputs, inputs = Values.parse({"a": "f32[B] = b", "b": "f32[B]"}), Values.parse({"x": "f32[B]"})
        >>> [fault.where for fault in loose_identities(outputs, inputs)]
        ['a']
    """
    before = {f"inputs.{path}" for path in inputs.paths}
    for path, spec in outputs.items():
        if spec.same_as and spec.same_as not in before:
            yield Mismatch(path, "the same tensor as an input or an earlier output", repr(spec.same_as)[:60])
        before.add(path)


def containing(paths: Iterable[str]) -> set[str]:
    """The paths and those of all containers around them; the outermost container is `""`.

    Example:
        >>> sorted(containing(["a.b.0"]))
        ['', 'a', 'a.b', 'a.b.0']
    """
    found = {""}
    for path in paths:
        parts = path.split(".")
        found |= {".".join(parts[: i + 1]) for i in range(len(parts))}
    return found


def loose_paths(field: str, named: Iterable[str], known: Collection[str]) -> Iterator[Mismatch]:
    """Paths that a field names and that are not known.

    Example:
        >>> [fault.found for fault in loose_paths("contiguous", ["0", "c5"], ["0", "1"])]
        ["'c5'"]
    """
    for path in named:
        if path not in known:
            yield Mismatch(field, f"one of {', '.join(known)}"[:60] if known else "nothing", visible(repr(path))[:60])


def loose_axes(inputs: Values, outputs: Values, axes: Mapping[str, AxisSizes]) -> Iterator[Mismatch]:
    """Axes of inputs without sizes, sizes of axes that no tensor has, and examples that are no legal size."""
    for path, spec in inputs.items():
        if unknown := _axes([spec]).difference(axes):
            yield Mismatch(f"inputs.{path}", "axes that have sizes", ", ".join(sorted(unknown)))
    known = _axes([*inputs.leaves, *outputs.leaves])
    for name, sizes in axes.items():
        if name not in known:
            yield Mismatch(f"axes.{visible(name)[:60]}", "an axis of an input or an output", "one that none has")
        elif sizes.step < 0 or sizes.example not in sizes:
            found = f"{sizes.example}, of sizes from {sizes.smallest} on, in steps of {sizes.step}"
            yield Mismatch(f"axes.{name}", "an example that is a legal size", found[:80])


def loose_cells(values: Values, sizes: Mapping[str, int]) -> Iterator[Mismatch]:
    """Centres along axes that a tensor does not follow, or twice along one; more trailing tokens than it has tokens."""
    for path, spec in values.items():
        told, followed = [one.axis for one in spec.centres], spatial_axes(spec.dims)
        if len(told) > len(set(told)) or not set(told) <= set(followed):
            expected = f"centres along {', '.join(followed) or 'no axis'}, once each"
            yield Mismatch(path, expected, visible(", ".join(told))[:60])
        if spec.trailing and not _has_tokens(spec, sizes):
            yield Mismatch(path, f"no more tokens than {spec} has"[:80], f"{spec.trailing} behind the cells"[:60])


def _has_tokens(spec: TensorSpec, sizes: Mapping[str, int]) -> bool:
    if not _axes([spec]) <= set(sizes):
        return spec.trailing > 0
    return 0 < spec.trailing <= max(spec.shape(sizes), default=0)


def _axes(specs: Iterable[TensorSpec]) -> set[str]:
    return {axis for spec in specs for dim in spec.dims for axis in dim.axes}


def loose_ranges(ranges: Mapping[str, tuple[int, int]]) -> Iterator[Mismatch]:
    """Value ranges that are empty, or beyond 64 bits."""
    for path, (low, high) in ranges.items():
        if not -_LARGEST <= low <= high <= _LARGEST:
            yield Mismatch(path, "a smallest and a largest integer of 64 bits", f"{low} to {high}"[:60])
