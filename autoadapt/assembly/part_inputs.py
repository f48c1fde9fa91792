"""Part inputs: which tensors each part is given, and what the numbers of its constructor are."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from autoadapt.assembly.assembly_sessions import Argument, Session, Taken
from autoadapt.assembly.configs import PartConfig
from autoadapt.assembly.constructor_arguments import inferred_names, wanted_strides
from autoadapt.assembly.levels import Level, channels_of, distinct
from autoadapt.assembly.producers import Producer
from autoadapt.assembly.references import Reference
from autoadapt.assembly.registry import Part, Takes
from autoadapt.assembly.results import changed
from autoadapt.contracts.signature import TensorSpec

_SEVERAL = ("list", "tuple", "dict")


def give(
    session: Session, name: str, part: Part, config: PartConfig, references: Sequence[Reference]
) -> list[Argument]:
    """What every argument of a part's `forward` is given; faults are noted."""
    is_loss = name.partition(".")[0] == "loss"
    takes = part.takes[:-1] if is_loss and len(part.takes) > 1 else part.takes
    if len(references) == 1 and not references[0].level:
        return [_from_all(session, name, takes[0], session.producers[references[0].producer], part, config)]
    found = [_level(session, name, reference) for reference in references]
    taken = [each for each in found if each is not None]
    if len(takes) == 1 and takes[0] in _SEVERAL:
        return [Argument(taken, takes[0])]
    if takes != ("any",) and len(takes) != len(references):
        where = session.where(name, "from")
        remedy = f"from: {references[0]}" if len(takes) == 1 else f"name {len(takes)} levels"
        session.fault(where, f"{len(takes)} to take, as the forward of {part.name} does", str(len(references)), remedy)
    return [Argument([each]) for each in taken]


def _from_all(
    session: Session, name: str, takes: Takes, producer: Producer, part: Part, config: PartConfig
) -> Argument:
    """What a part gets that names another as a whole: all as it is, one level, or all levels in a container."""
    levels = producer.levels
    if takes == "any":
        return Argument([Taken(producer, level, level.spec) for level in levels if not level.is_tap], whole=producer)
    if takes == "one":
        return _one(session, name, producer)
    own = _named_levels(session, part, config, producer)
    if own:
        return Argument([Taken(producer, level, level.natural) for level in own], takes)
    strides = wanted_strides(part, config.arguments) if producer.name == "backbone" else ()
    made: list[Level | None] = [*producer.in_order(strides)] or [producer.at_stride(stride) for stride in strides]
    direct = sorted((level for level in levels if level.stride and not level.is_tap), key=lambda each: each.stride or 0)
    chosen = [level for level in made if level is not None] or direct or distinct(levels) or levels
    return Argument([Taken(producer, level, level.natural) for level in chosen], takes)


def _named_levels(session: Session, part: Part, config: PartConfig, producer: Producer) -> list[Level]:
    """The levels of a backbone that the config itself counts, for a part that by default asks for another number.

    None where the config says the strides, or the default asks for as many, which then are held for any backbone.
    """
    wanted = wanted_strides(part, config.arguments)
    if producer.name != "backbone" or not wanted or "strides" in config.arguments:
        return []
    levels = [level for level in producer.levels if level.stride and not level.is_tap]
    typed, named = config.arguments.get("in_channels"), session.config.backbone[0].arguments.get("out_indices")
    said = typed if isinstance(typed, Sequence) else named if isinstance(named, Sequence) and len(named) > 1 else ()
    is_another = len(said) == len(levels) == len(distinct(levels)) != len(wanted)
    return levels if is_another else []


def _one(session: Session, name: str, producer: Producer) -> Argument:
    levels = producer.levels
    if name.partition(".")[0] == "loss" and len(levels) > 1:
        options = ", ".join(level.path for level in levels)
        remedy = "\n".join(f"from: {producer.name}.{level.path}" for level in levels[:3])
        session.fault(session.where(name, "from"), "one tensor", f"{producer.name} gives several: {options}", remedy)
        return Argument([])
    level = producer.default()
    return Argument([Taken(producer, level, level.natural)] if level else [])


def _level(session: Session, name: str, reference: Reference) -> Taken | None:
    producer = session.producers[reference.producer]
    level = producer.find(reference.level) if reference.level else producer.default()
    if level is None:
        session.faults.append(producer.unknown(reference.level, session.where(name, "from")))
        return None
    return Taken(producer, level, level.natural)


