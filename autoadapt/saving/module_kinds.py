"""Kinds of modules: the class of each module that stands in no adapted part, and the constants that it declares.

Tensors do not tell a sigmoid from none, nor a dilated convolution from a plain one; classes and constants do.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from autoadapt.errors import Mismatch, SavingError

_WITHOUT_EFFECT = {"inplace", "training"}  # on values; modes are noted elsewhere
_REMEDY = "build the model as it was\nrestore(..., strict=False)      to have it nevertheless"


def kinds_of(model: nn.Module, parts: Iterable[str]) -> dict[str, str]:
    """The class and constants of each module below the model, by path.

    Args:
        model: A whole model.
        parts: Paths of modules that are left out, with all that is inside of them.
    """
    left_out = set(parts)
    inside = tuple(f"{path}." for path in left_out)
    named = ((path, one) for path, one in model.named_modules() if path)
    return {path: _kind(one) for path, one in named if path not in left_out and not path.startswith(inside)}


def _kind(module: nn.Module) -> str:
    """Such as `Conv2d(stride=(1, 1), ..)`, of what `__constants__` names; of a sequence how many it runs."""
    declared = set(getattr(module, "__constants__", ())) - _WITHOUT_EFFECT
    values = {name: getattr(module, name, None) for name in sorted(declared)}
    told = [f"{name}={value}" for name, value in values.items() if _is_plain(value)]
    if isinstance(module, nn.Sequential):
        told.append(f"{len(module)} modules")
    kind = "BatchNorm" if isinstance(module, _BatchNorm) else type(module).__name__  # processes that train share one
    return f"{kind}({', '.join(told)})"


def _is_plain(value: object) -> bool:
    if isinstance(value, (tuple, list)):
        return all(map(_is_plain, value))
    return isinstance(value, (bool, int, float, str))


def check_kinds(noted: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Refuse a model whose modules work otherwise; a module that one of both lacks, such as a loss, is no fault.

    Raises:
        SavingError: Modules of one path are of other classes, or have other constants.
    """
    others = [path for path in noted if path in found and noted[path] != found[path]]
    faults = [Mismatch(path, noted[path], found[path], _REMEDY) for path in others]
    if faults:
        raise SavingError(f"the model works otherwise than the one that was saved, in {len(faults)} places", faults[:6])
