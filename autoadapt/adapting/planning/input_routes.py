"""Input routes: the operations that make the old module's inputs legal for the new one."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

from autoadapt.adapting.operations import (
    Conversion,
    Copy,
    Native,
    Operation,
    Pad,
    Rearrange,
    Remask,
    Resize,
    specs_along,
)
from autoadapt.adapting.planning.frames import frames_of, is_image_or_clip, of_rank
from autoadapt.adapting.planning.hidden_tokens import as_mask
from autoadapt.adapting.planning.input_channels import matched_channels
from autoadapt.adapting.planning.input_statistics import renormalized
from autoadapt.adapting.planning.plans import InputRoute
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import AxisSizes, Signature, TensorSpec, image_of, smallest_size
from autoadapt.errors import MatchError, Mismatch

Fit: TypeAlias = Literal["pad", "resize"]
"""How images of a size that the new module refuses are brought to a legal one: by zeros, or by interpolation."""

CONVERSIONS: tuple[Conversion, ...] = ("layout", "channels", "size", "statistics")


def route_inputs(
    source: Signature, target: Signature, convert: Collection[Conversion] = CONVERSIONS, fit: Fit | None = None
) -> tuple[InputRoute, ...]:
    """Pair inputs by name, then by spec, and bring them to the layout, channels and sizes of the new module.

    An input that the new module writes to and the old one did not is copied first, so that the caller's tensor stays.

    Args:
        source: Signature of the new module.
        target: Signature of the old module, whose inputs are given.
        convert: The conversions that are allowed.
        fit: How sizes are made legal; None pads for modules that read images at their own size, if the old module's
            outputs have centres, and else resizes.

    Raises:
        MatchError: An input of the new module has no counterpart, or one that cannot or may not be made to fit.
    """
    _check_conversions(convert)
    routes, faults = list[InputRoute](), list[Mismatch]()
    wanted = dict(target.inputs.items())
    for path, spec in source.inputs.items():
        taken = [route.target for route in routes]
        left = {p: s for p, s in wanted.items() if p not in taken}
        chosen = _paired_input(path, spec, left, masks=bool(source.masks))
        if isinstance(chosen, Mismatch):
            faults.append(chosen)
            continue
        masked = as_mask(path, chosen, source, target)
        steps: tuple[Operation, ...] | Mismatch = ()
        if isinstance(masked, Mismatch):
            faults.append(masked)
            continue
        if not any(isinstance(step, Remask) for step in masked):
            steps = _fitted(path, spec, wanted[chosen], source, target, changes_values="statistics" in convert, fit=fit)
        if isinstance(steps, Mismatch):
            faults.append(steps)
            continue
        forbidden = dict.fromkeys(step.converts for step in steps if step.converts and step.converts not in convert)
        faults += [_not_allowed(path, chosen, source, target, kind) for kind in forbidden]
        steps = (*steps, *masked)
        if path in source.written and chosen not in target.written:
            steps = (*steps, Copy())
        routes.append(InputRoute(source=path, target=chosen, steps=steps))
    if faults:
        raise MatchError(f"{source.name} cannot be called with the old module's inputs", faults)
    return tuple(routes)


def _check_conversions(convert: Collection[Conversion]) -> None:
    unknown = [kind for kind in convert if kind not in CONVERSIONS]
    if isinstance(convert, str) or unknown:
        fault = Mismatch(
            "convert_inputs", f"some of {', '.join(CONVERSIONS)}", repr(convert), 'convert_inputs=("layout", "size")'
        )
        raise MatchError("there is no such conversion of inputs", [fault])


def check_fit(fit: object) -> None:
    """Refuse unknown values of `fit`.

    Raises:
        MatchError: It is one.
    """
    if fit not in ("pad", "resize", None):
        fault = Mismatch("fit", "'pad' or 'resize'", repr(fit), 'fit="resize"')
        raise MatchError("there is no such fit", [fault])


def _not_allowed(path: str, given: str, source: Signature, target: Signature, kind: Conversion) -> Mismatch:
    return Mismatch(
        f"inputs.{path}",
        f"{_with_sizes(target.inputs[given], target)}, as the old module takes it",
        f"{_with_sizes(source.inputs[path], source)}, and convert_inputs leaves {kind} out",
        f'convert_inputs=("{kind}", ...)  # or build the new module for these inputs',
    )


def _with_sizes(spec: TensorSpec, signature: Signature) -> str:
    """A spec as text, with its legal sizes where not all are."""
    shown = []
    for name in (str(dim) for dim in spec.dims[1:] if dim.axes):
        sizes = signature.axes.get(name)
        if sizes is not None and sizes.step != 1:
            shown.append(f"{name} {sizes}")
        elif (least := _least(name, signature)) > 1:
            shown.append(f"{name} from {least} on")
    return f"{spec} with {', '.join(shown)}" if shown else str(spec)


def _fitted(
    path: str,
    spec: TensorSpec,
    given: TensorSpec,
    source: Signature,
    target: Signature,
    *,
    changes_values: bool,
    fit: Fit | None = None,
) -> tuple[Operation, ...] | Mismatch:
    """The operations from a given input to one that the new module takes.

    Channels and sizes are changed with channels on axis 1; inputs with channels last are permuted for that.
    """
    if (other := _other_dtype(path, spec, given)) is not None:
        return other
    ranked = of_rank(spec, given)
    frames = frames_of(given) if ranked else -1
    given = specs_along(given, ranked)[-1]
    order = _positions(spec.dims, [Dim.axis("T") if axis == frames else dim for axis, dim in enumerate(given.dims)])
    dims = tuple(given.dims[i] for i in order)
    channel = _channel_axis(spec.dims)
    image = image_of(source.inputs)
    values = renormalized(source, target) if changes_values and image is not None and image[0] == path else ()
    have, want = (one[channel].constant if len(one) in (4, 5) else None for one in (dims, spec.dims))
    is_stack = have is not None and want is not None
    channels = matched_channels(source, target, have or 0, want or 0, values) if is_stack else ()
    pads = _pads(source, target, fit)
    is_sound = len(dims) == 3 and ((channel == 1 and order == (0, 1, 2)) or _lists_frames(spec, source, given, target))
    grows = given.is_floating and (is_sound or len(dims) in (4, 5))
    reached = tuple(
        have if axis == channel and channels else _legal(dim, have, source, target, pads=pads, grows=grows)
        for axis, (dim, have) in enumerate(zip(spec.dims, dims, strict=True))
    )
    changed = [axis for axis, (made, have) in enumerate(zip(reached, dims, strict=True)) if made != have]
    if changed and not (grows and not {0, channel} & set(changed)):
        return _only(path, changed[0], dims[changed[0]], source.axes.get(str(spec.dims[changed[0]])), spec)
    native = _native(path, source)
    if not (channels or changed or values):
        return (*native, *ranked, *_turned(given.dims, order))
    first = (0, channel, *(axis for axis in range(1, len(dims)) if axis != channel))
    sides = first[2:]
    resized = _resized([reached[axis] for axis in sides], [dims[axis] for axis in sides], source, target, fit)
    if isinstance(resized, Mismatch):
        return resized
    work = (*_turned(given.dims, [order[axis] for axis in first]), *values, *channels, *resized)
    dims = specs_along(given, work)[-1].dims
    return (*native, *ranked, *work, *_turned(dims, [first.index(axis) for axis in range(len(first))]))


def _lists_frames(spec: TensorSpec, source: Signature, given: TensorSpec, target: Signature) -> bool:
    """Whether an axis of `[B, N, C]` lists samples of something steady, as steps along it tell: words have none."""
    made = (*source.outputs.leaves, *(inner.spec for inner in source.inner))
    return _has_steps(spec, made) or _has_steps(given, target.outputs.leaves)


def _has_steps(given: TensorSpec, made: Iterable[TensorSpec]) -> bool:
    """Whether something lists fewer or more along an axis that is given, such as every other."""
    axes = {axis for dim in given.dims[1:] for axis in dim.axes}
    dims = {dim for spec in made for dim in spec.dims if len(dim.axes) == 1 and dim.axes <= axes}
    return any(dim.slope(min(dim.axes)) not in (None, 1) for dim in dims)


def _only(path: str, axis: int, wanted: Dim, legal: AxisSizes | None, spec: TensorSpec) -> Mismatch:
    """The mismatch of an axis that takes one size or few, which no operation can change."""
    example = f", such as in_chans={wanted}" if wanted.constant is not None else f", whatever {wanted} is"
    remedy = f"build the new module for these inputs{example}"
    found = f"{spec.dims[axis]} only" if legal is None else f"{spec.dims[axis]} {legal}"
    return Mismatch(f"inputs.{path}, axis {axis}", str(wanted), found, remedy)


def _native(path: str, source: Signature) -> tuple[Native, ...]:
    """The operation `Native`, where the new module reads this image at its own size."""
    image = image_of(source.inputs)
    is_freed = source.native is not None and not source.native.refused and image is not None and image[0] == path
    return (Native(sizes=source.native),) if is_freed and source.native is not None else ()


def _resized(
    reached: Sequence[Dim], given: Sequence[Dim], source: Signature, target: Signature, fit: Fit | None
) -> tuple[Operation, ...] | Mismatch:
    """The operation that makes sizes legal: `Pad` or `Resize`, as `fit` says."""
    if list(reached) == list(given):
        return ()
    if not _pads(source, target, fit) or not any(dim.axes or fit for dim in reached):
        return (Resize(dims=tuple(reached)),)
    sizes = target.sizes()
    for made, have in zip(reached, given, strict=True):
        fault = _unfilled(made, have, sizes)
        if fault is not None:
            return (Resize(dims=tuple(reached)),) if fit is None else fault
    return (Pad(dims=tuple(reached)),)


def _unfilled(made: Dim, have: Dim, sizes: Mapping[str, int]) -> Mismatch | None:
    """The mismatch where padding an axis is wrong, since larger images would be cut or half of it would be zeros."""
    if not made.axes and have.axes:
        found = f"{made} alone, which larger ones would be cut to"
        return Mismatch("fit", "a legal size for images of every size", found, 'fit="resize"')
    size, legal = int(have.evaluate(sizes)), int(made.evaluate(sizes))
    if legal < 2 * size:
        return None
    return Mismatch("fit", f"a legal size near {size} pixels, so that images fill it", f"{legal}", 'fit="resize"')


def _pads(source: Signature, target: Signature, fit: Fit | None) -> bool:
    """Whether images are padded, and not resized."""
    is_freed = source.native is not None and not source.native.refused
    places = any(spec.centres for spec in target.outputs.leaves)  # without centres, levels would include the padding
    return fit == "pad" or (fit is None and is_freed and places)


def _other_dtype(path: str, spec: TensorSpec, given: TensorSpec) -> Mismatch | None:
    """The mismatch of a floating input in another precision than the new module takes; masks are cast instead."""
    if spec.dtype == given.dtype or not given.is_floating or spec.role == given.role == "mask":
        return None
    remedy = f"new.to({given.torch_dtype})  # or the old module and its inputs in {spec.torch_dtype}"
    return Mismatch(f"inputs.{path}", f"{given.dtype}, as the old module takes it", f"{spec.dtype}", remedy)


def _positions(dims: Sequence[Dim], given: Sequence[Dim]) -> tuple[int, ...]:
    """For each axis of the new module's input its index in the given one: by name or size, then in order."""
    left = [str(dim) for dim in dims]
    right = [str(dim) for dim in given]
    found = {axis: right.index(name) for axis, name in enumerate(left) if name in right and left.count(name) == 1}
    rest = iter([axis for axis in range(len(right)) if axis not in found.values()])
    return tuple(found[axis] if axis in found else next(rest) for axis in range(len(left)))


