"""Slicing: which rows of an axis serve which, where an axis counts something of which there are now fewer or more.

An axis of 34 rows for 17 key points is either two blocks, heat maps and then tags, or 17 pairs of x and y. The shape
does not tell which, and the other rows would be taken in silence; so that is for the caller to say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from math import gcd

from autoadapt.weights.keeping import Kept, Rows
from autoadapt.weights.widths import JOINED, READ, Widths, mixed

# Counts that tell what an axis is: said as a help; rows are taken by it only where one reading is left.
_KEY_POINTS = ((17, 14), (14, 17), (17, 16), (16, 17), (17, 133), (133, 17), (16, 14), (14, 16))
_CLASSES = {1000: "ImageNet-1k", 21841: "ImageNet-22k", 21843: "ImageNet-21k", 80: "COCO", 91: "COCO",
            20: "VOC", 21: "VOC", 19: "Cityscapes", 150: "ADE20K", 365: "Objects365", 400: "Kinetics"}  # fmt: skip

# Rows for one anchor: detection's classes, alone, with one for nothing, with a box and a score (YOLO), and with masks.
_PER_ANCHOR = frozenset(count + beside for count in (20, 80, 90, 91, 365, 1203) for beside in (0, 1, 5, 37))


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

    def rows(self, kept: Rows, layout: str, front: int = 0) -> Axis:
        """Old and new rows, by layout.

        Args:
            kept: Old index of each new thing.
            layout: `groups`, or anything else for blocks.
            front: How many of the rows beside those of the things stand in front of them; the others stand behind.
        """
        pairs = [(old, new) for new, old in enumerate(kept) if old is not None]
        if layout == "groups":
            rows = [(old * self.each + i, new * self.each + i) for old, new in pairs for i in range(self.each)]
        else:
            rows = [(old + i * self.old, new + i * self.new) for i in range(self.each) for old, new in pairs]
        rows = [(i, i) for i in range(front)] + [(old + front, new + front) for old, new in rows]
        ends = front + self.each * self.old, front + self.each * self.new
        rows += [(ends[0] + i, ends[1] + i) for i in range(self.rest - front)]
        return Axis(-1, tuple(old for old, _ in rows), tuple(new for _, new in rows))

    def first(self) -> Rows:
        """The first of the old things for the new ones."""
        return tuple(i if i < self.old else None for i in range(self.new))


def count_of(old: int, new: int, kept: Kept | None = None) -> Count | None:
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


def _count_of_kept(old: int, new: int, kept: Kept) -> Count | None:
    """The count that fits a list of kept things: whole, then key points with one more, then with features in front.

    One index too few is no sign of a row beside the key points where their number is that of all rows.
    """
    counts: list[Count] = []
    for rest in (0, 1, *range(16, min(old, new), 16)):
        each, over = divmod(new - rest, len(kept.rows))
        things, also_over = divmod(old - rest, each or 1)
        if over == also_over == 0 and each > 0 and kept.counts(things):
            counts.append(Count(each, rest, things, len(kept.rows)))
    known = {before for before, _ in _KEY_POINTS} if kept.old is None else set()
    certain = [c for c in counts if c.rest == 0 or ((c.old, c.new) in _KEY_POINTS and old not in known)]
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
        same = ': a linear layer and a convolution of single cells (shapes "permute")'
        return f"{len(source)} axes -> {len(target)}{same if is_single_cell(source, target, axes) else ''}"
    changes = ", ".join(
        f"{old} -> {new} on the {axes[axis]} axis{_looks_like(old, new)}"
        for axis, (old, new) in enumerate(zip(source, target, strict=True))
        if old != new
    )
    order = permutation(source, target)
    told = f"permute({', '.join(map(str, order))})"
    return f'the same sizes in another order: {told} (shapes "permute")' if order else changes


def permutation(source: Sequence[int], target: Sequence[int]) -> list[int]:
    """The one order of axes that makes a shape of another, where axes of a kernel stay in order; empty if none does.

    Of equal sizes that are a kernel, all axes but two and side by side before and after, each keeps its place among
    them; others could be channels. Axes of one element may stand in any order, but then channels could be a kernel.
    """
    if sorted(source) != sorted(target) or list(source) == list(target):
        return []
    several = [size for size in set(source) if list(source).count(size) > 1]
    kernels = [size for size in several if size > 1]
    if kernels and (len(several) > 1 or not all(_is_kernel(kernels[0], shape) for shape in (source, target))):
        return []
    free = list(range(len(source)))
    order = []
    for size in target:
        axis = next(axis for axis in free if source[axis] == size)
        order.append(axis)
        free.remove(axis)
    return order


def is_single_cell(source: Sequence[int], target: Sequence[int], axes: Sequence[str]) -> bool:
    """Whether one is a linear layer and the other a convolution of the same channels that sees single cells."""
    short, long = sorted([tuple(source), tuple(target)], key=len)
    same = len(short) == 2 < len(long) and long == (*short, *[1] * (len(long) - 2))
    return same and axes[0] in ("output", JOINED) and axes[1] == "input"


def _is_kernel(size: int, shape: Sequence[int]) -> bool:
    """Whether the axes of a size are side by side, and all but two."""
    at = [axis for axis, other in enumerate(shape) if other == size]
    return len(at) == len(shape) - 2 <= 3 and at[-1] - at[0] == len(at) - 1


def _looks_like(old: int, new: int) -> str:
    if old in _CLASSES or new in _CLASSES:
        names = [_CLASSES.get(count, f"{count} classes") for count in (old, new)]
        return f" (classes: {names[0]} -> {names[1]})"
    count = count_of(old, new)
    return f" ({count})" if count else ""


def slice_axes(
    source: tuple[int, ...],
    target: tuple[int, ...],
    axes: Sequence[str],
    layout: str,
    kept: Kept | None,
    widths: Widths = Widths(),  # noqa: B008 - frozen
) -> tuple[Axis, ...] | str:
    """The rows to take on each axis that differs, or why they cannot be told.

    Args:
        source: Old shape.
        target: New shape, of as many axes.
        axes: What each axis is called.
        layout: `slice`, or `blocks` or `groups` where each thing has several rows.
        kept: Old index of each new thing.
        widths: What the layers yield, of which an axis that is read is made.

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
        rows = _slice_axis(old, new, axes[axis], layout, kept, widths)
        if isinstance(rows, str):
            return rows
        found.append(Axis(axis, rows.old, rows.new))
    return tuple(found)


