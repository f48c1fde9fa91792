"""Kinds of modules: the class of each module that stands in no adapted part, and its settings.

Tensors do not tell a sigmoid from none, nor a dilated convolution from a plain one, nor a scale of 0.5 from one of 2;
classes and settings do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.dropout import _DropoutNd

from autoadapt.errors import Mismatch, SavingError
from autoadapt.saving.module_settings import Setting, held_by

_REMEDY = "build the model as it was\nrestore(..., strict=False)      to have it nevertheless"
_DROPS = ("Dropout", "DropPath", "StochasticDepth")
"""Classes that are an identity but in training, by the names that libraries give them."""


def kinds_of(model: nn.Module, parts: Iterable[str]) -> dict[str, str]:
    """The class of each module below the model, by path; of a sequence also how many it runs.

    Args:
        model: A whole model.
        parts: Paths of modules that are left out, with all that is inside of them.
    """
    return {path: _kind(module) for path, module in _outside(model, parts) if path}


def settings_of(model: nn.Module, parts: Iterable[str]) -> dict[str, dict[str, str]]:
    """The settings of the model and of each module below it, by path and name, as texts.

    A config that several modules hold counts at the first of them.

    Args:
        model: A whole model.
        parts: Paths of modules that are left out, with all that is inside of them.
    """
    seen = set[int]()
    told = ((path, held_by(module, seen)) for path, module in _outside(model, parts) if not _is_identity(module))
    found = {path: {name: one.text for name, one in sorted(held.items())} for path, held in told}
    return {path: settings for path, settings in found.items() if settings}


def _outside(model: nn.Module, parts: Iterable[str]) -> Iterator[tuple[str, nn.Module]]:
    left_out = set(parts)
    inside = tuple(f"{path}." for path in left_out)
    named = model.named_modules()
    return ((path, one) for path, one in named if path not in left_out and not path.startswith(inside))


def _kind(module: nn.Module) -> str:
    if isinstance(module, nn.Sequential):
        return f"{type(module).__name__}({len(module)} modules)"
    if _is_identity(module):
        return "Identity"
    return "BatchNorm" if isinstance(module, _BatchNorm) else type(module).__name__  # processes that train share one


def _is_identity(module: nn.Module) -> bool:
    named = isinstance(module, _DropoutNd) or type(module).__name__ in _DROPS
    return (named and not any(module.children())) or isinstance(module, nn.Identity)


def check_kinds(noted: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Refuse a model with modules of other classes; a module that one of both lacks, such as a loss, is no fault.

    Raises:
        SavingError: Modules of one path are of other classes.
    """
    pairs = [(path, noted[path], found[path]) for path in noted if path in found]
    # folders of before have constants in brackets behind the class
    others = [pair for pair in pairs if pair[1] != pair[2] and not pair[1].startswith(f"{pair[2]}(")]
    _refuse([Mismatch(*pair, _REMEDY) for pair in others])


def check_settings(
    noted: Mapping[str, Mapping[str, str]],
    found: Mapping[str, Mapping[str, str]],
    telling: Callable[[list[Setting]], list[Setting] | None],
) -> None:
    """Refuse a model whose modules have other settings, where these change what it returns.

    What one of both lacks is no fault: it may have been set from outside.

    Args:
        noted: Those of the saved model.
        found: Those of the model that it is restored into.
        telling: Tells which of some settings change what the model returns; None where it cannot be run.

    Raises:
        SavingError: There are such settings, or others than those of training, and the model cannot be run.
    """
    others = [
        Setting(path, name, text, found[path][name])
        for path, settings in noted.items()
        for name, text in settings.items()
        if found.get(path, {}).get(name, text) != text
    ]
    told = telling(others) if others else []
    left = [one for one in others if not one.is_of_training] if told is None else told
    why = "" if told is not None else "the model was not run to see whether this changes what it returns"
    _refuse([Mismatch(f"{one.path}.{one.name}".lstrip("."), one.saved, one.found, _REMEDY, why) for one in left])


def _refuse(faults: list[Mismatch]) -> None:
    if faults:
        raise SavingError(f"the model works otherwise than the one that was saved, in {len(faults)} places", faults[:6])
