"""Trials of settings: whether other plain attributes change what a whole model returns, by running it with both."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.func import functional_call

from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.signature import TensorSpec
from autoadapt.contracts.trees import flatten
from autoadapt.contracts.views import eval_copy
from autoadapt.saving.module_settings import HARMLESS, Setting, held_by

_SMALL = 64
"""Numbers up to here are tried, whatever the model has in their place."""


def telling_settings(
    model: nn.Module, call: Sequence[str], tensors: Mapping[str, torch.Tensor], settings: Sequence[Setting]
) -> list[Setting] | None:
    """The settings that change what a model returns in eval mode, to one call with invented inputs.

    Args:
        model: It is not changed; a copy is run, before anything is put into it.
        call: The shapes of the inputs, as `call_of` has them.
        tensors: The saved weights, by name.
        settings: Each is tried with the saved value in place of the model's.

    Returns:
        Those that change it, or that cannot be tried; None where the model cannot be run at all, or returns nothing
        that could tell.
    """
    trial = _Trial(model, call, tensors)
    before = trial.outputs([])
    if before is None:
        return None

    def tells(some: Iterable[Setting]) -> bool:
        after = trial.outputs(some)
        return after is None or not _same(before, after)

    if not tells(settings):
        return []
    by_name = {one.name: [other for other in settings if other.name == one.name] for one in settings}
    without = [one for same in by_name.values() if not tells(same) for one in same]
    return list(settings) if tells(without) else [one for one in settings if one not in without]


class _Trial:
    """Runs of one model with other settings."""

    def __init__(self, model: nn.Module, call: Sequence[str], tensors: Mapping[str, torch.Tensor]) -> None:
        self._model, self._call, self._tensors = model, call, tensors

    def outputs(self, settings: Iterable[Setting]) -> list[torch.Tensor] | None:
        """The tensors that it returns; None where there are none, or it raises."""
        try:
            with undisturbed(0):
                copied = eval_copy(self._model)
                for one in settings:
                    _put(copied.get_submodule(one.path), one, self._model.get_submodule(one.path))
                given = [(text.rpartition("=")[0], _invented(text.rpartition("=")[2])) for text in self._call]
                args = tuple(value for name, value in given if not name)
                named = {name: value for name, value in given if name}
                found = flatten(functional_call(copied, self._weights(copied), args, named))[1] if given else []
        except Exception:  # whatever a model raises
            return None
        return found if found and all(tensor.numel() for tensor in found) else None

    def _weights(self, copied: nn.Module) -> dict[str, torch.Tensor]:
        """Copies of the saved weights that fit, since a run may write to them."""
        own: dict[str, Any] = {**dict(copied.named_parameters()), **dict(copied.named_buffers())}
        fit = {
            name: one for name, one in own.items() if name in self._tensors and self._tensors[name].shape == one.shape
        }
        return {name: self._tensors[name].to(one.device, one.dtype, copy=True) for name, one in fit.items()}


def _put(module: nn.Module, setting: Setting, original: nn.Module) -> None:
    own = held_by(module)[setting.name]
    if own.holder is held_by(original)[setting.name].holder:
        raise ValueError(f"{setting.name} is in a config that cannot be copied")
    most = max([_SMALL, *(4 * abs(one) for one in _numbers(own.value))])
    own.put(_harmless(ast.literal_eval(setting.saved), most))


def _harmless(value: Any, most: float) -> Any:
    """A value of a file; numbers no larger than can be run, which also shows whether they are read at all.

    Raises:
        ValueError: It is a text that could be a path or code.
    """
    if isinstance(value, tuple):
        return tuple(_harmless(one, most) for one in value)
    if isinstance(value, str) and not re.fullmatch(HARMLESS, value):
        raise ValueError(value)
    return min(max(value, -most), most) if any(_numbers(value)) else value


def _numbers(value: Any) -> list[float]:
    """All numbers in a plain value."""
    if isinstance(value, (tuple, list)):
        return [number for one in value for number in _numbers(one)]
    return [value] if isinstance(value, (int, float)) and not isinstance(value, bool) else []


def _invented(text: str) -> torch.Tensor:
    spec = TensorSpec.parse(text)
    drawn = torch.randn(spec.shape({})) if spec.is_floating else torch.randint(0, 2, spec.shape({}))
    return drawn.to(spec.torch_dtype)


def _same(left: Sequence[torch.Tensor], right: Sequence[torch.Tensor]) -> bool:
    pairs = zip(left, right, strict=False)
    return len(left) == len(right) and all(torch.equal(one.nan_to_num(), other.nan_to_num()) for one, other in pairs)
