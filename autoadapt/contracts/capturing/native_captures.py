"""Native captures: capturing a new module at the sizes of the old one's images, even if it was built for one size."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal, TypeAlias

from torch import nn

from autoadapt.contracts.native import Lift, lift_of, tables_of, unproven
from autoadapt.contracts.native.multiply_adds import multiply_adds_at
from autoadapt.contracts.signature import AxisSizes, NativeSizes, Signature, TensorSpec, image_of
from autoadapt.contracts.views import refuse_scripts, view
from autoadapt.errors import AdaptError, CaptureError, Mismatch

Resolution: TypeAlias = Literal["native", "fixed"]
"""Whether a module that was built for one image size reads images at their own size, or resized to its size."""

_RESOLUTIONS = ("native", "fixed", None)


def capture_native(
    new: nn.Module,
    target: Signature,
    capturing: Callable[[nn.Module], Signature],
    *,
    resolution: Resolution | None = None,
) -> Signature:
    """Capture the new module on the old one's inputs; where it takes one image size, a view that takes others.

    Args:
        new: The module, which is not changed.
        target: Signature of the old module.
        capturing: Captures a module, such as by `capture_source` on the old module's example call.
        resolution: `native` demands that images are read at their own size; `fixed` captures the module as it is; None
            takes a view for other sizes where one is known and returns the same at the module's size, and else notes
            the reason in the signature.

    Raises:
        CaptureError: As by `capturing`; or the module takes one size, `resolution` is `native`, and there is no view.
    """
    _check(resolution)
    refuse_scripts(new)
    lift = lift_of(new) if resolution != "fixed" else None
    lift = None if lift is not None and _is_always(target, lift.size) else lift
    refused = ""
    if lift is not None:
        freed, refused = _freed(new, lift, target, capturing)
        if freed is not None:
            return freed
    found = capturing(new)
    if lift is None and resolution != "fixed" and (lift := _tables(new, found, target)) is not None:
        freed, refused = _freed(new, lift, target, capturing)
        if freed is not None:
            return freed
    if resolution == "native":
        _refuse_one_size(found, target, refused)
    told = NativeSizes(what=lift.what, size=lift.size, refused=refused) if lift is not None and refused else None
    if lift is None and resolution is None:
        told = _left_at_one_size(found, target)
    return found if told is None else found.model_copy(update={"native": told})


def _tables(new: nn.Module, found: Signature, target: Signature) -> Lift | None:
    """The lift of a module of one size that no reader knows, from position tables that are found by running it."""
    own, image = _own_size(found), image_of(found.inputs)
    if len(own) != 2 or image is None or not _takes_one_size(found) or _is_always(target, own):
        return None
    return tables_of(new, (own[0], own[1]), image[1])


def _check(resolution: object) -> None:
    if resolution not in _RESOLUTIONS:
        fault = Mismatch("resolution", "'native' or 'fixed'", repr(resolution), 'resolution="fixed"')
        raise CaptureError("there is no such resolution", [fault])


def _freed(
    new: nn.Module, lift: Lift, target: Signature, capturing: Callable[[nn.Module], Signature]
) -> tuple[Signature | None, str]:
    """The signature of a freed view that returns what the module does at its own size; or None, and why."""
    freed = view(new)
    try:
        lift.apply(freed)
        found = _read_whole(capturing(freed), lift.steps)
        if found.name == type(freed).__name__:  # may be a class of ours
            found = found.model_copy(update={"name": type(new).__name__})
    except (AdaptError, AttributeError) as error:
        return None, f"freed of its size it cannot be captured: {getattr(error, 'summary', error)}"[:200]
    image = image_of(found.inputs)
    if image is None or _takes_one_size(found):
        return None, "freed of its size it takes one size all the same"
    why = unproven(new, freed, lift.size, image[1])
    if why:
        return None, why
    sizes = _legal(found, target, lift.size)
    costs = {size: multiply_adds_at(freed, size, image[1]) for size in {sizes, lift.size}}
    told = NativeSizes(
        what=lift.what,
        size=lift.size,
        probed=sizes,
        multiply_adds=costs[sizes],
        fixed_multiply_adds=costs[lift.size],
        untraced=lift.untraced,
        settings=lift.settings,
    )
    trunk = found.trunk and found.trunk.model_copy(update={"native": told})
    return found.model_copy(update={"native": told, "trunk": trunk}), ""


def _read_whole(found: Signature, steps: Sequence[int]) -> Signature:
    """A signature in which only multiples of `steps` are legal, where the module would cut off the rest of an image."""
    held = {}
    for side, step in zip(_sides(found), steps, strict=False):
        sizes = found.axes.get(str(side))
        if sizes is not None and sizes.step == 1 and step > 1:
            sizes = sizes.model_copy(update={"step": step})
            held[str(side)] = sizes.model_copy(update={"example": sizes.near(sizes.example)})
    trunk = found.trunk and _read_whole(found.trunk, steps)
    return found.model_copy(update={"axes": found.axes | held, "trunk": trunk}) if held else found


def _legal(source: Signature, target: Signature, default: tuple[int, int]) -> tuple[int, int]:
    """Height and width at which the new module reads the image of the old module's example."""
    spec = _image_spec(target)
    if spec is None:
        return default
    given = [int(dim.evaluate(target.sizes())) for dim in spec.dims[-2:]]
    axes = [source.axes.get(str(dim)) for dim in _sides(source)]
    rows, columns = (_near(one, size) if one else size for one, size in zip(axes, given, strict=True))
    return rows, columns


