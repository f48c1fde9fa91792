"""Stems: the first convolution of a view is rewritten for images with another number of channels."""

from __future__ import annotations

import copy
import math
from typing import Any, TypeAlias

import torch
from torch import nn

from autoadapt.adapting import layers
from autoadapt.adapting.building.cutting import MetaRun
from autoadapt.adapting.operations import Channels
from autoadapt.adapting.planning import InputRoute, Plan, source_as_built
from autoadapt.contracts.views import eval_copy, on_meta

# Dimension letters: N channels of the given image, k kernel.

Conv: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d

_CLOSE = 1e-4
"""Largest difference of outputs that are taken for equal, relative to the largest output."""


def with_stems(backbone: nn.Module, plan: Plan) -> Plan:
    """Let the first convolution of a view read the channels of the given image.

    Args:
        backbone: A view; the convolution gets a weight of its own.
        plan: What is built; its input routes may have a `Channels` step that names the convolution.

    Returns:
        The plan. Where the first layer is not a plain convolution, or the view does not run with the new weight, the
        view is unchanged, and the plan's step mixes channels before the backbone instead.
    """
    return plan.model_copy(update={"inputs": tuple(_read(backbone, plan, route) for route in plan.inputs)})


def _read(backbone: nn.Module, plan: Plan, route: InputRoute) -> InputRoute:
    """Rewrite the convolution of one input route, if it has one; returns the route as it then is."""
    step = next((one for one in route.steps if isinstance(one, Channels) and one.stem), None)
    if step is None:
        return route
    layer, run = backbone.get_submodule(step.stem), MetaRun(plan, backbone)
    if isinstance(layer, Conv) and _is_plain(layer, step):
        before = _runs(backbone, run)
        weight, shared = layers.spread_channels(layer.weight.detach(), step.met), layer.weight
        layer.weight = nn.Parameter(weight, requires_grad=shared.requires_grad)
        layer.in_channels = step.source
        built = source_as_built(plan.model_copy(update={"inputs": (route,)}))
        given = MetaRun(plan.model_copy(update={"source": built}), backbone)
        if not before or _runs(backbone, given):
            return route
        layer.weight, layer.in_channels = shared, step.target
    mixed = step.model_copy(update={"stem": ""})
    return route.model_copy(update={"steps": tuple(mixed if one is step else one for one in route.steps)})


def _is_plain(layer: Conv, step: Channels) -> bool:
    """Whether a convolution has one group, and spreading its weight over channels equals mixing the image's channels.

    It does not for classes that normalise their weights.
    """
    if layer.groups != 1 or layer.in_channels != step.target:
        return False
    if "weight" not in layer._parameters:
        return False  # computed by a parametrisation
    with torch.device("cpu"):  # where it is tried with other weights: its own may be on another device, or zero
        return _is_linear(layer, step)


def _is_linear(layer: Conv, step: Channels) -> bool:
    """Compare both ways on one small image with made-up weights."""
    own, spread = copy.copy(layer), copy.copy(layer)
    parameters = {name: None if one is None else torch.ones(one.shape) for name, one in layer._parameters.items()}
    weight_DCk = torch.arange(layer.weight.numel()).sin().reshape(layer.weight.shape)
    sides = [by * (size - 1) + 1 for by, size in zip(layer.dilation, layer.kernel_size, strict=True)]
    images_BNk = torch.arange(step.source * math.prod(sides)).cos().reshape(1, step.source, *sides)
    own.__dict__["_parameters"] = {**parameters, "weight": weight_DCk}
    spread.__dict__["_parameters"] = {**parameters, "weight": layers.spread_channels(weight_DCk, step.met)}
    spread.in_channels = step.source
    run: Any = type(layer).forward  # without hooks
    try:
        with torch.no_grad():
            expected = run(own, layers.mix_channels(images_BNk, step.met, step.target))
            found = run(spread, images_BNk)
    except Exception:  # whatever a class of its own raises
        return False
    return found.shape == expected.shape and bool((found - expected).abs().max() <= _CLOSE * expected.abs().max())


def _runs(backbone: nn.Module, run: MetaRun) -> bool:
    """Whether a view runs on the meta device and returns the planned shapes."""
    try:
        run(eval_copy(backbone, on_meta))
    except Exception:  # whatever a model raises
        return False
    return True
