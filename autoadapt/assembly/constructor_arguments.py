"""Constructor arguments: what a config gives, checked against the signature of a constructor before it is called."""

from __future__ import annotations

import inspect
import json
import typing
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import PydanticSchemaGenerationError, PydanticUserError, TypeAdapter, ValidationError

from autoadapt.assembly.documents import Document
from autoadapt.assembly.python_expressions import Keys
from autoadapt.assembly.registry import Part
from autoadapt.contracts.facts import asked_for
from autoadapt.errors import Mismatch, nearest

INFERRED = ("in_channels", "in_channels_list", "in_features", "num_features", "channels", "num_channels", "in_chans")
"""Parameters that are channels of what a part is given, and are found where a config leaves them out."""

_ALWAYS = ("in_channels", "in_channels_list", "in_features", "in_chans")  # the others only where they have no default
_NAMED = (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY)


def inferred_names(part: Part) -> tuple[str, ...]:
    """The parameters of a part that are filled in."""
    known = part.parameters
    read = tuple(name for name in _ALWAYS if name in known)
    if read:
        return read  # `channels` beside `in_channels` is what the part itself works with
    return tuple(name for name in INFERRED if name in known and _is_required(known[name]))


def _is_required(parameter: inspect.Parameter) -> bool:
    return parameter.default is parameter.empty


def wanted_strides(part: Part, arguments: Mapping[str, Any]) -> tuple[int, ...]:
    """The strides of the levels that a part asks for by a parameter `strides`; none where it takes what there is."""
    if "strides" not in part.parameters:
        return ()
    given = arguments.get("strides", part.parameters["strides"].default)
    return tuple(int(stride) for stride in given) if isinstance(given, Sequence) else ()


def check_arguments(part: Part, arguments: Mapping[str, Any], keys: Keys, document: Document) -> list[Mismatch]:
    """Every unknown, missing and ill-typed argument of a part."""
    if part.is_open:
        return []
    known = {name: p for name, p in part.parameters.items() if p.kind in _NAMED}
    takes_any = any(p.kind is p.VAR_KEYWORD for p in part.parameters.values())
    faults = []
    for name, value in arguments.items():
        where = document.where((*keys, name))
        if name in known:
            faults += _check_type(where, known[name].annotation, value)
        elif not takes_any and name != "init_cfg":  # of any part, for its weights
            near = nearest(name, known, count=1)
            expected = f"an argument of {part.name}({', '.join(known)})"
            remedy = f"{near[0]}: {json.dumps(value)}" if near else "remove it"
            faults.append(Mismatch(where, expected, f"`{name}`", remedy))
    given = {*arguments, *inferred_names(part)}
    for name, parameter in known.items():
        if _is_required(parameter) and name not in given:
            kind = _type_name(parameter.annotation)
            where = document.where((*keys, name))
            faults.append(Mismatch(where, f"a value ({kind})", "nothing", f"{name}: ...  # {kind}"))
    return faults


def _check_type(where: str, annotation: Any, value: Any) -> list[Mismatch]:
    try:
        adapter = TypeAdapter(annotation)
    except (PydanticSchemaGenerationError, PydanticUserError, NameError):
        return []  # a type that no config can hold, such as a callable; the constructor decides
    try:
        adapter.validate_json(json.dumps(value), strict=True)
    except ValidationError as error:
        said = " or ".join(dict.fromkeys(map(asked_for, error.errors())))  # one for each kind that it may be
        expected = _type_name(annotation) if isinstance(annotation, type) else said
        return [Mismatch(where, expected, repr(value), _converted(annotation, value))]
    return []


def _converted(annotation: Any, value: Any) -> str:
    """The value that was meant, where it is plain: YAML reads `1e-3` as a text; one of a few choices."""
    if typing.get_origin(annotation) is Literal:
        return _nearest_choice(value, typing.get_args(annotation))
    try:
        return str(TypeAdapter(annotation).validate_python(value, strict=False))
    except (ValidationError, PydanticSchemaGenerationError):
        return ""


def _nearest_choice(value: Any, choices: Sequence[Any]) -> str:
    if isinstance(value, (int, float)):
        return str(min((c for c in choices if isinstance(c, (int, float))), key=lambda c: abs(c - value), default=""))
    return (nearest(str(value), map(str, choices), count=1) or [""])[0]


def _type_name(annotation: Any) -> str:
    if annotation is Any:
        return "any value"
    text = annotation.__name__ if isinstance(annotation, type) else str(annotation)
    return text.replace("typing.", "").replace("collections.abc.", "")