def _near(sizes: AxisSizes, size: int) -> int:
    """The next legal size, also one below the smallest that was seen to run, unless smaller ones are refused."""
    return sizes.near(size) if sizes.bounded or not sizes.step else size + (sizes.offset - size) % sizes.step


def _sides(signature: Signature) -> Sequence[object]:
    spec = _image_spec(signature)
    return spec.dims[-2:] if spec is not None else ()


def _image_spec(signature: Signature) -> TensorSpec | None:
    image = image_of(signature.inputs)
    return signature.inputs[image[0]] if image is not None else None


def _is_always(target: Signature, size: Sequence[int]) -> bool:
    """Whether the old module's images always have the size that the new one was built for."""
    spec = _image_spec(target)
    if not target.inputs.leaves:  # a contract in texts is for all sizes if its dims depend on H or W
        return not {"H", "W"} & {axis for one in target.outputs.leaves for dim in one.dims for axis in dim.axes}
    if spec is None or len(spec.dims) != 4:
        return True  # nothing is known of its images
    only = {name: axis.example for name, axis in target.axes.items() if axis.step == 0}
    return all(side in (dim.constant, only.get(str(dim))) for dim, side in zip(spec.dims[-2:], size, strict=True))


def _takes_one_size(signature: Signature) -> bool:
    """Whether the one image among the inputs may have one size only."""
    steps = [signature.axes[str(dim)].step for dim in _sides(signature) if str(dim) in signature.axes]
    return bool(_sides(signature)) and not any(steps)


def _own_size(found: Signature) -> tuple[int, ...]:
    """Height and width of the one image among the inputs, at the example."""
    sides = [str(dim) for dim in _sides(found)]
    return tuple(found.axes[side].example if side in found.axes else found.sizes().get(side, 0) for side in sides)


def _left_at_one_size(found: Signature, target: Signature) -> NativeSizes | None:
    """The note that images are resized, for a module of one size where the old module takes others; else None."""
    own = _own_size(found)
    if len(own) != 2 or not _takes_one_size(found) or _is_always(target, own):
        return None
    return NativeSizes(what="", size=(own[0], own[1]), refused="nothing that is known frees it")


def _refuse_one_size(found: Signature, target: Signature, refused: str) -> None:
    """Refuse a module of one size where native sizes are demanded, unless the old module's images have that size."""
    own = _own_size(found)
    if not _takes_one_size(found) or _is_always(target, own):
        return
    shown = "x".join(map(str, own)) or "one size"
    fault = Mismatch(
        f"{found.name}, resolution",
        "a module that takes images of other sizes, or is known how to be freed of its own",
        f"{shown} only" + (f", and {refused}" if refused else ", and nothing that is known frees it"),
        'resolution="fixed"  # images are resized to its size',
    )
    raise CaptureError(f"{found.name} cannot read images at their own size", [fault])
