"""Thinning: which leaves lie on one set of points, and fewer points of it by one choice for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from autoadapt.adapting.layouts import factored
from autoadapt.adapting.operations import Thin, Thinning
from autoadapt.adapting.pairings import Source
from autoadapt.contracts.capturing.point_axes import POINT
from autoadapt.contracts.signature import Signature, TensorSpec, Values

__all__ = ["in_order", "mark_points", "marked_alike", "thinned", "unmark_points"]


def mark_points(values: Values, *, told: bool = True) -> Values:
    """Note on each leaf which of its axes lists points.

    That is the axis that a real run told. Else coordinates `[B, M, K]` or `[B, K, M]` tell the numbers of points that
    occur, and a leaf lies on such a set where one of its axes has that size; where two have, the axis that lists points
    in the other leaves is taken, else the last. Values that are marked already are left as they are.

    Args:
        values: The leaves.
        told: Whether what real runs told counts.

    Example:
        >>> marked = mark_points(Values.parse(["f32[B, 16, 3] coordinate", "f32[B, 8, 16]", "f32[B, 16, 16]"]))
        >>> [leaf.points for leaf in marked.leaves]
        [1, 2, 2]
    """
    if _is_marked(values):
        return values
    sets = [spec for spec in values.leaves if spec.role == "coordinate" and len(spec.dims) == 3]
    counts = {spec.dims[_point_axis(spec)].constant for spec in sets}
    candidates = [_candidates(spec, counts, told=told) for spec in values.leaves]
    clear = Counter(axes[0] for spec, axes in zip(values.leaves, candidates, strict=True) if _is_clear(spec, axes))
    usual = clear.most_common(1)[0][0] if clear else 2
    leaves = tuple(
        _marked(spec, axes[0] if len(axes) == 1 else usual if usual in axes else axes[-1]) if axes else spec
        for spec, axes in zip(values.leaves, candidates, strict=True)
    )
    return values.model_copy(update={"leaves": leaves})


def marked_alike(source: Values, target: Values) -> tuple[Values, Values]:
    """Both with their points marked; where nothing is known of the points of one, not by what real runs told.

    Sizes alone then say what serves what, as for any tensors, as long as no axis that is told is projected.
    """
    marked = mark_points(source), mark_points(target)
    if all(map(_is_marked, marked)):
        return marked
    return mark_points(_by_sizes(source), told=False), mark_points(_by_sizes(target), told=False)


def _is_marked(values: Values) -> bool:
    return any(leaf.points is not None for leaf in values.leaves)


def _by_sizes(values: Values) -> Values:
    """The same leaves without marks that real runs told."""
    leaves = (leaf if leaf.point_axis is None else _marked(leaf, None) for leaf in values.leaves)
    return values.model_copy(update={"leaves": tuple(leaves)})


def _marked(spec: TensorSpec, axis: int | None) -> TensorSpec:
    return spec.model_copy(update={"points": axis})


def in_order(signature: Signature) -> bool:
    """Whether what has tokens has them of frames of one length, and not of a cloud of points."""
    sizes = {dim.constant for spec in signature.inputs.leaves for dim in spec.dims}
    return signature.axes.keys() <= {"B"} and POINT.isdisjoint(sizes)


def unmark_points(values: Values) -> Values:
    """The same leaves without the notes."""
    return values.model_copy(
        update={"leaves": tuple(leaf.model_copy(update={"points": None}) for leaf in values.leaves)}
    )


def _candidates(spec: TensorSpec, counts: Iterable[int | None], *, told: bool) -> list[int]:
    if told and spec.point_axis is not None:
        return [spec.point_axis]
    if spec.role == "coordinate":
        return [i for i in [_point_axis(spec)] if spec.dims[i].constant is not None] if len(spec.dims) == 3 else []
    return [i for i, dim in enumerate(spec.dims) if 0 < i < 3 and dim.constant is not None and dim.constant in counts]


def _point_axis(spec: TensorSpec) -> int:
    """Which axis of coordinates lists points: the other one lists two or three columns of a point."""
    columns, points = spec.dims[2].constant, spec.dims[1].constant
    return 2 if points in (2, 3) and columns not in (2, 3) else 1


def _is_clear(spec: TensorSpec, axes: Sequence[int]) -> bool:
    return len(axes) == 1 and spec.role == "feature" and len(spec.dims) == 3


def thinned(
    sources: Sequence[Source], wanted: Values, how: Thinning, *, seed: int = 0, sequence: bool = False
) -> tuple[list[Source], dict[str, Thin]]:
    """The sources with as many points as are wanted, and the step that brings each there.

    For a number of points that no source has, the next larger set is thinned; with `repeat` a smaller one will do.

    Args:
        sources: What the new module offers, its point axes marked.
        wanted: The contract, its point axes marked.
        how: How points are chosen.
        seed: For a random choice.
        sequence: What has no coordinates lists tokens one behind the other, of which none is left out unasked.
    """
    have = {_count(source.spec) for source in sources} - {None}
    want = {_count(spec) for spec in wanted.leaves} - {None}
    steps: dict[str, Thin] = {}
    for count in sorted(size for size in want - have if size is not None):
        spare = sorted(size for size in have - want if size is not None and not _is_taken(size, steps))
        larger = [size for size in spare if size > count] or (spare[-1:] if how == "repeat" else [])
        group = [source for source in sources if _count(source.spec) in larger[:1]]
        told = how != "farthest" or not sequence or any(source.spec.role == "coordinate" for source in group)
        if group and told:
            steps |= _steps(group, larger[0], count, how, seed)
    return [_after(source, steps.get(source.path)) for source in sources], steps


def _count(spec: TensorSpec) -> int | None:
    return None if spec.points is None else spec.dims[spec.points].constant


def _is_taken(size: int, steps: dict[str, Thin]) -> bool:
    return any(step.source == size for step in steps.values())


def _steps(group: Sequence[Source], source: int, count: int, how: Thinning, seed: int) -> dict[str, Thin]:
    """One choice for a whole set; far points are told by coordinates, and without any the first are taken."""
    coordinates = [one for one in group if one.spec.role == "coordinate"]
    by = (coordinates or list(group))[0]
    chosen: Thinning = how if coordinates or how != "farthest" else "first"
    return {
        one.path: Thin(
            axis=one.spec.points or 0,
            source=source,
            count=count,
            how=chosen,
            points=by.path,
            points_axis=by.spec.points or 0,
            seed=seed,
        )
        for one in group
    }


def _after(source: Source, step: Thin | None) -> Source:
    """A source after it was thinned; its strides are lost with its axes, as points have none."""
    return source if step is None else replace(source, tensor=factored(step.gives(source.spec)))
