"""Thinning: which outputs belong to one point cloud, and choosing some of its points, the same for all of them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import replace

from autoadapt.adapting.layouts import factored
from autoadapt.adapting.operations import Thin, Thinning
from autoadapt.adapting.pairings import Source
from autoadapt.contracts.capturing.point_axes import POINT
from autoadapt.contracts.signature import Signature, TensorSpec, Values


def mark_points(values: Values, *, told: bool = True) -> Values:
    """Set the field `points` of each leaf, the axis that lists points.

    That is the axis that a real run showed. Else it is an axis whose size is the number of points of some coordinates,
    `[B, M, K]` or `[B, K, M]`; of two such axes that which lists points in the other leaves, else the last. Values that
    are marked already stay as they are.

    Args:
        values: The leaves.
        told: Whether to use what real runs showed.

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
    """Both with their points marked; by sizes alone where one of them has no points.

    Tensors are then matched by their sizes, as all others are, and axes of points that real runs showed not projected.
    """
    marked = mark_points(source), mark_points(target)
    if all(map(_is_marked, marked)):
        return marked
    return mark_points(_by_sizes(source), told=False), mark_points(_by_sizes(target), told=False)


def _is_marked(values: Values) -> bool:
    return any(leaf.points is not None for leaf in values.leaves)


def _by_sizes(values: Values) -> Values:
    """The same leaves without marks from real runs."""
    leaves = (leaf if leaf.point_axis is None else _marked(leaf, None) for leaf in values.leaves)
    return values.model_copy(update={"leaves": tuple(leaves)})


def _marked(spec: TensorSpec, axis: int | None) -> TensorSpec:
    return spec.model_copy(update={"points": axis})


def in_order(signature: Signature) -> bool:
    """Whether a module takes sequences of one length, whose tokens have an order, and no point clouds."""
    sizes = {dim.constant for spec in signature.inputs.leaves for dim in spec.dims}
    return signature.axes.keys() <= {"B"} and POINT.isdisjoint(sizes)


def unmark_points(values: Values) -> Values:
    """The same leaves without marks."""
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
    """The axis of coordinates that lists points; the other one lists two or three columns."""
    columns, points = spec.dims[2].constant, spec.dims[1].constant
    return 2 if points in (2, 3) and columns not in (2, 3) else 1


def _is_clear(spec: TensorSpec, axes: Sequence[int]) -> bool:
    return len(axes) == 1 and spec.role == "feature" and len(spec.dims) == 3


def thinned(
    sources: Sequence[Source], wanted: Values, how: Thinning, *, sequence: bool = False
) -> tuple[list[Source], dict[str, Thin]]:
    """The sources with the wanted numbers of points, and the operation for each that is thinned.

    For a number of points that no source has, the next larger cloud is thinned; with `repeat` a smaller one will do.

    Args:
        sources: The sources of the new module, marked.
        wanted: The outputs of the contract, marked.
        how: How points are chosen.
        sequence: Whether points without coordinates are tokens of a sequence, which are thinned only if `how` is given.
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
            steps |= _steps(group, larger[0], count, how)
    return [_after(source, steps.get(source.path)) for source in sources], steps


def _count(spec: TensorSpec) -> int | None:
    return None if spec.points is None else spec.dims[spec.points].constant


def _is_taken(size: int, steps: dict[str, Thin]) -> bool:
    return any(step.source == size for step in steps.values())


def _steps(group: Sequence[Source], source: int, count: int, how: Thinning) -> dict[str, Thin]:
    """One choice for a whole cloud; farthest points need coordinates, so without any the first points are taken."""
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
        )
        for one in group
    }


def _after(source: Source, step: Thin | None) -> Source:
    """A source after thinning; points have no strides."""
    return source if step is None else replace(source, tensor=factored(step.gives(source.spec)))
