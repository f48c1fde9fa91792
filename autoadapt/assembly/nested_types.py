"""Nested types: what the parts of a registry are asked to build themselves, checked before any of it is made.

mmengine imports a `type` that it does not know as a python path, and calls what stands there, so that a config alone
could run anything. Here a name is registered, or the caller allows its code.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from autoadapt.assembly.documents import Document
from autoadapt.assembly.mmengine import is_imported, known_scopes, registered_names
from autoadapt.assembly.python_expressions import Keys
from autoadapt.errors import Mismatch, nearest

_READ = ("pretrained", "checkpoint", "checkpoint_path")
"""Arguments of parts there that name a file or an address to load."""


def is_checkpoint(kind: object) -> bool:
    """Whether a start of weights loads a checkpoint, under its name with or without a scope, or as a class's path.

    Example:
        >>> is_checkpoint("mmengine.Pretrained"), is_checkpoint("mmengine.model.weight_init.PretrainedInit")
        (True, True)
    """
    return str(kind).removeprefix("mm:").rpartition(".")[2] in ("Pretrained", "PretrainedInit")


def refused_types(
    arguments: Mapping[str, Any], keys: Keys, document: Document, allow: Sequence[str], *, is_theirs: bool
) -> list[Mismatch]:
    """Every nested `type` that a part would build and nobody has registered or allowed, and every checkpoint.

    Args:
        arguments: Of the constructor of the part.
        keys: Its place.
        document: The config.
        allow: What the caller allows.
        is_theirs: Whether a registry has the part; another one may give `type` a meaning of its own, so that of its
            bare names only those of `init_cfg` are looked at.
    """
    if not is_imported():
        return []
    nested = list(mappings_in(arguments, keys))
    faults: list[Mismatch] = []
    for at, value in nested if is_theirs else [each for each in nested if each[0] != keys]:
        faults += _fault_of(at, value, document, allow, is_theirs or _starts(at))
    return faults + ([] if not is_theirs else _files(nested, document, allow))


def unregistered(value: Any) -> list[str]:
    """The types in a config that no registry has."""
    nested = [(keys, str(each["type"])) for keys, each in mappings_in(value, ()) if "type" in each]
    types = [(name.removeprefix("mm:"), _starts(keys)) for keys, name in nested]
    return [name for name, is_start in types if name not in registered_names(is_start=is_start)]


def _fault_of(
    keys: Keys, value: Mapping[str, Any], document: Document, allow: Sequence[str], is_theirs: bool
) -> Iterator[Mismatch]:
    kind, scope = value.get("type"), value.get("_scope_")
    if scope is not None and str(scope) not in known_scopes() and not _allowed(str(scope), allow):
        where = document.where((*keys, "_scope_"))
        yield Mismatch(where, "the scope of a registry", f"`{scope}`", "import the package that has it")
    if not isinstance(kind, str):
        return
    name, is_start = kind.removeprefix("mm:"), _starts(keys)
    if is_start and is_checkpoint(name):
        remedy = "leave it out there; weights: [{from: ...}] loads a file"
        where, found = document.where(keys), str(value.get("checkpoint"))
        yield Mismatch(where, "a checkpoint that the caller allows, and not below a part", found, remedy)
    elif (is_theirs or "." in name) and not _allowed(name, allow):
        known = registered_names(is_start=is_start)
        if name not in known:
            where, expected = document.where((*keys, "type")), "a type that a registry of mmengine has"
            yield Mismatch(where, expected, f"`{kind}`", "\n".join(nearest(name, known)) or _remedy(name))


def _remedy(name: str) -> str:
    allowed = f', or assemble(config, allow=["{name.partition(".")[0]}"])' if "." in name else ""
    return f"import the package that registers it{allowed}"


def _files(
    nested: Sequence[tuple[Keys, Mapping[str, Any]]], document: Document, allow: Sequence[str]
) -> list[Mismatch]:
    """Files and addresses that parts there would load by themselves."""
    named = [(at, key, value[key]) for at, value in nested if not _starts(at) for key in _READ if key in value]
    expected = "a checkpoint that the caller allows"
    return [
        Mismatch(document.where((*at, key)), expected, said, f'assemble(config, allow=["{said}"])')
        for at, key, said in named
        if isinstance(said, str) and said and said not in allow
    ]


def _starts(keys: Keys) -> bool:
    """Whether a place is in an `init_cfg`, whose types are looked up among the starts of weights."""
    return any(str(key).endswith("init_cfg") for key in keys)


def mappings_in(value: Any, keys: Keys) -> Iterator[tuple[Keys, Mapping[str, Any]]]:
    """Every mapping within plain data, the outer ones first, with its place."""
    if isinstance(value, Mapping):
        yield keys, value
        for key, child in value.items():
            yield from mappings_in(child, (*keys, key))
    elif isinstance(value, (list, tuple)):
        for i, child in enumerate(value):
            yield from mappings_in(child, (*keys, i))


def _allowed(name: str, allow: Sequence[str]) -> bool:
    return any(name == entry or name.startswith(f"{entry}.") for entry in allow)