def _channel_axis(dims: Sequence[Dim]) -> int:
    """The axis of channels: the only one of constant size, else the second."""
    fixed = [axis for axis, dim in enumerate(dims) if axis and dim.constant is not None]
    return fixed[0] if len(fixed) == 1 else 1


def _turned(dims: Sequence[Dim], order: Sequence[int]) -> tuple[Rearrange, ...]:
    """A permutation of axes in einops notation; none where the order stays."""
    if list(order) == sorted(order):
        return ()
    channel = _channel_axis(dims)
    cells = iter({2: "n", 3: "n", 4: "hw", 5: "thw"}[len(dims)])
    constants = ["b" if axis == 0 else "c" if axis == channel else next(cells) for axis in range(len(dims))]
    names = [min(dim.axes).lower() if dim.axes else name for dim, name in zip(dims, constants, strict=True)]
    return (Rearrange(pattern=f"{' '.join(names)} -> {' '.join(names[axis] for axis in order)}"),)


def _paired_input(path: str, spec: TensorSpec, options: Mapping[str, TensorSpec], *, masks: bool) -> str | Mismatch:
    """The old module's input for one of the new module's: by name, by role, then by its sizes.

    Args:
        path: The path of the new module's input.
        spec: The spec of that input.
        options: The old module's inputs that are not used yet.
        masks: Whether the masks of the new module are known.
    """
    alike = [other for other, found in options.items() if _same_kind(found, spec)]
    alike = [other for other in alike if len(options[other].dims) == len(spec.dims)] or alike
    named = [other for other in alike if other == path]
    if masks:
        alike = [other for other in alike if (options[other].role == "mask") == (spec.role == "mask")]
    if named or len(alike) == 1:
        return (named or alike)[0]
    exact = [other for other in alike if _constants(options[other]) == _constants(spec)]
    if len(exact) == 1:
        return exact[0]
    offered = "; ".join(f"{other} {found}" for other, found in options.items()) or "no input left"
    found = f"equally good: {', '.join(alike)}" if alike else offered
    return Mismatch(f"inputs.{path}", str(spec), found, "wrap the new module so that it takes the old one's arguments")


