"""Axes: which sizes of an input axis are legal, and which dims are equal at all of them."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence

from pydantic import Field

from autoadapt.contracts.dims import Dim
from autoadapt.contracts.facts import MadeByHand


class AxisSizes(MadeByHand):
    """Which sizes of an input axis are legal: those from `smallest` on with `size % step == offset`.

    A step of 0 means that `example` is the only legal size. `smallest` is the smallest size that was seen to run; only
    if `bounded` is true were smaller ones refused. `largest` is the last size before a refused one, as of tokens that
    run out of positions; it is searched for near the example only.

    Example:
        >>> str(AxisSizes(step=32, example=224)), str(AxisSizes(step=0, example=224))
        ('multiples of 32', '224 only')
    """

    step: int = 1
    offset: int = 0
    smallest: int = 1
    example: int = Field(ge=0)
    bounded: bool = Field(default=False, exclude_if=lambda bounded: not bounded)
    largest: int | None = Field(default=None, exclude_if=lambda largest: largest is None)

    def __str__(self) -> str:
        return self._text() + (f" up to {self.largest}" if self.largest is not None else "")

    def _text(self) -> str:
        if self.step == 0:
            return f"{self.example} only"
        if self.step == 1:
            return f"{self.smallest} and more" if self.bounded else "any size"
        if self.offset == 0:
            return f"multiples of {self.step}"
        return f"multiples of {self.step}, plus {self.offset}"

    def __contains__(self, size: int) -> bool:
        if self.step == 0:
            return size == self.example
        is_within = self.smallest <= size and (self.largest is None or size <= self.largest)
        return is_within and size % self.step == self.offset

    def near(self, size: int) -> int:
        """The smallest legal size from `size` on, or the largest legal one where there is none."""
        if self.step == 0:
            return self.example
        size = max(size, self.smallest)
        reached = size + (self.offset - size) % self.step
        return reached if self.largest is None else min(reached, self.largest)

    def covers(self, other: AxisSizes) -> bool:
        """Whether every size that another axis allows is legal here; smallest and largest ones are not compared."""
        if self.step == 0:
            return other.step == 0 and other.example == self.example
        return other.example % self.step == self.offset and other.step % self.step == 0

    def as_dim(self, name: str) -> Dim:
        """The legal sizes as a dim of a free axis: `step*name + offset`, or the one legal size."""
        return Dim(self.example) if self.step == 0 else Dim.axis(name) * self.step + self.offset


def range_at(
    seen: tuple[int, int], axes: Mapping[str, AxisSizes], sizes: Mapping[str, int], dims: Sequence[Dim] = ()
) -> tuple[int, int]:
    """The smallest and largest integer that an input may hold at other sizes.

    The integers may be indices along any axis that was longer than the largest of them, so they stay within each.
    What is told of each node of a graph, `[N]`, is no index of edges; these, `[2, E]`, are indices of nodes.

    Args:
        seen: The smallest and the largest integer at the example.
        axes: The axes of the input, with the sizes of the example.
        sizes: A size for every axis.
        dims: The dims of the input.

    Example:
        >>> cloud = {"N": AxisSizes(example=64), "C": AxisSizes(example=3)}
        >>> range_at((2, 62), cloud, {"N": 11, "C": 3}), range_at((2, 62), cloud, {"N": 100, "C": 3})
        ((2, 10), (2, 62))
    """
    low, high = seen
    of_nodes, are_edges = dims[:1] == (Dim.axis("N"),), dims == (Dim(2), Dim.axis("E"))
    indexed = {name for name, axis in axes.items() if axis.example > high or (are_edges and name == "N")}
    indexed -= {"E"} if of_nodes else set()
    most = min([high, *(sizes[name] - 1 for name in indexed & sizes.keys())])
    return min(low, max(most, 0)), max(most, 0)


def equal_where_legal(left: Dim, right: Dim, axes: Mapping[str, AxisSizes]) -> bool:
    """Whether two dims are equal at every legal size of the input axes."""
    if left == right:
        return True
    units = {name: sizes.as_dim(name) for name, sizes in axes.items() if sizes.step != 1}
    return bool(units) and left.substitute(units) == right.substitute(units)


def smallest_size(dim: Dim, cells: int, axis: str, sizes: Mapping[str, int], *, below: int) -> int:
    """The smallest size of an axis at which a dim is at least `cells`, by bisection: no dim shrinks as its axis grows.

    Args:
        dim: A function of that axis, and perhaps of others.
        cells: The size of the output axis that is wanted.
        axis: The input axis that varies.
        sizes: Sizes of the other input axes.
        below: The upper end of the search, returned where no smaller size is enough.

    Example:
        >>> smallest_size(Dim.parse("floor((H - 11)/32)"), 1, "H", {}, below=1000)
        43
    """
    enough = lambda size: bool(dim.evaluate({**sizes, axis: size}) >= cells)  # noqa: E731
    return bisect_left(range(1, below), True, key=enough) + 1


def first_legal(name: str, axes: Mapping[str, AxisSizes], dims: Iterable[Dim]) -> int:
    """The smallest legal size of an axis; of images the smallest at which each output has a cell.

    Such an image may be smaller than `AxisSizes.smallest`, and was then never seen to run.

    Example:
        >>> first_legal("H", {"H": AxisSizes(example=64, smallest=6)}, [Dim.parse("floor(H/4)")])
        4
    """
    axis, example = axes[name], {other: sizes.example for other, sizes in axes.items()}
    first = axis.near(1)
    if axis.step == 0 or axis.bounded or name not in ("H", "W"):
        return first
    seen = [dim for dim in dims if name in dim.axes]
    least = max([smallest_size(dim, 1, name, example, below=first) for dim in seen], default=1)
    return least + (axis.offset - least) % axis.step
