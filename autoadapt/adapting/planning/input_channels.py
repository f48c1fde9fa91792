"""Input channels: which channel of the old module's image takes the place of which channel of the new one's."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias

from autoadapt.adapting.operations import FEATURE_CHANNELS, Channels, Operation, Renormalize
from autoadapt.adapting.planning.plans import Plan
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import InnerOutput, Signature, Statistics, channel_names, image_of
from autoadapt.errors import Mismatch, PlanError, SignatureError

ToldChannels: TypeAlias = Sequence[str] | Mapping[Literal["old", "new"], Sequence[str]]
"""The names of the channels of the old module's image; or of each module's, by `old` and `new`."""

_KNOWN = ("r", "g", "b", "nir")
_REMEDY = "channels=('b', 'g', 'r', 'nir')  # or {'old': ..., 'new': ...}"


def with_channels_told(source: Signature, target: Signature, told: ToldChannels | None) -> tuple[Signature, Signature]:
    """Both signatures with the names of their images' channels.

    Args:
        source: Signature of the new module.
        target: Signature of the old module.
        told: The caller's names; by default those in the signatures. Without names for a module, 3 channels are colours
            in the order of its statistics (RGB without any), and 1 channel is grey.

    Raises:
        PlanError: Names are unknown, too many or too few, cannot be paired, or contradict the order of colours of the
            statistics.
    """
    known = {name: one.channels for name, one in (("old", target), ("new", source)) if one.channels}
    if told is None and not known:
        return source, target
    by_side: Mapping[Any, object] = told if isinstance(told, Mapping) else known if told is None else {"old": told}
    if not by_side or not set(by_side) <= {"old", "new"}:
        fault = Mismatch("channels", "a sequence of names, or a mapping of old and new to them", repr(told), _REMEDY)
        raise PlanError("these are no names of channels", [fault])
    image = target if target.inputs.leaves else source  # a contract may have no inputs
    given = _named(target, by_side.get("old"), image, "old")
    wanted = _named(source, by_side.get("new"), source, "new")
    faults = [*_contradicted(target, given), *_contradicted(source, wanted), *_unpaired(given, wanted)]
    if faults:
        raise PlanError("the names of the channels cannot be right", faults)
    return with_told(source, channels=wanted), with_told(target, channels=given)


def with_told(signature: Signature, **told: object) -> Signature:
    """A signature with other fields about its image, in its trunk as well."""
    trunk = signature.trunk
    inner = None if trunk is None else trunk.model_copy(update=told)
    return signature.model_copy(update={**told, "trunk": inner})


def _named(signature: Signature, told: object, image: Signature, side: str) -> tuple[str, ...]:
    """The names of a module's channels: the caller's, or those of grey and colour images."""
    found, where = image_of(image.inputs), f"{signature.name}, channels"
    if found is None:
        inputs = ", ".join(f"{path} {spec}" for path, spec in image.inputs.items()) or "no inputs"
        raise PlanError(
            f"{signature.name} does not take one image", [Mismatch(where, "one image", inputs, "leave channels out")]
        )
    if told is None:
        return _usual(signature, found[1], where, side)
    try:
        names = channel_names(told, where)
    except SignatureError as error:
        raise PlanError(error.summary, error.mismatches) from error
    if len(names) != found[1]:
        known = [*dict.fromkeys([*names, *_KNOWN])][: found[1]]
        remedy = f"channels={tuple(known + ['other'] * (found[1] - len(known)))}"
        fault = Mismatch(where, f"{found[1]} names", f"{len(names)} ({', '.join(names)})", remedy)
        raise PlanError(f"{len(names)} names of channels do not fit an image of {found[1]}", [fault])
    return names


def _usual(signature: Signature, count: int, where: str, side: str) -> tuple[str, ...]:
    if count == 3:
        return tuple(signature.statistics.order if signature.statistics is not None else "rgb")
    if count == 1:
        return ("grey",)
    fault = Mismatch(where, f"what is in its {count} channels", "nobody tells", f"channels={{'{side}': (...), ...}}")
    raise PlanError(f"what {signature.name} reads in its {count} channels is not known", [fault])


def _contradicted(signature: Signature, names: Sequence[str]) -> list[Mismatch]:
    """The mismatch where three colours are in another order than the numbers of the statistics."""
    told = signature.statistics
    if told is None or sorted(names) != ["b", "g", "r"] or "".join(names) == told.order:
        return []
    order = "".join(names) if names[1] == "g" else "rgb"
    remedy = f"input_statistics=aa.Statistics(mean=..., std=..., order={order!r})  # numbers in the order of channels"
    return [Mismatch(f"{signature.name}, channels", f"{told.order}, as its statistics", ", ".join(names), remedy)]


def _unpaired(given: Sequence[str], wanted: Sequence[str]) -> list[Mismatch]:
    """Mismatches for names that the new module has several times and the old one not as often."""
    return [
        Mismatch(f"channels, {name!r}", f"{wanted.count(name)} times, as in the new module", f"{given.count(name)}", "")
        for name in dict.fromkeys(wanted)
        if name not in ("other", "grey") and wanted.count(name) > 1 and 0 < given.count(name) != wanted.count(name)
    ]


def expected_of(source: Signature, target: Signature) -> Statistics | None:
    """The new module's statistics for each given channel, where these are other channels than its own; else None.

    A channel without a counterpart gets the mean of all, as its weights do.
    """
    given, wanted, met = target.statistics, source.statistics, _met(source, target)
    if given is None or wanted is None or met is None:
        return None
    told = wanted.of(image_channels(source) or 3)
    mean, std = ([one[at] if at >= 0 else sum(one) / len(one) for at in met] for one in told)
    return wanted.model_copy(update={"mean": tuple(mean), "std": tuple(std), "order": given.order})


def _met(source: Signature, target: Signature) -> Sequence[int] | None:
    """`Channels.met` for both images, by name or by number; None where the order of the statistics is enough."""
    have, want = image_channels(target), image_channels(source)
    if have is None or want is None or sorted(target.channels) == sorted(source.channels) == ["b", "g", "r"]:
        return None
    if (len(target.channels), len(source.channels)) == (have, want):
        return Channels(source=have, target=want, stem="", given=target.channels, wanted=source.channels).met
    orders = {one.order for one in (source.statistics, target.statistics) if one is not None}
    is_guessed = have != want and max(have, want) < FEATURE_CHANNELS and len(orders) == 1
    return Channels(source=have, target=want, stem="").met if is_guessed else None


def image_channels(signature: Signature) -> int | None:
    """The number of channels of the one image among the inputs; None where there is none, or several."""
    image = image_of(signature.inputs)
    return None if image is None else image[1]


def matched_channels(
    source: Signature, target: Signature, have: int, want: int, values: Sequence[Renormalize]
) -> tuple[Channels, ...]:
    """The operation `Channels`, where an image has other channels than the new module reads, or in another order.

    Args:
        source: Signature of the new module.
        target: Signature of the old module.
        have: The number of given channels.
        want: The number of channels that the new module reads.
        values: The conversion of the image's statistics before.
    """
    given, wanted = target.channels, source.channels
    if (len(given), len(wanted)) != (have, want):
        given = wanted = ()
    given = given[::-1] if any(step.given.order != step.wanted.order for step in values) else given
    stem = _stem(source.inner) if have != want else ""  # a checkpoint would undo weights that are only reordered
    if (have == want and given == wanted) or not (stem or max(have, want) < FEATURE_CHANNELS):
        return ()
    return (Channels(source=have, target=want, stem=stem, given=given, wanted=wanted),)


def _stem(inner: Sequence[InnerOutput]) -> str:
    """The path of the first layer to run, where inner outputs are known; else empty."""
    layers = [one for one in inner if one.layers == 1 and not one.parent]
    first = min(layers, key=lambda one: one.started, default=None)
    return first.module if first is not None else ""


def source_as_built(plan: Plan) -> Signature:
    """The signature of the new module once its first convolution reads the given channels."""
    inputs = dict(plan.source.inputs.items())
    for route in plan.inputs:
        for step in route.steps:
            if isinstance(step, Channels) and step.stem:
                dims = list(inputs[route.source].dims)
                at = [axis for axis, dim in enumerate(dims) if axis and dim == step.target]
                dims[at[0] if at else 1] = Dim(step.source)
                inputs[route.source] = inputs[route.source].with_dims(dims)
    values = plan.source.inputs.model_copy(update={"leaves": tuple(inputs.values())})
    return plan.source.model_copy(update={"inputs": values})


def channel_remarks(source: Signature, steps: Sequence[Operation]) -> tuple[str, ...]:
    """Remarks on how channels without names were paired, where there was a choice."""
    return tuple(
        f"what is in the {step.source} channels of the image is not told, {source.name} reads {step.target}: "
        f"{_guessed(step)}; channels=(...) tells"
        for step in steps
        if isinstance(step, Channels) and not step.given and _has_choice(step)
    )


def _has_choice(step: Channels) -> bool:
    return 1 not in (step.source, step.target) and step.source < FEATURE_CHANNELS


def _guessed(step: Channels) -> str:
    met = [at for at in step.met if at >= 0]
    if not met:
        return "all start from the mean of these"
    if len(met) < step.source:
        return f"the first {len(met)} are taken for these in order, the others start from their mean"
    return "they are taken for these in order" + (", over and over" if step.source > step.target else "")
