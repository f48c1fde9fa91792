"""Reading layers: those that read channels linearly, and the same layers for the channels that are handed on."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import torch
from torch import nn

from autoadapt.contracts.layer_kinds import CONVOLUTIONS, COUNTED, TRANSPOSED
from autoadapt.swapping.folding.attention import AttentionProjection
from autoadapt.swapping.folding.statements import STALE, Statement

# Dimension letters: D channels that the layer reads, M that it reads once projections are gone, O that it returns.

_NORMS = (nn.modules.batchnorm._BatchNorm, nn.modules.instancenorm._InstanceNorm)
_DEFORMABLE = "torchvision.ops.deform_conv.DeformConv2d"

FOLDED = ": the model was folded"
"""How the reason goes on where a layer is given other channels than it reads."""


def is_reader(module: nn.Module) -> bool:
    """Whether a module is a linear layer or a convolution, of the plain kinds or one derived from them."""
    return isinstance(module, COUNTED) or _kind(module) == _DEFORMABLE


def _kind(module: nn.Module) -> str:
    return f"{type(module).__module__}.{type(module).__name__}"


def why_not_read(model: nn.Module, path: str) -> str:
    """Why a layer cannot be made anew for other channels; empty where it can."""
    layer = model.get_submodule(path)
    plain = (AttentionProjection, *COUNTED)
    if type(layer) not in plain and _kind(layer) != _DEFORMABLE:
        return f"{path}, a {type(layer).__name__}"
    if getattr(layer, "groups", 1) != 1:
        return f"{path} with groups={layer.groups}"
    if dict(layer.named_parameters()).keys() - {"weight", "bias"} or not isinstance(layer.weight, nn.Parameter):
        return f"{path}, whose weight is computed from others"
    owners = [one for one in model.modules() if any(each is layer.weight for each in one._parameters.values())]
    return f"{path}, whose weight another layer has too" if len(owners) > 1 else ""


def misfit(layer: nn.Module, stated: Statement, tensor: torch.Tensor) -> str:
    """Why a layer does not read the channels of a tensor; empty where it does."""
    if stated.shuffle is not None:
        return "channels spread over several axes"
    if stated.is_stale:
        return STALE
    axis = tensor.dim() - (1 if isinstance(layer, nn.Linear) else layer.weight.dim() - 1)  # type: ignore[operator]
    return "" if stated.axis == axis else f"channels on axis {stated.axis}, and it reads axis {axis}"


def needs_ones(layer: nn.Module) -> bool:
    """Whether a constant offset of what it reads is no constant offset of what it returns, as at padded borders."""
    if isinstance(layer, nn.Linear):
        return False
    if isinstance(layer, TRANSPOSED):
        return {*layer.kernel_size, *layer.stride} != {1} or {*layer.padding, *layer.output_padding} != {0}
    padding = layer.padding
    pads = padding != "valid" and any(size != 0 for size in (padding if isinstance(padding, tuple) else (padding,)))
    return (pads and getattr(layer, "padding_mode", "zeros") == "zeros") or _kind(layer) == _DEFORMABLE


def resize(layer: nn.Module, channels: int, *, returns: int = 0, has_bias: bool = True) -> None:
    """Give a layer a weight of zeros for other channels, in place; its hooks stay, and whoever holds it has it.

    Args:
        layer: A layer that can be made anew; or one that treats each channel alone, as a normalisation.
        channels: How many it reads, or features of a linear layer.
        returns: How many it returns; as many as before, if left out.
        has_bias: Whether it has an offset, where it is one of channels to others.
    """
    if not is_reader(layer) or getattr(layer, "groups", 1) != 1:
        _resize_each(layer, channels)
        return
    kind = "features" if isinstance(layer, nn.Linear) else "channels"
    returns = returns or getattr(layer, f"out_{kind}")
    sizes = (channels, returns) if isinstance(layer, TRANSPOSED) else (returns, channels)
    weight = layer.get_parameter("weight")
    layer.weight = nn.Parameter(weight.new_zeros(*sizes, *weight.shape[2:]), requires_grad=weight.requires_grad)
    offset = layer.bias if isinstance(layer.bias, nn.Parameter) else weight
    if has_bias and (offset is weight or len(offset) != returns):
        layer.bias = nn.Parameter(offset.new_zeros(returns), requires_grad=offset.requires_grad)
    setattr(layer, f"in_{kind}", channels)
    setattr(layer, f"out_{kind}", returns)


def _resize_each(layer: nn.Module, channels: int) -> None:
    """A layer that treats each channel alone: its tensors have one entry, or one filter, for each."""
    before = channels_of_each(layer)
    if not before:
        raise TypeError(f"a {type(layer).__name__} has no channels that could be others")
    for name, tensor in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
        if tensor.dim() and tensor.shape[0] == before:
            made = tensor.new_zeros(channels, *tensor.shape[1:])
            is_weight = isinstance(tensor, nn.Parameter)
            setattr(layer, name, nn.Parameter(made, requires_grad=tensor.requires_grad) if is_weight else made)
    for name in ("num_features", "num_channels", "num_parameters", "in_channels", "out_channels", "groups"):
        if getattr(layer, name, None) == before:
            setattr(layer, name, channels)
    if isinstance(layer, nn.LayerNorm):
        layer.normalized_shape = (channels,)


def channels_of_each(layer: nn.Module) -> int:
    """How many channels a layer has that treats each alone; zero for any other module."""
    if isinstance(layer, nn.LayerNorm):
        return layer.normalized_shape[0] if len(layer.normalized_shape) == 1 else 0
    if isinstance(layer, CONVOLUTIONS):
        return layer.groups if layer.groups == layer.in_channels == layer.out_channels > 1 else 0
    if isinstance(layer, nn.PReLU):
        return layer.num_parameters if layer.num_parameters > 1 else 0
    if isinstance(layer, nn.GroupNorm):
        return layer.num_channels
    return layer.num_features if isinstance(layer, _NORMS) else 0


def merged(layer: nn.Module, stated: Statement, ones: Collection[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """The weight for the channels that are handed on, and what is added to the offset, `[O]`.

    Args:
        layer: The layer as it is.
        stated: What is known of the tensor that it reads.
        ones: The outputs that are handed on with a channel of ones.
    """
    weight = layer.weight.detach().double()  # type: ignore[operator]
    matrix_DM, offset_D = (one.to(weight.device) for one in stated.split(ones))
    reads = 0 if isinstance(layer, TRANSPOSED) else 1
    cells = weight.movedim(reads, 0).unflatten(0, (stated.outer, stated.channels, stated.inner))
    made = torch.einsum("adi...,dm->ami...", cells, matrix_DM).flatten(0, 2).movedim(0, reads)
    return made, torch.einsum("adio...,d->o", cells, offset_D)


def guard(layer: nn.Module) -> None:
    """Let a layer say what was folded where it is given other channels than it reads, as on a path that nobody saw."""
    if _refuse_other_channels not in layer._forward_pre_hooks.values():
        layer.register_forward_pre_hook(_refuse_other_channels)


def _refuse_other_channels(layer: nn.Module, args: tuple[Any, ...]) -> None:
    is_linear = isinstance(layer, nn.Linear)
    expected = layer.in_features if is_linear else layer.in_channels
    axis = -1 if is_linear else 1 - layer.weight.dim()  # type: ignore[operator]
    if not args or not isinstance(args[0], torch.Tensor) or args[0].dim() < -axis:
        return
    with torch._C.DisableTorchFunction():  # it is no call of the model's code, which `Reroute` counts
        given = args[0].shape[axis]
    if not isinstance(given, torch.Tensor) and given != expected:  # one is, while torch.jit traces
        raise RuntimeError(
            f"{layer} is given {given} channels and reads {expected}{FOLDED} for other paths than this one; "
            "fold with inputs= that take this path, or keep the model unfolded"
        )
