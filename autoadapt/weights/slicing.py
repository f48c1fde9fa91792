"""Slicing: which rows of an axis serve which, where an axis counts something of which there are now fewer or more.

An axis of 34 rows for 17 key points is either two blocks, heat maps and then tags, or 17 pairs of x and y. The shape
does not tell which, and the other rows would be taken in silence; so that is for the caller to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from autoadapt.weights.keeping import Rows

__all__ = ["Axis", "Count", "axis_changes", "count_of", "slice_axes"]

# Counts that tell what an axis is: said as a help; rows are taken by it only where one reading is left.
_KEY_POINTS = ((17, 14), (14, 17), (17, 16), (16, 17), (17, 133), (133, 17), (16, 14), (14, 16))
_CLASSES = {1000: "ImageNet-1k", 21841: "ImageNet-22k", 21843: "ImageNet-21k", 80: "COCO", 91: "COCO",
            20: "VOC", 21: "VOC", 19: "Cityscapes", 150: "ADE20K", 365: "Objects365", 400: "Kinetics"}  # fmt: skip


@dataclass(frozen=True)
class Axis:
    """The rows of one axis that are taken, and where they go.

    Args:
        axis: Which one.
        old: Rows of the source.
        new: Rows of the target, one for each.
    """

    axis: int
    old: tuple[int, ...]
    new: tuple[int, ...]

    @property
    def leading(self) -> bool:
        """Whether it is the first rows on both sides, in their order."""
        return self.old == self.new == tuple(range(len(self.old)))


@dataclass(frozen=True)
class Count:
    """How an axis counts: `each` rows for every one of `old` or `new` things, and `rest` rows beside them.

    Args:
        each: Rows for one thing.
        rest: Other rows.
        old: Things before.
        new: Things now.
    """

    each: int
    rest: int
    old: int
    new: int

    def __str__(self) -> str:
        text = "key points" if self.each == 1 else f"{self.each} per key point"
        return f"{text} + {self.rest}" if self.rest else text

    def rows(self, kept: Rows, name: str, layout: str) -> Axis | None:
        """Old and new rows, by axis name and layout; nothing where a layout is asked for and is not said.

        Rows beside those of the things stand behind a few maps (background, centre), and, where an axis is an
        input, in front: features that the maps are fed back beside.
        """
        if self.each > 1 and layout not in ("blocks", "groups"):
            return None
        if self.rest > 1 and name != "input":
            return None
        pairs = [(old, new) for new, old in enumerate(kept) if old is not None]
        if layout == "groups":
            rows = [(old * self.each + i, new * self.each + i) for old, new in pairs for i in range(self.each)]
        else:
            rows = [(old + i * self.old, new + i * self.new) for i in range(self.each) for old, new in pairs]
        front = self.rest if self.rest > 1 else 0
        rows = [(i, i) for i in range(front)] + [(old + front, new + front) for old, new in rows]
        if self.rest == 1:
            rows.append((self.each * self.old, self.each * self.new))
        return Axis(-1, tuple(old for old, _ in rows), tuple(new for _, new in rows))


def count_of(old: int, new: int, kept: Rows | None = None) -> Count | None:
    """What an axis counts, by well-known numbers of key points or by what the caller keeps.

    Example:
        >>> count_of(34, 28), count_of(66, 60)
        (Count(each=2, rest=0, old=17, new=14), Count(each=2, rest=32, old=17, new=14))
    """
    if kept is not None:
        return _count_of_kept(old, new, kept)
    for joints_old, joints_new in _KEY_POINTS:
        each, over = divmod(old - new, joints_old - joints_new)
        rest = old - each * joints_old
        if over == 0 and each > 0 and (rest in (0, 1) or (rest > 0 and rest % 16 == 0)):
            return Count(each, rest, joints_old, joints_new)
    return None


def _count_of_kept(old: int, new: int, kept: Rows) -> Count | None:
    """The count that fits a list of kept things: whole, then with one more, then with features in front."""
    least = 1 + max(row for row in kept if row is not None)
    counts: list[Count] = []
    for rest in (0, 1, *range(16, min(old, new), 16)):
        each, over = divmod(new - rest, len(kept))
        if over == 0 and each > 0 and (old - rest) % each == 0 and (old - rest) // each >= least:
            counts.append(Count(each, rest, (old - rest) // each, len(kept)))
    certain = [count for count in counts if count.rest <= 1 or (count.old, count.new) in _KEY_POINTS]
    return certain[0] if certain else None


def axis_changes(source: Sequence[int], target: Sequence[int], axes: Sequence[str]) -> str:
    """Which axes differ, and what that looks like.

    Example:
        >>> axis_changes((17, 32, 1, 1), (14, 32, 1, 1), ("output", "input", "height", "width"))
        '17 -> 14 on the output axis (key points)'
        >>> axis_changes((255,), (210,), ("output",))
        '255 -> 210 on the output axis (15 per key point)'
    """
    if len(source) != len(target):
        return f"{len(source)} axes -> {len(target)}"
    changes = ", ".join(
        f"{old} -> {new} on the {axes[axis]} axis{_looks_like(old, new)}"
        for axis, (old, new) in enumerate(zip(source, target, strict=True))
        if old != new
    )
    order = _permutation(source, target)
    return f"the same sizes in another order: permute({', '.join(map(str, order))})" if order else changes


def _permutation(source: Sequence[int], target: Sequence[int]) -> list[int]:
    """The one order of axes that makes a shape of another, where axes of a kernel stay in order; empty if none does.

    Of three equal sizes, as those of a kernel, each keeps its place among them; more than three are not one kernel,
    and two beside others could be channels.
    """
    if sorted(source) != sorted(target) or list(source) == list(target):
        return []
    for size in set(source):
        at = [axis for axis, other in enumerate(source) if other == size]
        if len(at) not in (1, len(source) - 2) or len(at) > 3 or at[-1] - at[0] != len(at) - 1:
            return []
    free = list(range(len(source)))
    order = []
    for size in target:
        axis = next(axis for axis in free if source[axis] == size)
        order.append(axis)
        free.remove(axis)
    return order


def _looks_like(old: int, new: int) -> str:
    if old in _CLASSES or new in _CLASSES:
        names = [_CLASSES.get(count, f"{count} classes") for count in (old, new)]
        return f" (classes: {names[0]} -> {names[1]})"
    count = count_of(old, new)
    return f" ({count})" if count else ""


def slice_axes(
    source: tuple[int, ...], target: tuple[int, ...], axes: Sequence[str], layout: str, kept: Rows | None
) -> tuple[Axis, ...] | str:
    """The rows to take on each axis that differs, or why they cannot be told.

    Args:
        source: Old shape.
        target: New shape, of as many axes.
        axes: What each axis is called.
        layout: `slice`, or `blocks` or `groups` where each thing has several rows.
        kept: Old index of each new thing.

    Example:
        >>> slice_axes((18,), (15,), ("output",), "slice", None)[0].old
        (0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 17)
        >>> slice_axes((34,), (28,), ("output",), "slice", None)
        'rows 0-13, 17-30 by blocks of 17 (shapes "blocks"), rows 0-27 by 2 for each (shapes "groups")'
    """
    found: list[Axis] = []
    for axis, (old, new) in enumerate(zip(source, target, strict=True)):
        if old == new:
            continue
        rows = _slice_axis(old, new, axes[axis], layout, kept)
        if isinstance(rows, str):
            return rows
        found.append(Axis(axis, rows.old, rows.new))
    return tuple(found)


def _slice_axis(old: int, new: int, name: str, layout: str, kept: Rows | None) -> Axis | str:
    leading = tuple(range(min(old, new)))
    count = count_of(old, new, kept)
    if count is None:
        if kept is not None:
            return f"keep names {len(kept)} rows, which do not count this axis"
        return Axis(-1, leading, leading)
    if kept is None and _is_classes(old, new):
        return Axis(-1, leading, leading)
    kept = kept if kept is not None else tuple(i if i < count.old else None for i in range(count.new))
    rows = count.rows(kept, name, layout)
    return rows if rows is not None else _readings(count, kept, name)


def _is_classes(old: int, new: int) -> bool:
    return old in _CLASSES or new in _CLASSES


def _readings(count: Count, kept: Rows, name: str) -> str:
    """The readings of an axis between which the caller has to choose."""
    if count.rest > 1 and name != "input":
        return f"{count.rest} rows more than {count.each} per key point, in front of them or behind"
    blocks, groups = (count.rows(kept, name, layout) for layout in ("blocks", "groups"))
    assert blocks is not None
    assert groups is not None
    return (
        f'rows {ranges(blocks.old)} by blocks of {count.old} (shapes "blocks"), '
        f'rows {ranges(groups.old)} by {count.each} for each (shapes "groups")'
    )


def ranges(rows: Sequence[int]) -> str:
    """Rows as ranges, in their order, the first few.

    Example:
        >>> ranges((0, 1, 2, 7, 5, 6))
        '0-2, 7, 5-6'
    """
    starts = [0, *(i + 1 for i, (a, b) in enumerate(pairwise(rows)) if b != a + 1)]
    ends = [*(start - 1 for start in starts[1:]), len(rows) - 1]
    texts = [f"{rows[a]}-{rows[b]}" if b > a else f"{rows[a]}" for a, b in zip(starts, ends, strict=True)]
    return ", ".join(texts[:6]) + (f", and {len(texts) - 6} more" if len(texts) > 6 else "")