def _same_kind(left: TensorSpec, right: TensorSpec) -> bool:
    both_hide = left.role == right.role == "mask"
    alike = len(left.dims) == len(right.dims) or (left.is_floating and is_image_or_clip(left, right))
    return both_hide or (left.is_floating == right.is_floating and alike)


def _constants(spec: TensorSpec) -> tuple[int | None, ...]:
    return tuple(dim.constant for dim in spec.dims)


def _legal(dim: Dim, given: Dim, source: Signature, target: Signature, *, pads: bool, grows: bool) -> Dim:
    """The size to which to bring a given axis, so that the new module takes it.

    Axes that cannot grow, as of tokens and waveforms, stay short; the new module raises where they are too short.
    """
    if dim.constant is not None:
        return dim
    sizes, allowed = source.axes.get(str(dim)), target.axes.get(str(given))
    if sizes is None:
        return given
    if "B" in given.axes:
        return given
    if given.constant == 1 and str(dim) == "T" and sizes.step:  # one frame, repeated as few times as possible
        least = _least("T", source)
        return Dim(least + (sizes.offset - least) % sizes.step)
    if given.constant is not None:
        return given if given.constant in sizes else Dim(sizes.near(given.constant))
    if sizes.step == 0:
        return given if allowed is not None and sizes.covers(allowed) else Dim(sizes.example)
    least = _least(str(dim), source)
    refuses = sizes.bounded and sizes.smallest > least  # sizes at which every tensor has cells
    least = sizes.smallest if refuses else least
    least += (sizes.offset - least) % sizes.step
    if allowed is not None and sizes.covers(allowed):
        reached, smallest = given, _smallest(str(given), target)
    else:
        cells = (given - sizes.offset) // sizes.step if _rounds_down(given, sizes, target, pads=pads) else None
        reached = (cells or (given - sizes.offset).ceildiv(sizes.step)) * sizes.step + sizes.offset
        smallest = sizes.offset or sizes.step
    refuses = refuses and allowed is not None and allowed.smallest < least
    return reached.at_least(least) if grows and (least > smallest or refuses) else reached


