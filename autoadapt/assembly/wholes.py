"""Wholes: detectors, segmentors and other models of mmengine's registries, made by their own config.

The class of the registry makes the parts itself. A backbone that the registry has is made there as well; any other is
made here, adapted to what the parts behind it ask for, and lent to the whole in its place.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import nn

from autoadapt.adapting.building import built
from autoadapt.adapting.planning import Plan, plan
from autoadapt.assembly.assembly_sessions import Session, Taken, said_by
from autoadapt.assembly.levels import Level, channels_of, distinct
from autoadapt.assembly.mmengine import is_model, lent, start_registered, within_scope
from autoadapt.assembly.nested_types import refused_types
from autoadapt.assembly.producers import Producer, with_even_cells
from autoadapt.assembly.python_expressions import Keys
from autoadapt.assembly.registry import Part
from autoadapt.contracts.signature import Signature, TensorSpec
from autoadapt.sources.size_limits import CONFIG_LIMITS, made_within


def build_whole(session: Session, part: Part, backbone: Mapping[str, Any] | nn.Module) -> nn.Module | None:
    """Make a model of a registry; none where a fault was noted.

    Args:
        session: What is known.
        part: What the model is.
        backbone: Its config, where the registry has it, or the backbone itself.
    """
    config = session.config.whole
    assert config is not None, "asked for where there is one"
    if not isinstance(backbone, nn.Module):
        return _made(session, part, {**config.arguments, "backbone": backbone})
    with lent(backbone) as described:
        made = _made(session, part, {**config.arguments, "backbone": described})
    if made is not None and dict(made.named_children()).get("backbone") is not backbone:
        where = session.document.where(("backbone",))
        session.fault(where, f"a {part.name} with a `backbone`", "it has made something else", "swap() in the model")
        return None
    return made


def _made(session: Session, part: Part, arguments: Mapping[str, Any]) -> nn.Module | None:
    scope = session.config.default_scope
    checked = {key: value for key, value in arguments.items() if key != "backbone"}
    refused = refused_types(checked, ("whole",), session.document, session.allow, is_theirs=True)
    backbone = {"backbone": arguments["backbone"]}
    refused += refused_types(backbone, (), session.document, session.allow, is_theirs=True)
    if refused:
        session.faults += refused
        return None
    try:
        with within_scope(scope):
            plain = {key: _plain(value) for key, value in arguments.items()}
            made = made_within(CONFIG_LIMITS, part.make, part.prepared(plain))
            start_registered(made)
    except Exception as error:
        where, said = session.document.where(_culprit(arguments, str(error))), said_by(error)
        session.fault(where, f"{part.name} to be made", said, "mend its config, or import what registers the part")
        return None
    if not is_model(made):
        where = session.document.where(("whole", "type"))
        session.fault(where, "a BaseModel of mmengine", f"{part.name} gives a {type(made).__name__}", "a whole model")
        return None
    return made


def _plain(value: Any) -> Any:
    """Names without our `mm:`, which the registry does not know."""
    if isinstance(value, Mapping):
        found = {key: _plain(child) for key, child in value.items()}
        return found | ({"type": found["type"].removeprefix("mm:")} if isinstance(found.get("type"), str) else {})
    return type(value)(map(_plain, value)) if isinstance(value, (list, tuple)) else value


def _culprit(arguments: Mapping[str, Any], said: str) -> Keys:
    """The place of the part that a registry's error is about, as far as it names one."""
    named = re.search(r"['\"`]?(?:class )?`?([\w.]+)`? (?:is not in the|in )", said)
    places = _types(arguments, ("whole",))
    fitting = [keys for keys, kind in places if named and kind == named[1]]
    keys = fitting[0] if fitting else ("whole",)
    return keys[1:] if keys[1:2] == ("backbone",) else keys


def _types(value: Any, keys: Keys) -> Iterator[tuple[Keys, str]]:
    if isinstance(value, Mapping):
        if isinstance(value.get("type"), str):
            yield (*keys, "type"), value["type"].rpartition(".")[2]
        for key, child in value.items():
            yield from _types(child, (*keys, key))
    elif isinstance(value, (list, tuple)):
        for i, child in enumerate(value):
            yield from _types(child, (*keys, i))


