"""Remarks: sentences in a plan about the inputs and the values of both modules."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from autoadapt.adapting.planning.plans import InputRoute, Route
from autoadapt.contracts.signature import NativeSizes, Signature, TensorSpec
from autoadapt.showing.tables import human_count


def input_remarks(
    source: Signature, target: Signature, routes: Sequence[InputRoute], masks: Collection[str]
) -> tuple[str, ...]:
    """Remarks on inputs that are not read, or whose layout is not known.

    Args:
        source: Signature of the new module.
        target: Signature of the old module.
        routes: The routes of the inputs.
        masks: The inputs that operations read as masks.
    """
    return *_unread(source, target, routes, masks), *_untold_layouts(source, target, routes)


def size_remarks(source: Signature, target: Signature, short: Mapping[str, tuple[int, int]]) -> list[str]:
    """Remarks on axes along which the new module takes no inputs as short or as long as the old one."""
    return [
        f"{source.name} takes {axis} from {least} on and raises below, {target.name} from {smallest} on"
        for axis, (smallest, least) in short.items()
    ] + [
        f"{source.name} takes {axis} up to {largest} and raises above, {target.name} {target.axes[axis]}"
        for axis, largest in too_long(source, target).items()
    ]


def too_long(source: Signature, target: Signature) -> dict[str, int]:
    """Axes along which the old module takes longer inputs than the new one, with the new one's largest size."""
    longer = {axis: sizes for axis, sizes in target.axes.items() if sizes.step and axis in source.axes}
    most = {axis: source.axes[axis].largest for axis in longer}
    return {
        axis: largest
        for axis, largest in most.items()
        if largest is not None and (longer[axis].largest or largest + 1) > largest
    }


def value_remarks(source: Signature, target: Signature) -> list[str]:
    """Remarks on NaN or infinity, on random outputs in eval mode, and on causal attention in one of both modules."""
    found, drawn = ", ".join(source.not_finite), ", ".join(source.drawn)
    said = [f"{source.name} returned NaN or infinity for the example ({found}), as the adapted one will"] * bool(found)
    said += [f"{source.name} is not deterministic: {_DRAWN} ({drawn}), as in the adapted one"] * bool(drawn)
    drawn = ", ".join(target.drawn)
    if None not in (source.looks_ahead, target.looks_ahead) and source.looks_ahead != target.looks_ahead:
        said.append(_AHEAD if source.looks_ahead else _BACK)
    return said + [f"{target.name} is not deterministic: {_DRAWN} ({drawn})"] * bool(drawn)


def depth_remarks(target: Signature, made: Sequence[Route]) -> list[str]:
    """A remark on states of transformers that are read behind another share of the blocks than the old ones were."""
    shares = [(one.target, one.specs[0].share, target.outputs[one.target].share) for one in made if not one.same_as]
    moved = [
        f"{path} {new:.0%} ({old:.0%})"
        for path, new, old in shares
        if new is not None and old is not None and abs(new - old) >= _SEEN
    ]
    told = "share of the blocks before what is read, for the old one in brackets: "
    return [told + ", ".join(moved).replace("%", " %")] if moved else []


_SEEN = 0.005
"""The least difference of shares that percents show."""

_AHEAD = (
    "tokens of the new module depend on those behind them, those of the old one did not: where the next token is to be"
    " told, it is given away"
)
_BACK = (
    "tokens of the new module depend on none behind them, those of the old one did: what is read from the first token"
    " sees no other"
)
_DRAWN = "random numbers that it draws in eval mode make other values in every run"


def _unread(
    source: Signature, target: Signature, routes: Sequence[InputRoute], masks: Collection[str]
) -> tuple[str, ...]:
    """Remarks on inputs of the old module that the new one does not get, such as masks, or gets under another name."""
    read = {route.target for route in routes}
    late = [path for path in target.inputs.paths if path not in read and path in masks]
    lost = [path for path in target.inputs.paths if path not in read and path not in masks]
    spare = {one.name for one in source.parameters if one.default is not None}
    renamed = [route for route in routes if route.source in spare and route.source != route.target]
    hide, hidden = ({mask.argument: mask for mask in one.masks} for one in (source, target))
    said = [f"{source.name} takes {route.target} as its {route.source}" for route in renamed]
    said += [
        f"{source.name} takes {route.source}, and no run showed it hide by that, as {target.name} does by"
        f" {route.target}"
        for route in routes
        if route.target in hidden and route.source not in hide and not source.unconfirmed
    ]
    said += [
        f"what {route.target} hides still has a small effect within {source.name}, and had none in {target.name}"
        for route in routes
        if route.target in hidden and route.source in hide
        if hide[route.source].loose and not hidden[route.target].loose
    ]
    if source.inputs.paths and lost:
        said.append(f"{source.name} takes no {', '.join(lost)}: what is given there changes nothing")
    said += [
        f"{source.name} takes no {path}: it reads what that hides, which is zero or left out after it" for path in late
    ]
    return tuple(said)


def _untold_layouts(source: Signature, target: Signature, routes: Sequence[InputRoute]) -> tuple[str, ...]:
    """Remarks on inputs that may list points or channels first, since both modules take any number of both."""
    pairs = [(route, source.inputs[route.source], target.inputs[route.target]) for route in routes]
    return tuple(
        f"{source.name} and {target.name} take any number of points and of channels, so that nothing tells in which"
        f" order {route.target} lists them: it is given {'turned' if route.steps else 'as it is'}"
        for route, new, old in pairs
        if _any_number_of_channels(new, source) and _any_number_of_channels(old, target)
    )


def _any_number_of_channels(spec: TensorSpec, signature: Signature) -> bool:
    """Whether an input of three axes may have any number of channels, on which no output's size depends."""
    names = {str(dim) for dim in spec.dims if dim.axes}
    channels = {name for name in names if name[0] == "C"}
    followed = {axis for leaf in signature.outputs.leaves for dim in leaf.dims for axis in dim.axes}
    return len(spec.dims) == len(names) == 3 and bool(channels) and not channels & followed


def native_remarks(source: Signature) -> tuple[str, ...]:
    """Remarks on a module that was built for one image size."""
    told = source.native
    if told is None:
        return ()
    own = "x".join(map(str, told.size))
    if told.refused:
        return (f"images are resized to {own}, which {source.name} was built for: {told.refused}",)
    return (_native_cost(told, own), *([f"it reads natively, but {told.untraced}"] if told.untraced else []))


def _native_cost(told: NativeSizes, own: str) -> str:
    at = "x".join(map(str, told.probed))
    if not told.multiply_adds:
        return f"images are read at their own size; resolution='fixed' would resize them to {own}"
    native, fixed = human_count(told.multiply_adds), human_count(told.fixed_multiply_adds)
    return f"{native} multiply-adds at {at}, read natively; resolution='fixed' would resize to {own}: {fixed}"