def too_short(source: Signature, target: Signature, routes: Sequence[InputRoute]) -> dict[str, tuple[int, int]]:
    """Axes along which the old module takes shorter inputs than the new one, and these cannot be made longer.

    Returns:
        For each such axis of the old module the smallest size of the old module and of the new one, which raises below.
    """
    found: dict[str, tuple[int, int]] = {}
    for route in routes:
        if any(isinstance(step, (Resize, Pad, Rearrange, Remask)) for step in route.steps):
            continue
        for have, given in zip(source.inputs[route.source].dims, target.inputs[route.target].dims, strict=True):
            if str(have) in source.axes and str(given) in target.axes and str(given)[0] != "B":
                least, smallest = _least(str(have), source), _smallest(str(given), target)
                if least > smallest:
                    found[str(given)] = smallest, least
    return found


def _rounds_down(given: Dim, legal: AxisSizes, target: Signature, *, pads: bool) -> bool:
    """Whether each output of the old module has the same dims at any size as at the next smaller legal one.

    The levels of the smaller size then have the wanted cells. `Pad` would cut an image to that size, so no old cell may
    read beyond it.
    """
    sizes, axis = target.sizes(), next(iter(given.axes))
    dims = {dim for spec in target.outputs.leaves for dim in spec.dims if axis in dim.axes}
    start = legal.offset + legal.step
    rounds = bool(dims) and all(
        dim.evaluate(sizes | {axis: size}) == dim.evaluate(sizes | {axis: size - (size - legal.offset) % legal.step})
        for dim in dims
        for size in range(start, start + 4 * legal.step)
    )
    return rounds and not (pads and any(_looks_beyond(dim, axis, start) for dim in dims if len(dim.axes) == 1))


def _looks_beyond(dim: Dim, axis: str, size: int) -> bool:
    """Whether the cells of an axis cover more than the image, as those of padded convolutions do."""
    more = 1024 * size
    cells = dim.evaluate({axis: size})
    return bool(cells * more > size * (dim.evaluate({axis: size + more}) - cells))


def _smallest(axis: str, target: Signature) -> int:
    """The smallest size that the old module is known to take; of images the smaller of both sides.

    Where none was seen to run, as for contracts in texts, it is the example's.
    """
    sides = [target.axes[side] for side in (("H", "W") if axis in ("H", "W") else (axis,)) if side in target.axes]
    return min(sizes.near(1) if sizes.smallest > 1 else sizes.example for sizes in sides)


def _least(axis: str, source: Signature) -> int:
    """The smallest size of an input axis at which every tensor of the new module has cells; at most the example's."""
    sizes = source.sizes()
    if axis not in sizes:
        return 1
    dims = {dim for spec in (*source.outputs.leaves, *(o.spec for o in source.inner)) for dim in spec.dims}
    return max((smallest_size(d, 1, axis, sizes, below=sizes[axis]) for d in dims if axis in d.axes), default=1)