def adapt_to_whole(session: Session, producer: Producer) -> Plan | None:
    """Bring a foreign backbone to the tuple of levels that the parts behind it ask for; what differs is noted.

    Args:
        session: What is known.
        producer: The backbone; its module becomes the adapted one.
    """
    config = session.config.whole
    assert config is not None, "asked for where there is one"
    asked = _asked_channels(config.arguments)
    levels = distinct(producer.levels)
    direct = [level for level in producer.levels if not level.is_tap]
    levels = direct if len(direct) == len(asked) else levels[-len(asked) :] if asked else levels
    if len(levels) < len(asked) or not levels:
        found, remedy = f"{len(levels)} of backbone", "adapt: {like: {type: ResNet, depth: 50}}  # the old backbone"
        session.fault(session.document.where(("backbone",)), f"{len(asked)} levels, as it is made for", found, remedy)
        return None
    wanted = [_asked(level, channels) for level, channels in zip(levels, asked or [None] * len(levels), strict=True)]
    signature = producer.signature
    if session.config.adapt.fit == "pad":
        wanted = [with_even_cells(spec) for spec in wanted]
    contract = Signature.parse(tuple(wanted), name="the whole", axes={**signature.axes, **producer.legal})
    contract = contract.model_copy(update={"inputs": signature.inputs, "positional": signature.positional})
    pairs = {str(i): level.path for i, level in enumerate(levels)}
    made = plan(signature, contract, pairs=pairs, fit=session.config.adapt.fit)
    producer.plan, producer.module = made, built(producer.module, made)
    said = ", ".join(f"{level.name} (stride {level.stride})" for level in levels)
    session.remarks.append(
        f"the whole is given {said} of backbone; where the old one's strides were others, "
        "`adapt: {like: ...}` with the old backbone holds them"
    )
    return made


def _asked(level: Level, channels: int | None) -> TensorSpec:
    own = channels_of(level.natural)
    if channels is None or own is None or own == channels:
        return level.natural.model_copy(update={"same_as": ""})
    dims = (level.natural.dims[0], level.natural.dims[1] - own + channels, *level.natural.dims[2:])
    return level.natural.with_dims(dims).model_copy(update={"same_as": ""})


def _asked_channels(arguments: Mapping[str, Any]) -> list[int | None]:
    """Channels of each level as the neck, or where there is none the heads, say them; None where nobody does."""
    necks = _mappings(arguments.get("neck"))
    if necks and "in_channels" in necks[0]:
        given = necks[0]["in_channels"]
        return list(given) if isinstance(given, (list, tuple)) else [given]
    heads = [head for key, value in arguments.items() if key.endswith("head") for head in _mappings(value)]
    pairs = [pair for head in heads if "in_channels" in head for pair in _indexed(head)]
    count = max((index for index, _ in pairs), default=-1) + 1 or bool(pairs)
    found: list[int | None] = [None] * count
    for index, channels in pairs:
        found[index] = channels
    return found


def _mappings(value: Any) -> list[Mapping[str, Any]]:
    return [each for each in (value if isinstance(value, (list, tuple)) else [value]) if isinstance(each, Mapping)]


def _indexed(head: Mapping[str, Any]) -> Sequence[tuple[int, int]]:
    """Which levels a head reads, with their channels."""
    index, channels = head.get("in_index", -1), head["in_channels"]
    if isinstance(index, (list, tuple)) and isinstance(channels, (list, tuple)):
        return list(zip(index, channels, strict=False))
    return [(index, channels)] if isinstance(index, int) and isinstance(channels, int) else []


def taken_by(producer: Producer) -> list[Taken]:
    """The levels that a whole is given, for the report."""
    made = producer.plan.target if producer.plan is not None else producer.signature
    return [Taken(producer, Level(path, each, each, None, None), each) for path, each in made.outputs.items()]
