"""Instances: errors for arguments that should be modules, and the tensors and submodules of a module, quickly."""

from __future__ import annotations

import types
from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from autoadapt.errors import AdaptError, Mismatch


def is_whole(value: object, least: int = 0) -> bool:
    """Whether a value is an integer (no boolean) of at least `least`.

    Example:
        >>> is_whole(3), is_whole(3, 4), is_whole(True), is_whole(3.0)
        (True, False, False, False)
    """
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def check_module(value: object, argument: str, error: type[AdaptError]) -> None:
    """Refuse what is no module.

    Raises:
        AdaptError: It is a class, a name, a function, or anything else; of the class `error`.

    Example:
        >>> check_module(nn.Identity(), "new", AdaptError)
    """
    if not isinstance(value, nn.Module):
        raise not_a_module(value, argument, error)


def not_a_module(value: object, argument: str, error: type[AdaptError], expected: str = "a module") -> AdaptError:
    """The refusal of a value that is no module.

    Args:
        value: What was given.
        argument: The name of the argument.
        error: The class of the refusal.
        expected: What else the argument takes.
    """
    name = getattr(value, "__name__", type(value).__name__)
    if isinstance(value, type):
        fault = Mismatch(f"`{argument}`", "an instance, not a class", f"the class {name}", f"{argument}={name}(...)")
        return error(f"`{argument}` is a class", [fault])
    if isinstance(value, str):
        remedy = _from_text(value, argument, expected)
        fault = Mismatch(f"`{argument}`", expected, f"the text {value!r}", remedy)
        return error(f"`{argument}` is a text", [fault])
    if isinstance(value, nn.Module):
        call = f"aa.capture({argument}, inputs)"
        fault = Mismatch(f"`{argument}`", expected, f"the module {type(value).__name__}", call)
        return error(f"`{argument}` is a module", [fault])
    if callable(value):
        fault = Mismatch(f"`{argument}`", expected, f"the function {name}", f"{argument}={name}()  # what it returns")
        return error(f"`{argument}` is a function", [fault])
    found = "nothing" if value is None else f"{repr(value)[:60]}, of type {type(value).__name__}"
    return error(
        f"`{argument}` is of the wrong type", [Mismatch(f"`{argument}`", expected, found, "pass the model itself")]
    )


def _from_text(value: str, argument: str, expected: str) -> str:
    """The remedy for a text: load a model by that name, or parse a contract."""
    model = f'aa.load("{value if ":" in value else "timm:" + value}")'
    if "Signature" not in expected:
        return f"{argument}={model}"
    if "[" in value:
        return f'{argument}=aa.Signature.parse({value!r}, inputs="f32[B, 3, H, W]")'
    return f"{argument}=aa.capture({model}, inputs)"


def parts_of(module: nn.Module) -> list[nn.Module]:
    """The modules of `module.modules()`, each once and in that order, in a tenth of the time.

    Example:
        >>> model = nn.Sequential(nn.Sequential(nn.ReLU(), nn.Identity()), nn.Tanh())
        >>> parts_of(model) == list(model.modules())
        True
    """
    found: dict[nn.Module, None] = {}
    waiting = [module]
    while waiting:
        if (part := waiting.pop()) not in found:
            found[part] = None
            if part._modules:
                waiting += [child for child in reversed(part._modules.values()) if child is not None]
    return list(found)


def parameters_of_parts(module: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters of all submodules; one that is registered twice comes twice."""
    for part in parts_of(module):
        yield from (one for one in part._parameters.values() if one is not None)


def tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    """The parameters and buffers of all submodules; one that is registered twice comes twice."""
    for part in parts_of(module):
        for kept in (part._parameters, part._buffers):
            yield from (one for one in kept.values() if one is not None)


def dtype_of(module: nn.Module) -> torch.dtype:
    """The dtype of the first floating-point parameter; torch's default without any."""
    return next((one.dtype for one in module.parameters() if one.is_floating_point()), torch.get_default_dtype())


def paths_above(path: str) -> list[str]:
    """The paths of the modules around a module, the outermost first.

    Example:
        >>> paths_above("layer1.0.conv")
        ['layer1', 'layer1.0']
    """
    parts = path.split(".")
    return [".".join(parts[:count]) for count in range(1, len(parts))]


def plain_tensors_of(module: nn.Module) -> Iterator[torch.Tensor]:
    """Unregistered tensors: those in attributes of all submodules, also in lists, tuples and dicts.

    Example:
        >>> layer = nn.Identity()
        >>> layer.table, layer.levels = torch.ones(2), [torch.ones(3), {"a": torch.ones(4)}]
        >>> [len(tensor) for tensor in plain_tensors_of(layer)]
        [2, 3, 4]
    """
    for part in parts_of(module):
        own = {name: value for name, value in vars(part).items() if name not in _REGISTERED}
        yield from _tensors_inside(own, _DEEPEST)


def _tensors_inside(value: object, depth: int) -> Iterator[torch.Tensor]:
    if isinstance(value, torch.Tensor):
        yield value
    elif depth and isinstance(value, (list, tuple, dict)):
        for one in value.values() if isinstance(value, dict) else value:
            yield from _tensors_inside(one, depth - 1)


_REGISTERED = frozenset({"_parameters", "_buffers", "_modules"})
_DEEPEST = 3
"""Levels of nested lists, tuples and dicts that are searched: they may hold themselves."""


def contents_of(cell: types.CellType) -> tuple[Any, ...]:
    """The value of a closure's cell as a tuple of one; empty where it was not assigned yet.

    Example:
        >>> contents_of(types.CellType(3)), contents_of(types.CellType())
        ((3,), ())
    """
    try:
        return (cell.cell_contents,)
    except ValueError:
        return ()
