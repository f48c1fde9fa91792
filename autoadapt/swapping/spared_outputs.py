"""Spared outputs: objects that are left out, such as caches of keys, and the arguments that ask for none of them."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

from autoadapt.contracts.capturing import Arguments
from autoadapt.contracts.capturing.run_values import are_equal
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.signature import Parameter, Signature
from autoadapt.contracts.trees import Constant, Container, Opaque, Tree, flatten, has_opaque, path_text
from autoadapt.contracts.views import view


def with_spared(signature: Signature, module: nn.Module, arguments: Arguments) -> Signature:
    """A signature that tells which arguments, where they are False, only ask for less: objects are None then.

    Each argument that is True in the example, or is None and by the config means True, is tried in a run of its own.

    Args:
        signature: Of the module, with its objects.
        module: It stays as it is.
        arguments: The example.
    """
    flags = [one for one in signature.parameters if _is_on(one, signature)]
    if not flags or not has_opaque(signature.outputs.tree) or has_opaque(flatten(arguments.values)[0]):
        return signature  # a run might change an object that is given, such as a cache
    asked = _run(module, arguments)
    spared = dict[str, tuple[str, ...]]()
    for flag in flags if asked else ():
        less = _run(module, Arguments(arguments.values | {flag.name: False}, arguments.positional))
        if asked and less and len(asked[1]) == len(less[1]) and all(map(are_equal, asked[1], less[1])):
            spared[flag.name] = tuple(_gone(asked[0], less[0], ()) or ())
    told = (one.model_copy(update={"spares": spared.get(one.name, ())}) for one in signature.parameters)
    return signature.model_copy(update={"parameters": tuple(told)})


def _is_on(parameter: Parameter, signature: Signature) -> bool:
    given = signature.plain_arguments.get(parameter.name)
    meant = parameter.told if given == Constant() else given
    return isinstance(meant, Constant) and meant.value is True


def _run(module: nn.Module, arguments: Arguments) -> tuple[Tree, list[torch.Tensor]] | None:
    """What a view of the module returns in eval mode, as containers and tensors; None where it raises."""
    try:
        with undisturbed():
            copied = view(module)
            copied.eval()
            return flatten(arguments.fresh().call(copied), any_keys=True)
    except Exception:  # whatever a module raises that does not take a value
        return None


def _gone(before: Tree, after: Tree, path: tuple[int | str, ...]) -> list[str] | None:
    """The paths of objects that are None afterwards, or absent from an output of transformers; None if more differs."""
    match before, after:
        case Opaque(), Constant(value=None):
            return [path_text(path)]
        case Container(), Container() if (before.kind, before.type) == (after.kind, after.type):
            now = dict(zip(after.keys, after.children, strict=True))
            absent = set(before.keys) - set(now)
            if set(now) - set(before.keys) or (absent and before.kind != "model_output"):
                return None
            rows = zip(before.keys, before.children, strict=True)
            return _all(_gone(child, now.get(key, Constant()), (*path, key)) for key, child in rows)
        case _:
            return [] if before == after else None


def _all(parts: Iterable[list[str] | None]) -> list[str] | None:
    found = list[str]()
    for part in parts:
        if part is None:
            return None
        found += part
    return found
