"""Given models: a module, or the name of one, wherever a verb takes a model."""

from __future__ import annotations

import re
from dataclasses import replace

from torch import nn

from autoadapt.contracts.instances import not_a_module
from autoadapt.errors import Mismatch, SourceError
from autoadapt.sources.loading import WITHOUT_WEIGHTS, load, load_backbone

_LOADED = re.compile(r'load\((?P<name>"[^"]+")\)')
_MODEL = "a module, or the name of one such as timm:resnet18"


def as_module(value: object, argument: str, *, levels: bool = False, pretrained: bool = False) -> nn.Module:
    """The module that an argument means.

    Args:
        value: A module, or a name such as `timm:resnet18`.
        argument: The name of the argument, for the error.
        levels: Load what is named with its feature levels, as `like=` means it.
        pretrained: Load what is named with its published weights.

    Raises:
        SourceError: It is neither, or there is no model of that name.

    Example:
        >>> as_module(nn.Identity(), "new")
        Identity()
    """
    if isinstance(value, nn.Module):
        return value
    if isinstance(value, str) and "[" in value:
        fault = Mismatch(f"`{argument}`", _MODEL, f"the contract {value}", f"{argument}=old  # the module itself")
        raise SourceError(f"`{argument}` is a contract, where a module has to run", [fault])
    if isinstance(value, str):
        try:
            return (load_backbone if levels else load)(value, pretrained=pretrained)
        except SourceError as error:
            faults = [_handed_over(fault, value, argument) for fault in error.mismatches]
            raise SourceError(error.summary, faults) from error
    raise not_a_module(value, argument, SourceError, _MODEL)


def _handed_over(fault: Mismatch, value: str, argument: str) -> Mismatch:
    """What `load` says to do, for who handed the name over to another verb."""

    def line(text: str) -> str:
        if text == WITHOUT_WEIGHTS:
            given = "then aa.transfer(file, model), with a file that you have"
            return f'{argument}=model  # of aa.load("{value}"), {given}'
        if (loaded := _LOADED.fullmatch(text)) is not None:
            return f"{argument}={loaded['name']}"
        if not text.startswith("allow="):
            return text
        allowed, gap, note = text.partition("  #")
        return f'{argument}=aa.load("{value}", {allowed}){gap}{note}'

    return replace(fault, remedy="\n".join(map(line, fault.remedy.splitlines())))