def infer_channels(
    session: Session, name: str, part: Part, arguments: dict[str, Any], given: Sequence[Argument]
) -> None:
    """Fill in the channels that were left out, and strides of another count; adapt or refuse typed ones that differ.

    Args:
        session: What is known.
        name: The part.
        part: What it is.
        arguments: Those of its constructor; filled in.
        given: What it is given; what is to be projected is changed.
    """
    taken = [each for argument in given for each in argument.taken]
    wanted, takes_several = wanted_strides(part, arguments), any(each.container in _SEVERAL for each in given)
    if "strides" not in arguments and takes_several and wanted and len(taken) not in (0, len(wanted)):
        arguments["strides"] = [int(each.level.stride) for each in taken if each.level.stride]
    for parameter in inferred_names(part):
        match arguments.get(parameter):
            case None:
                _fill(session, name, part, parameter, arguments, taken)
            case int(channels):
                _project(session, name, parameter, [channels] * len(taken), taken)
            case list(channels) | tuple(channels) if len(channels) == len(taken):
                _project(session, name, parameter, channels, taken)
            case other:
                remedy = f"{parameter}: {[channels_of(each.spec) for each in taken]}"
                session.fault(session.where(name, parameter), f"{len(taken)} values", repr(other), remedy)


def _fill(
    session: Session, name: str, part: Part, parameter: str, arguments: dict[str, Any], taken: Sequence[Taken]
) -> None:
    found = [channels_of(each.spec) for each in taken]
    where = session.where(name, parameter)
    if not found or None in found:
        specs = ", ".join(str(each.spec) for each in taken) or "nothing"
        session.fault(where, "an input with channels", specs, f"{parameter}: 256")
    elif _is_many(part, parameter):
        arguments[parameter] = found
    elif len(set(found)) == 1:
        arguments[parameter] = found[0]
    else:
        said = ", ".join(f"{each.level.name} {channels_of(each.spec)}" for each in taken)
        remedy = "\n".join(f"from: {each.source}" for each in reversed(taken))
        session.fault(where, "one number of channels", said, remedy)


def _is_many(part: Part, parameter: str) -> bool:
    """Whether a parameter for channels takes one number for each level."""
    text = str(part.parameters[parameter].annotation).lower()
    return parameter.endswith("_list") or any(word in text for word in ("list", "sequence", "tuple"))


def _project(session: Session, name: str, parameter: str, wanted: Sequence[int], taken: Sequence[Taken]) -> None:
    for each, channels in zip(taken, wanted, strict=True):
        found = channels_of(each.spec)
        if found is None or found == channels:
            continue
        if session.config.adapt.enabled:
            each.spec = _with_channels(each.spec, found, channels)
            said = f"`{name}` asks for {channels} channels, {each.source} has {found}"
            session.remarks.append(f"{said}: an adapter projects")
        else:
            where = session.where(name, parameter)
            remedy = f"{parameter}: {found}  # or leave it out, or leave `adapt: false` out"
            session.fault(where, f"{found}, as {each.source} has", str(channels), remedy)


def _with_channels(spec: TensorSpec, found: int, channels: int) -> TensorSpec:
    axis = next(i for i, dim in enumerate(spec.dims) if dim.constant == found)
    dims = (*spec.dims[:axis], spec.dims[axis] - found + channels, *spec.dims[axis + 1 :])
    return spec.with_dims(dims).model_copy(update={"same_as": ""})


def hold_expected(session: Session, name: str, config: PartConfig, given: Sequence[Argument]) -> None:
    """Hold what a config pins under `expects`; adapt or refuse what differs.

    Args:
        session: What is known.
        name: The part.
        config: What the config says of it.
        given: What it is given; what is to be adapted is changed.
    """
    taken = [each for argument in given for each in argument.taken]
    where = session.where(name, "expects")
    if config.expects and len(config.expects) != len(taken):
        remedy = f"expects: {[str(each.spec) for each in taken]}"
        session.fault(where, f"{len(taken)} tensor specs", str(len(config.expects)), remedy)
        return
    for each, text in zip(taken, config.expects, strict=False):
        expected = TensorSpec.parse(text)
        pinned, found = each.given(expected, session.sizes), each.given(each.spec, session.sizes)
        fault = changed(f"`{name}` ({each.source})", pinned, found)
        can_adapt = each.producer.name == "backbone" or pinned.stride == found.stride
        if fault is not None and session.config.adapt.enabled and can_adapt:
            why = f"; {fault.why}" if fault.why else ""
            session.remarks.append(f"{fault.where} expects {fault.expected}, there is {fault.found}: adapted{why}")
        elif fault is not None:
            session.fault(where, fault.expected, fault.found, fault.remedy, fault.why)
        each.spec = expected
