"""Weight starts: how an `init_cfg` fills the weights of a part, as mmengine does it.

An entry has a `type`, the arguments of that type, and which layers it is for: `layer`, names of classes; `override`,
names of submodules with a start of their own. One that has neither fills nothing, there as here.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autoadapt.assembly.documents import Document
from autoadapt.assembly.python_expressions import Keys
from autoadapt.errors import Mismatch, nearest

_OF_ALL = ("type", "layer", "bias", "bias_prob", "override", "name")


def _xavier(weight: torch.Tensor, gain: float = 1, distribution: str = "normal") -> None:
    fill = nn.init.xavier_uniform_ if distribution == "uniform" else nn.init.xavier_normal_
    fill(weight, gain=gain)


def _normal(weight: torch.Tensor, mean: float = 0, std: float = 1) -> None:
    nn.init.normal_(weight, mean, std)


def _trunc_normal(weight: torch.Tensor, mean: float = 0, std: float = 1, a: float = -2, b: float = 2) -> None:
    nn.init.trunc_normal_(weight, mean, std, a, b)


def _uniform(weight: torch.Tensor, a: float = 0, b: float = 1) -> None:
    nn.init.uniform_(weight, a, b)


def _kaiming(
    weight: torch.Tensor, a: float = 0, mode: Any = "fan_out", nonlinearity: Any = "relu", distribution: str = "normal"
) -> None:
    fill = nn.init.kaiming_uniform_ if distribution == "uniform" else nn.init.kaiming_normal_
    fill(weight, a=a, mode=mode, nonlinearity=nonlinearity)


def _caffe2_xavier(weight: torch.Tensor) -> None:
    _kaiming(weight, 1, "fan_in", "leaky_relu", "uniform")


_STARTS: Mapping[str, Callable[..., object]] = {
    "Constant": nn.init.constant_,
    "Xavier": _xavier,
    "Normal": _normal,
    "TruncNormal": _trunc_normal,
    "Uniform": _uniform,
    "Kaiming": _kaiming,
    "Caffe2Xavier": _caffe2_xavier,
}


def entries_of(given: Any) -> list[Any]:
    """The entries of an `init_cfg`, which may be one, several or none."""
    return list(given) if isinstance(given, (list, tuple)) else [given] if given else []


def check_starts(given: Any, keys: Keys, document: Document) -> list[Mismatch]:
    """Every entry of an `init_cfg` whose type or arguments are unknown."""
    where, known = document.where(keys), ", ".join((*_STARTS, "Pretrained"))
    faults = []
    for entry in entries_of(given):
        kind = entry.get("type") if isinstance(entry, Mapping) else entry
        if not isinstance(entry, Mapping) or kind not in _STARTS:
            near = (nearest(str(kind), _STARTS, count=1) or ["Kaiming"])[0]
            faults.append(Mismatch(where, f"a mapping of type {known}", repr(kind), near))
            continue
        faults += _check_entry(entry, where)
    return faults


def _check_entry(entry: Mapping[str, Any], where: str) -> list[Mismatch]:
    parameters = list(inspect.signature(_STARTS[entry["type"]]).parameters.values())[1:]
    names = [parameter.name for parameter in parameters]
    expected = f"an argument of {entry['type']}: {', '.join((*names, *_OF_ALL[1:5]))}"
    faults = [Mismatch(where, expected, f"`{key}`", "remove it") for key in entry if key not in (*names, *_OF_ALL)]
    missing = [p.name for p in parameters if p.default is p.empty and p.name not in entry]
    faults += [Mismatch(where, f"a value for `{name}`", "nothing", f"{name}: 1") for name in missing]
    for override in entries_of(entry.get("override")):
        if not isinstance(override, Mapping) or "name" not in override:
            faults.append(Mismatch(where, "an override with the name of a submodule", repr(override), "name: ..."))
        elif len(override) > 1:  # of its name alone it takes everything from the entry
            faults += check_starts({k: v for k, v in override.items() if k != "name"}, (where,), Document(None))
    return faults


def start_weights(module: nn.Module, given: Any) -> list[str]:
    """Fill the weights of a module; gives the types of the entries that fit none of its layers.

    Args:
        module: Changed in place.
        given: One entry or several, checked by `check_starts`.

    Raises:
        AttributeError: An `override` names a submodule that is not there.

    Example:
        >>> layers = nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2))
        >>> start_weights(layers, [{"type": "Constant", "layer": "Linear", "val": 3, "bias": 1}, {"type": "Normal"}])
        ['Normal']
        >>> layers[0].weight.sum(), layers[1].weight.sum()
        (tensor(12., grad_fn=<SumBackward0>), tensor(2., grad_fn=<SumBackward0>))
    """
    idle = []
    for entry in entries_of(given):
        own = {key: value for key, value in entry.items() if key not in ("layer", "override")}
        layers = entry.get("layer") or ()
        names = {layers} if isinstance(layers, str) else set(layers)
        filled = [_fill(layer, own) for layer in _post_order(module) if names & _class_names(layer)]
        for override in entries_of(entry.get("override")):
            changes = {key: value for key, value in override.items() if key != "name"} or own
            filled += [_fill(layer, changes) for layer in _post_order(module.get_submodule(override["name"]))]
        if not any(filled):
            idle.append(str(entry["type"]))
    return idle


def _post_order(module: nn.Module) -> Sequence[nn.Module]:
    """Submodules before what holds them, so that numbers are drawn in the order that mmengine draws them."""
    found: list[nn.Module] = []
    module.apply(found.append)
    return found


def _class_names(layer: nn.Module) -> set[str]:
    """The class and those it is made from: `_BatchNorm` stands for every batch norm."""
    return {type(layer).__name__, *(base.__name__ for base in type(layer).__bases__)}


@torch.no_grad()
def _fill(layer: nn.Module, entry: Mapping[str, Any]) -> bool:
    weight, bias = getattr(layer, "weight", None), getattr(layer, "bias", None)
    if isinstance(weight, torch.Tensor):
        _STARTS[entry["type"]](weight, **{key: value for key, value in entry.items() if key not in _OF_ALL})
    if isinstance(bias, torch.Tensor):
        prior = entry.get("bias_prob")
        nn.init.constant_(bias, entry.get("bias", 0) if prior is None else -math.log((1 - prior) / prior))
    return isinstance(weight, torch.Tensor) or isinstance(bias, torch.Tensor)
