"""Ranges: at which sizes of the input axes an exported program holds, derived from signature and plan."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TypeAlias

from autoadapt.adapting.planning import Plan, source_axes
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.facts import MadeByHand
from autoadapt.contracts.signature import AxisSizes, Signature, smallest_size
from autoadapt.errors import ExportError, Mismatch, nearest

Given: TypeAlias = Mapping[str, int | tuple[int, int | None]]
"""Sizes that a caller asks for, by axis: one size, or the smallest and the largest (None: any)."""

Confirm: TypeAlias = Callable[[dict[str, "SizeRange"]], dict[str, "SizeRange"]]

_CELLS = 2
_SEEN = "the smallest that was seen to run"
_LARGEST = 8192
"""An axis that does not have two cells at this size never will."""


class SizeRange(MadeByHand):
    """The sizes of one input axis at which a program holds.

    Example:
        >>> print(SizeRange(axis="H", low=42, step=14), "|", SizeRange(axis="B", low=1, high=8))
        multiples of 14 from 42 | 1 to 8
    """

    axis: str
    low: int
    high: int | None = None
    """None where any larger size will do."""
    step: int = 1
    offset: int = 0
    why: str = ""
    """What a smaller size would break."""
    asked: bool = False
    """Whether the caller asked for these sizes."""

    @property
    def fixed(self) -> bool:
        """Whether there is but one size."""
        return self.low == self.high

    def __contains__(self, size: int) -> bool:
        return self.low <= size <= (size if self.high is None else self.high) and size % self.step == self.offset

    def near(self, size: int) -> int:
        """The nearest size of the range that is not below a size, or the largest one."""
        if self.high is not None and size >= self.high:
            return self.high - (self.high - self.offset) % self.step
        size = max(size, self.low)
        return size + (self.offset - size) % self.step

    def __str__(self) -> str:
        if self.fixed:
            return f"{self.low} only"
        steps = f"multiples of {self.step}" if self.step > 1 else ""
        steps += f", plus {self.offset}," if self.offset else ""
        return f"{steps} from {self.low}".strip() if self.high is None else f"{steps} {self.low} to {self.high}".strip()


def size_ranges(plan: Plan, given: Given | None = None, confirm: Confirm | None = None) -> dict[str, SizeRange]:
    """The sizes at which an exported program of a plan holds, by input axis.

    These are the legal sizes of the signature, from where every map has two cells along an axis: exporters take
    an axis of one cell for one that never changes.

    Args:
        plan: Of the adapted module.
        given: Sizes that the caller asks for.
        confirm: Gives the ranges that runs of the module leave of those that its plan tells.

    Raises:
        ExportError: A given axis does not exist, or sizes are not legal.
    """
    signature, asked = plan.target, dict(given or {})
    faults = [
        Mismatch(f"ranges[{name!r}]", f"one of {', '.join(signature.axes)}", name, _similar(name, signature))
        for name in asked
        if name not in signature.axes
    ]
    dims = list(_dims(plan))
    found = {name: _derived(name, sizes, signature, dims) for name, sizes in signature.axes.items()}
    if confirm is not None:
        alone = {name: SizeRange(axis=name, low=one, high=one) for name, one in asked.items() if isinstance(one, int)}
        found = confirm(found | {name: one for name, one in alone.items() if name in found})
    for name in found.keys() & asked.keys():
        faults += _outside(found[name], signature.axes[name], asked[name])
        low, high = _ends(asked[name])
        found[name] = found[name].model_copy(update={"low": low, "high": high, "why": "", "asked": True})
    if faults:
        raise ExportError(f"{signature.name} cannot be exported for these sizes", faults)
    return found


def _ends(asked: int | tuple[int, int | None]) -> tuple[int, int | None]:
    return (asked, asked) if isinstance(asked, int) else asked


def _similar(name: str, signature: Signature) -> str:
    found = nearest(name.upper(), signature.axes, count=1)
    return f"ranges={{{found[0]!r}: ...}}" if found else ""


def _outside(derived: SizeRange, legal: AxisSizes, asked: int | tuple[int, int | None]) -> list[Mismatch]:
    """Why the sizes that were asked for are not all sizes at which a program holds; one size alone need be legal."""
    low, high = _ends(asked)
    where, best = f"ranges[{derived.axis!r}]", derived.near(low)
    if low == high:
        return [] if low in legal else [Mismatch(where, str(legal), str(low), f"ranges={{{derived.axis!r}: {best}}}")]
    if derived.fixed or low not in derived or (high is not None and high not in derived):
        why = f" ({derived.why})" if derived.why else ""
        above = None if high is None else derived.near(max(high, best))
        remedy = best if derived.fixed else (best, above)
        return [Mismatch(where, f"{derived}{why}", f"{low} to {high}", f"ranges={{{derived.axis!r}: {remedy}}}")]
    return []


def _derived(name: str, legal: AxisSizes, signature: Signature, dims: list[tuple[str, Dim]]) -> SizeRange:
    if legal.step == 0:
        return SizeRange(axis=name, low=legal.example, high=legal.example, why="the only legal size")
    low = legal.near(1)
    why = _SEEN if low > 1 else ""
    for label, dim in dims if name != "B" else ():
        needed = _two_cells(name, legal, signature, dim) if name in dim.axes else 0
        if needed > low or (needed == low and why == _SEEN):
            low, why = needed, f"below it {dim} of {label} is 1, and an axis of 1 never varies"
    return SizeRange(axis=name, low=low, step=legal.step, offset=legal.offset, why=why)


def _two_cells(name: str, legal: AxisSizes, signature: Signature, dim: Dim) -> int:
    """The smallest legal size at which a dim has two cells; 0 where it never has."""
    size = smallest_size(dim, _CELLS, name, signature.sizes(), below=_LARGEST)
    return 0 if size == _LARGEST else size + (legal.offset - size) % legal.step


def _dims(plan: Plan) -> Iterator[tuple[str, Dim]]:
    """Every dim that depends on the input, each once, with the place where it is met first."""
    axes = source_axes(plan)
    places = [(f"`{path}`", spec.dims) for path, spec in plan.target.outputs.items()]
    places += [(f"`{route.target}` on its way", spec.dims) for route in plan.routes for spec in route.specs]
    read = {route.source for route in plan.routes}
    places += [
        (f"the backbone's `{path}`", _in_old_axes(spec.dims, axes))
        for path, spec in plan.source.outputs.items()
        if path in read or not plan.cut
    ]
    for inner in plan.source.inner:
        if not any(inner.module == cut or inner.module.startswith(f"{cut}.") for cut in plan.cut):
            places.append((f"`backbone.{inner.name}`", _in_old_axes(inner.spec.dims, axes)))
    met = set()
    for label, dims in places:
        for dim in dims:
            if dim.axes and str(dim) not in met:
                met.add(str(dim))
                yield label, dim


def _in_old_axes(dims: tuple[Dim, ...], axes: Mapping[str, Dim]) -> tuple[Dim, ...]:
    return tuple(dim.substitute(axes) for dim in dims if dim.axes <= axes.keys())