def _slice_axis(old: int, new: int, name: str, layout: str, kept: Kept | None, widths: Widths) -> Axis | str:
    if kept is not None and len(kept.rows) == new and kept.counts(old):
        return Count(1, 0, old, new).rows(kept.rows, layout)
    if kept is None and name == JOINED:
        return 'several outputs stand one after the other: keep says which rows of each (shapes "blocks")'
    anchored = _anchored(old, new, widths) if kept is None and name == "output" else []
    if not anchored and kept is None and _is_classes(old, new) and not widths.holds_several(name, old, new):
        return Axis(-1, *[tuple(range(min(old, new)))] * 2)
    counts = anchored or _counts(old, new, name, kept, widths)
    if isinstance(counts, str):
        return counts
    if not counts:
        return _uncounted(old, new, name, layout, kept)
    count = counts[0]
    things = kept.rows if kept is not None else count.first()
    if count.rest > 1 and name not in READ:
        return f"{count.rest} rows more than {count.each} per key point, in front of them or behind"
    beside = count.rest > 1 or (count.rest == 1 and widths.holds_several(name, old, new))
    if layout == "slice":
        plain = count.each == 1 and not beside
        return count.rows(things, layout) if plain else _readings(count, things, beside)
    if len(counts) > 1:
        return f"{' or '.join(map(str, counts))}: keep says every row"
    return count.rows(things, layout, count.rest if beside else 0)


