"""References: paths and axes that a signature names, which have to be there where it comes from a file."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from autoadapt.contracts.signature.values import Values
from autoadapt.errors import Mismatch

__all__ = ["loose_axes", "loose_identities", "loose_ranges"]

_LARGEST = 1 << 62


def loose_identities(outputs: Values, inputs: Values) -> Iterator[Mismatch]:
    """Outputs that are said to be a tensor which does not stand before them.

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


def loose_axes(inputs: Values, axes: Collection[str]) -> Iterator[Mismatch]:
    """Inputs along axes that have no sizes."""
    for path, spec in inputs.items():
        if unknown := {axis for dim in spec.dims for axis in dim.axes}.difference(axes):
            yield Mismatch(f"inputs.{path}", "axes that have sizes", ", ".join(sorted(unknown)))


def loose_ranges(ranges: Mapping[str, tuple[int, int]]) -> Iterator[Mismatch]:
    """Ranges of values that no integer tensor has."""
    for path, (low, high) in ranges.items():
        if not -_LARGEST <= low <= high <= _LARGEST:
            yield Mismatch(path, "a smallest and a largest integer of 64 bits", f"{low} to {high}"[:60])
