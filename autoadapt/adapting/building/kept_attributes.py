"""Kept attributes: those, and methods, that consumers and recipes read from a backbone, for adapted modules."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Mapping
from typing import Any

from torch import nn

# Attributes and methods of backbones in timm, torchvision, smp, transformers and detectron2.
_FACTS = (
    "backbone_type",
    "channels",
    "feature_channels",
    "feature_info",
    "main_input_name",
    "num_channels",
    "num_features",
    "out_channels",
    "out_features",
    "out_indices",
    "out_strides",
    "output_fmt",
    "output_shape",
    "output_stride",
    "size_divisibility",
    "stage_names",
    "stride",
    "strides",
)
RECIPES = ("group_matcher", "no_weight_decay", "set_grad_checkpointing")
"""Methods that training recipes of timm call, and that an adapted module takes from its backbone."""


def copy_facts(like: nn.Module, net: nn.Module) -> None:
    """Copy the attributes that describe a module's outputs to another module.

    Args:
        like: Where they are read.
        net: Where they are set.
    """
    for name in _FACTS:
        if hasattr(like, name):
            value = getattr(like, name)
            setattr(net, name, Said(value()) if callable(value) else copy.deepcopy(value))


class Said:
    """A method without arguments that returns copies of a value, in place of one of the old module."""

    def __init__(self, value: Any) -> None:
        self.value = value

    def __call__(self) -> Any:
        return copy.copy(self.value)


def filtered_call(net: nn.Module, *values: Any, **keywords: Any) -> Any:
    """Call a module without the keyword arguments that it does not take, as heads of transformers call a backbone."""
    known = inspect.signature(net.forward).parameters
    return net(*values, **{name: value for name, value in keywords.items() if name in known})


def recipe(backbone: nn.Module, name: str) -> Any:
    """A method of `RECIPES` of the backbone, with parameter names as they are in the adapted module."""
    method = getattr(backbone, name)
    if name == "no_weight_decay":
        return lambda: {f"backbone.{parameter}" for parameter in method()}
    if name == "group_matcher":
        return lambda coarse=False: _prefixed(method(coarse=coarse))
    return method


def _prefixed(patterns: Any) -> Any:
    """Regular expressions of parameter names, in timm's containers, with `backbone.` before each name."""
    match patterns:
        case str():
            return patterns.replace("^", r"^backbone\.", 1) if patterns.startswith("^") else rf"^backbone\.{patterns}"
        case tuple():
            return tuple(_prefixed(item) if isinstance(item, (str, tuple)) else item for item in patterns)
        case list():
            return [_prefixed(item) for item in patterns]
        case Mapping():
            return {key: _prefixed(item) for key, item in patterns.items()}
        case _:
            return patterns
