"""Making: constructors called with what a config says; whatever they raise is a fault of the config."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Any

from torch import nn
from torch.nn.parameter import UninitializedParameter

from autoadapt.assembly.assembly_sessions import Session, said_by
from autoadapt.assembly.mmengine import start_registered
from autoadapt.assembly.nested_types import refused_types
from autoadapt.assembly.references import keys_of
from autoadapt.assembly.registry import Part
from autoadapt.assembly.weight_starts import check_starts, entries_of, start_weights
from autoadapt.errors import AdaptError
from autoadapt.sources.size_limits import CONFIG_LIMITS, SizeLimits, made_within

_START = "init_cfg"


def made(session: Session, name: str, part: Part, arguments: Mapping[str, Any]) -> nn.Module | None:
    """A part, its weights started as the config says; none where that fails, which is noted."""
    own = {key: value for key, value in arguments.items() if key != _START or starts_itself(part)}
    keys, is_theirs = keys_of(name), part.name.startswith("mm:")
    refused = refused_types(own, keys, session.document, session.allow, is_theirs=is_theirs)
    session.faults += refused
    module = None if refused else _called(session, name, part, own)
    if module is None:
        return None
    starts = [("", session.config.init_cfg)] if session.config.init_cfg else []
    starts += [(name, arguments[_START])] if arguments.get(_START) and not starts_itself(part) else []
    for owner, given in starts:
        if not _start(session, owner, name, module, given):
            return None
    start_registered(module)
    return module


def starts_itself(part: Part) -> bool:
    """Whether a part takes `init_cfg` itself, as those of mmengine do."""
    takes_any = any(p.kind is inspect.Parameter.VAR_KEYWORD for p in part.parameters.values())
    return _START in part.parameters or (takes_any and part.name.startswith("mm:"))


def full_name(part: Part, type_: str) -> str:
    """The type with the scope in which it was found, so that the resolved config finds it anywhere."""
    return part.name if part.name.startswith("mm:") else type_


def _called(session: Session, name: str, part: Part, arguments: Mapping[str, Any]) -> nn.Module | None:
    limits = _limits(session, name, part)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Initializing zero-element tensors")  # refused below, with its place
            module: object = made_within(limits, part.make, part.prepared(arguments))
    except AdaptError as error:
        first = error.mismatches[0].where if error.mismatches else ""
        session.note(error, (*keys_of(name), first if first in arguments else "type"))
        return None
    except Exception as error:
        shown = ", ".join(f"{key}={value!r}" for key, value in arguments.items())
        negative = {key for key, value in _numbers(arguments) if value < 0 and str(value) in str(error)}
        if negative and "negative" in str(error):
            _refuse_counts(session, name, arguments, negative, said_by(error))
        else:
            session.fault(session.where(name), f"{part.name}({shown}) to be made", said_by(error), "mend its arguments")
        return None
    if not isinstance(module, nn.Module):
        where = session.where(name, "type")
        session.fault(where, "a torch.nn.Module", f"{part.name} gives a {type(module).__name__}", "return a module")
        return None
    zeros = {key for key, value in _numbers(arguments) if value == 0} if name != "backbone" else set()
    if zeros and (empty := _without_values(module)):
        _refuse_counts(session, name, arguments, zeros, f"`{empty}` of {part.name} would have no values")
        return None
    if limits is not CONFIG_LIMITS:
        session.values_made += sum(parameter.numel() for parameter in module.parameters())
    return module


def _without_values(module: nn.Module) -> str:
    """The first weight without values; a vector without any may be there to tell the device."""
    named = ((name, one) for name, one in module.named_parameters() if not isinstance(one, UninitializedParameter))
    return next((name for name, one in named if one.dim() > 1 and not one.numel()), "")


def _numbers(arguments: Mapping[str, Any]) -> list[tuple[str, int]]:
    return [(key, value) for key, value in arguments.items() if type(value) is int]


def _refuse_counts(session: Session, name: str, arguments: Mapping[str, Any], keys: Collection[str], why: str) -> None:
    """Note a whole number that is too small for a part to be made of; of several, one of which it is."""
    if len(keys) == 1:
        (key,) = keys
        where, found, remedy = session.where(name, key), str(arguments[key]), f"{key}: ...  # 1 or more"
    else:
        where, remedy = session.where(name), "mend its arguments"
        found = ", ".join(f"{key}: {value}" for key, value in arguments.items() if key in keys)
    session.fault(where, "a number of at least 1", found, remedy, why)


def _limits(session: Session, name: str, part: Part) -> SizeLimits:
    """What a part may hold: small ones what the others have left, models of zoos and registries as much as these have.

    The sizes of the former are numbers in the config; those of the latter are known to whoever names them.
    """
    small = part.name.startswith("torch:") or name.partition(".")[0] in ("neck", "head", "loss")
    if part.name.startswith("mm:") or not small:
        return CONFIG_LIMITS
    left = CONFIG_LIMITS.tensor - session.values_made
    return replace(CONFIG_LIMITS, tensor=left, values=left, told_by="for all layers of a config together")


def _start(session: Session, owner: str, name: str, module: nn.Module, given: Any) -> bool:
    keys = (*keys_of(owner), _START) if owner else (_START,)
    faults = check_starts(given, keys, session.document)
    session.faults += [fault for fault in faults if fault not in session.faults]
    if faults:
        return False
    try:
        idle = start_weights(module, given)
    except Exception as error:
        expected, found = f"a start that fits {type(module).__name__}", said_by(error)
        session.fault(session.document.where(keys), expected, found, "mend its layer, or leave it out")
        return False
    for kind in idle if owner else ():
        named = any(entry.get("layer") or entry.get("override") for entry in entries_of(given) if entry["type"] == kind)
        why = "no such layer is there" if named else "it names no layer"
        session.remarks.append(f"init_cfg {kind} of `{name}` fills nothing: {why}")
    return True