def _counts(old: int, new: int, name: str, kept: Kept | None, widths: Widths) -> list[Count] | str:
    """What an axis may count: by the layers that it reads, else by well-known numbers; or why it is not told."""
    if not widths.holds_several(name, old, new):
        count = count_of(old, new, kept)
        return [count] if count else []
    things = _things(widths)
    found = []
    for before, after in sorted(things):
        each, over = divmod(old - new, before - after)
        if over == 0 and each > 0 and old >= each * before:
            found.append(Count(each, old - each * before, before, after))
    steady = {0, *widths.steady}
    known = [count for count in found if count.rest in steady]
    others = set(mixed(things, old, new))
    if others & steady or (others and not known):
        return "several outputs that change are read side by side: keep says every row"
    found = known or found
    if kept is not None:
        return [count for count in found if count.new == len(kept.rows) and kept.counts(count.old)]
    return found


def _anchored(old: int, new: int, widths: Widths) -> list[Count]:
    """How an axis counts that no layer reads and that yields the same for each of several anchors, or of each class.

    Told, in this order, by another such output (boxes of each class), by boxes (4 for each anchor) that stay, by
    well-known rows for one anchor on both sides, or on one. The last three are for convolutions: anchors have places.
    """
    if old in _CLASSES or (old, new) not in widths.heads or count_of(old, new):
        return []
    shared = gcd(old, new)
    times = [(k, old // k, new // k) for k in range(2, shared + 1) if shared % k == 0]
    if (old, new) in widths.maps:
        boxes = [(k, a, b) for k, a, b in times if 4 * k in widths.ends]
        both = [(k, a, b) for k, a, b in times if a in _PER_ANCHOR and b in _PER_ANCHOR]
        one = [(k, a, b) for k, a, b in times if a in _PER_ANCHOR or (b in _PER_ANCHOR and new > old)]
    else:
        boxes = both = one = []
    beside = [(k, a, b) for k, a, b in times if (a, b) in widths.heads]
    found = next((told for told in (beside, boxes, both, one) if told), [])
    return [Count(k, 0, a, b) for k, a, b in found]


def could_be_blocks(old: int, new: int, widths: Widths) -> bool:
    """Whether rows of maps that no layer reads could lie in blocks of which nothing tells.

    Example:
        >>> could_be_blocks(60, 30, Widths(changed=frozenset({(60, 30)}), maps=frozenset({(60, 30)})))
        True
    """
    unread = (old, new) in widths.maps & widths.heads
    return unread and not _is_classes(old, new) and not count_of(old, new) and gcd(old, new) > 1


def _things(widths: Widths) -> set[tuple[int, int]]:
    """What is counted by outputs that change: key points, where the number is a well-known one."""
    found: set[tuple[int, int]] = set()
    for width in widths.changed:
        count = count_of(*width)
        if count is not None and count.rest <= 1:
            found.add((count.old, count.new))
        if count is None or count.rest > 0:
            found.add(width)
    return found


def _uncounted(old: int, new: int, name: str, layout: str, kept: Kept | None) -> Axis | str:
    """The first rows of an axis that counts nothing known, or why they are none that can be told."""
    if kept is not None:
        source = f" of {kept.old}" if kept.old is not None else ""
        return f"keep names {len(kept.rows)} rows{source}, which do not count this axis"
    if layout == "blocks" and (gcd(old, new) > 1 or name in READ):
        return "how many blocks it has is not known: keep says every row"
    leading = tuple(range(min(old, new)))
    return Axis(-1, leading, leading)


def _is_classes(old: int, new: int) -> bool:
    return old in _CLASSES or new in _CLASSES


def _readings(count: Count, kept: Rows, beside: bool) -> str:
    """The readings of an axis between which the caller has to choose."""
    front = count.rest if beside else 0
    blocks = count.rows(kept, "blocks", front)
    if count.each > 1:
        groups = count.rows(kept, "groups", front)
        return (
            f'rows {ranges(blocks.old)} by blocks of {count.old} (shapes "blocks"), '
            f'rows {ranges(groups.old)} by {count.each} for each (shapes "groups")'
        )
    behind = count.rows(kept, "blocks")
    return (
        f'rows {ranges(blocks.old)} where {count.rest} stand in front (shapes "blocks"), '
        f"rows {ranges(behind.old)} where they stand behind (keep)"
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
