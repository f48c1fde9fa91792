"""Origins: the call that loaded a module, noted on the module itself, so that it can be repeated."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple, TypeAlias

from torch import nn

from autoadapt.contracts.trees import flatten, has_opaque, rebuild
from autoadapt.errors import SignatureError
from autoadapt.errors.printable import is_plain_name

Verb: TypeAlias = Literal["load", "load_backbone"]


class Origin(NamedTuple):
    """The call that made a module."""

    verb: Verb
    """A function of `autoadapt.sources`."""
    source: str
    """The model's name with its scheme: `timm:resnet18`."""
    pretrained: bool
    options: dict[str, Any] | None
    """Further keyword arguments; None where they are not all plain values, so that no file can hold them."""


_ORIGIN = "autoadapt_origin"


def origin_of(module: nn.Module) -> Origin | None:
    """The call that loaded a module, or the module that it is a view of; None where nothing is noted."""
    noted = vars(module).get(_ORIGIN)
    return Origin(*noted) if isinstance(noted, tuple) and len(noted) == len(Origin._fields) else None


def note_origin(module: nn.Module, verb: Verb, source: str, pretrained: bool, options: Mapping[str, Any]) -> nn.Module:
    """Note on a module the call that made it, and return the module.

    The attribute holds plain values, so that copies keep it and unpickling needs no autoadapt.
    """
    vars(module)[_ORIGIN] = (verb, source, pretrained, _plain(options))
    return module


def name_of(module: nn.Module) -> str:
    """The name of a model in its zoo, with the scheme; empty where it is not known.

    It is read from the origin, timm's `pretrained_cfg["architecture"]`, or transformers' `config._name_or_path`.

    Example:
        >>> name_of(note_origin(nn.Identity(), "load", "timm:resnet18", False, {})), name_of(nn.Identity())
        ('timm:resnet18', '')
    """
    noted = origin_of(module)
    if noted is not None:
        return noted.source
    told = vars(module).get("pretrained_cfg")
    architecture = told.get("architecture") if isinstance(told, Mapping) else None
    if isinstance(architecture, str) and architecture and is_plain_name(architecture):
        return f"timm:{architecture}"
    repository = getattr(vars(module).get("config"), "_name_or_path", "")
    return f"hf:{repository}" if isinstance(repository, str) and repository and is_plain_name(repository) else ""


def called(module: nn.Module) -> tuple[str, str]:
    """Class name and zoo name of a module, for titles; a class may define them as a property `autoadapt_title`.

    Example:
        >>> called(note_origin(nn.Identity(), "load", "timm:resnet18", False, {}))
        ('Identity', 'timm:resnet18')
    """
    told = getattr(type(module), "autoadapt_title", None)
    if isinstance(told, property) and told.fget is not None:
        name, origin = told.fget(module)
        return name, origin
    return type(module).__name__, name_of(module)


def _plain(options: Mapping[str, Any]) -> dict[str, Any] | None:
    try:
        tree, tensors = flatten(dict(options))
    except SignatureError:  # keys that no file can hold
        return None
    made: dict[str, Any] | None = None if tensors or has_opaque(tree) else rebuild(tree, [])
    return made
