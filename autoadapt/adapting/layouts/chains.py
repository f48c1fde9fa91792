"""Chains: the shortest chain of operations from one tensor to another, or why there is none."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import replace

from autoadapt.adapting.layouts.arranging import arranged
from autoadapt.adapting.layouts.assigning import Assignment, Refusal, assign
from autoadapt.adapting.layouts.extra_tokens import (
    class_token_axis,
    in_words,
    registers,
    token_axis,
    with_leading_told,
    without_axis,
    without_entries,
)
from autoadapt.adapting.layouts.factors import POINTS, Factored, factored, size_of, unmapped, whole
from autoadapt.adapting.layouts.one_channel import with_one_channel
from autoadapt.adapting.layouts.placing import misplaced
from autoadapt.adapting.layouts.regridding import regridded, with_projection
from autoadapt.adapting.operations import Cast, DropPrefix, Flip, Lead, Operation, Rearrange, Take
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import Centres, TensorSpec


def chain(
    source: TensorSpec | Factored, target: TensorSpec, *, project: bool = False
) -> tuple[Operation, ...] | Refusal:
    """The shortest chain of operations from one tensor to another.

    Args:
        source: The tensor to begin with.
        target: The wanted tensor.
        project: Add a projection even where the channels agree.

    Returns:
        The operations, none where the tensors are equal; or a refusal.
    """
    have = factored(source) if isinstance(source, TensorSpec) else source
    have, target = with_leading_told(have, target)
    spec = have.spec
    if (spec.dims, _reversed(spec)) != (target.dims, _reversed(target)) and (*_reversed(spec), *_reversed(target)):
        return _turned(have, target, project=project)
    learned = spec.is_floating and target.is_floating and "feature" in (spec.role, target.role)
    want = factored(target)
    if None in (spec.map_axis, target.map_axis) and len(spec.dims) == len(target.dims):
        have, want = unmapped(have), want if have.strides else unmapped(want)
    regrids = learned and any(step.first for step in regridded(have, want))
    moved = regrids or (learned and _is_moved(have, want))
    turned = None not in (spec.merged, target.merged) and spec.merged != target.merged
    alike = (spec.dims, spec.order, spec.points) == (target.dims, target.order, target.points) and not turned
    cast = _cast(spec, target)
    if isinstance(cast, Refusal) or (alike and not (project and learned) and not moved):
        return cast
    first = _first(have, want, target)
    if isinstance(first, Refusal):
        return first
    if first is not None:
        step, left = first
        rest = chain(left, target, project=project)
        return rest if isinstance(rest, Refusal) else (step, *rest)
    have, want = (have, want) if regrids else (whole(have, want), whole(want, have))
    if any((*want.prefixes, *want.suffixes)):
        return _with_extra(have, want, target, cast, project=project, learned=learned)
    drops, forced = _drops(have), project and learned
    have, want = (with_one_channel(*pair, project=forced) for pair in ((have, want), (want, have)))
    assigned = assign(have.atoms, want.atoms)
    if isinstance(assigned, Refusal):
        return _untold_order(have, want) or assigned
    if why := _differing_points(assigned) or _mixed_points(assigned, spec, target) or _untold_tokens(assigned):
        return Refusal(why)
    if not learned and not assigned.is_exact:
        return Refusal(f"a {target.role} is passed on or picked from, never projected or interpolated")
    steps = arranged(assigned, project=forced)
    return steps if isinstance(steps, Refusal) else (*drops, *steps, *cast)


def _reversed(spec: TensorSpec) -> tuple[Centres, ...]:
    return tuple(one for one in spec.centres if one.reversed)


_NO_FLIP = Flip(axes=())


def _turned(have: Factored, target: TensorSpec, *, project: bool) -> tuple[Operation, ...] | Refusal:
    """A chain whose source or target lists cells in reverse: between them they stand as in the input."""
    flips = [_flip(have.spec), _flip(target)]
    if None in flips:
        return Refusal("it lists cells from the last to the first, beside others on one axis")
    before, behind = (one for one in flips if one is not None)
    rest = chain(replace(have, spec=before.gives(have.spec)), behind.gives(target), project=project)
    return rest if isinstance(rest, Refusal) else tuple(step for step in (before, *rest, behind) if step != _NO_FLIP)


def _flip(spec: TensorSpec) -> Flip | None:
    """The step that lists reversed cells as they stand in the input; None where they share an axis with others."""
    places = [[axis for axis, dim in enumerate(spec.dims) if one.axis in dim.axes] for one in _reversed(spec)]
    alone = all(len(found) == 1 and len(spec.dims[found[0]].axes) == 1 for found in places)
    return Flip(axes=tuple(sorted(axes[0] for axes in places))) if alone and spec.merged is None else None


def _drops(have: Factored) -> tuple[DropPrefix, ...]:
    """The steps that drop what stands before and behind cells."""
    ends = ((False, have.prefixes), (True, have.suffixes))
    return tuple(
        DropPrefix(axis=axis, count=count, at_end=at_end)
        for at_end, counts in ends
        for axis, count in enumerate(counts)
        if count
    )


def _first(
    have: Factored, want: Factored, target: TensorSpec
) -> tuple[Operation, TensorSpec | Factored] | Refusal | None:
    """A first step that selects a recurrent state, a class token or a last token, and its result; None without one."""
    step = _of_state(have.spec, target)
    if step is not None:
        return step if isinstance(step, Refusal) else (step, step.gives(have.spec))
    from_first = target.class_token or (target.first_token and have.spec.leading > 0)
    axis = class_token_axis(have) if from_first else token_axis(have) if target.last_token else None
    if axis is None or want.strides:
        return None
    return Take(axis=axis, last=target.last_token), without_axis(have, axis)


def is_state(spec: TensorSpec) -> bool:
    """Whether a tensor may be the state of recurrent layers, `[layers*directions, B, C]`."""
    shape = [dim == Dim.axis("B") or dim.constant is not None for dim in spec.dims]
    return spec.is_floating and len(shape) == 3 and all(shape) and spec.dims[1] == Dim.axis("B") != spec.dims[0]


def _of_state(spec: TensorSpec, target: TensorSpec) -> DropPrefix | Rearrange | Refusal | None:
    """The first step from a recurrent state: to its last layers and directions, or to a vector of all of them."""
    if not is_state(spec) or not (is_state(target) or [str(dim) for dim in target.dims[:-1]] == ["B"]):
        return None
    held, wanted = spec.dims[0].constant or 0, target.dims[0].constant or 0
    if wanted == 0:
        return Rearrange(pattern="l b c -> b (l c)")
    if held < wanted:
        return Refusal(f"it holds the state of {held} layers and directions, and that of {wanted} is wanted")
    return DropPrefix(axis=0, count=held - wanted) if held > wanted else None


def _is_moved(have: Factored, want: Factored) -> bool:
    """Whether tensors of equal dims have cells at different centres."""
    if (have.spec.dims, have.spec.order) != (want.spec.dims, want.spec.order) or any((*want.prefixes, *want.suffixes)):
        return False
    pairs = zip(itertools.chain(*have.atoms), itertools.chain(*want.atoms), strict=True)
    return any(misplaced(source, target) is not None for source, target in pairs)


def _untold_order(have: Factored, want: Factored) -> Refusal | None:
    """The refusal of a source whose order of cells is unknown, or whose tokens are no frames; None for others."""
    if "unknown" in (have.spec.cells, want.spec.cells):
        return Refusal("in which order cells of the image stand among its tokens is not known")
    if any(len(atoms) == 1 and len(atoms[0].kind) > 1 and "B" not in atoms[0].kind for atoms in want.atoms):
        return Refusal("in which order channels and cells stand on a flattened axis is not known")
    if have.spec.point_axis is None or not want.strides:
        return None
    count = have.spec.dims[have.spec.point_axis]
    return Refusal(f"its {count} tokens are no frames alone: they are a grid of bands and frames, or some are neither")


def _with_extra(
    have: Factored, want: Factored, target: TensorSpec, cast: Sequence[Cast], *, project: bool, learned: bool
) -> tuple[Operation, ...] | Refusal:
    """A chain to a target whose token axis has tokens besides cells."""
    told, found = (in_words(max(one.prefixes, default=0), max(one.suffixes, default=0)) for one in (want, have))
    drops = registers(have, want)
    if found and have.spec.dims[0].axes > target.dims[0].axes:  # each frame has a class token of its own
        drops = tuple(DropPrefix(axis=axis, count=count) for axis, count in enumerate(have.prefixes) if count)
    if drops:
        rest = chain(without_entries(have, drops), target, project=project)
        return rest if isinstance(rest, Refusal) else (*drops, *rest)
    if not found and _is_class_token_of_image(want):
        cells = without_entries(want, (DropPrefix(axis=1, count=1),)).spec
        rest = chain(have, cells, project=project)
        return rest if isinstance(rest, Refusal) else (*rest, Lead())
    if told != found:
        why = f"and the source {found}" if found else "that the source lacks"
        return Refusal(f"the target has {told} {why}")
    steps = regridded(have, want)
    if not steps or not learned:
        return Refusal(f"the target has {told} beside cells that are not interpolated")
    return (*with_projection(steps, have, want, forced=project), *cast)


def _is_class_token_of_image(tensor: Factored) -> bool:
    """Whether tokens `[B, 1 + N, C]` are a class token and the cells of an image or clip."""
    extras = [*zip(tensor.prefixes, tensor.suffixes, strict=True)]
    return extras == [(0, 0), (1, 0), (0, 0)] and {"H", "W"} <= tensor.strides.keys()


def _differing_points(assigned: Assignment) -> str:
    """Why a number of points does not serve another one; empty where they agree."""
    for name in assigned.resampled:
        if assigned.then[name].kind == POINTS:
            have, want = size_of(assigned.before[name]), size_of(assigned.then[name])
            told = '; thin="repeat" takes some of them again' if have < want else ""
            return f"there are {have} points or tokens and {want} are wanted{told}"
    return ""


def _mixed_points(assigned: Assignment, source: TensorSpec, target: TensorSpec) -> str:
    """Why an axis is not projected that is known to list points or tokens; empty where none would be."""
    told = (source.point_axis, assigned.source), (target.point_axis, assigned.target)
    for name in assigned.projected:
        if any(axis is not None and name in layout[axis] for axis, layout in told):
            have, want = size_of(assigned.before[name]), size_of(assigned.then[name])
            return f"there are {have} points or tokens and {want} are wanted, and these are not mixed as channels are"
    return ""


def _untold_tokens(assigned: Assignment) -> str:
    """Why tokens of a sequence do not serve fewer ones of stride 1; empty where they would not have to.

    Interpolation would mix the added tokens with their neighbours. Of images it is known which tokens are no cells.
    """
    for name in assigned.resampled:
        have, want = assigned.before[name].dim, assigned.then[name].dim
        more, is_whole = (have - want).constant or 0, any(want == Dim.axis(axis) for axis in want.axes - {"H", "W"})
        if more > 0 and is_whole:
            return f"it has {have} tokens where {want} are wanted, and which are more is not told: wrap it without them"
    return ""


def _cast(source: TensorSpec, target: TensorSpec) -> tuple[Cast, ...] | Refusal:
    if source.dtype == target.dtype:
        return ()
    if source.is_floating != target.is_floating or "bool" in (source.dtype, target.dtype):
        return Refusal(f"{source.dtype} values are no {target.dtype} values")
    return (Cast(dtype=target.dtype),)
