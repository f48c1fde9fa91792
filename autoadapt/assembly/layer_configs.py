"""Layers by their configs: norms, activations and convolutions as `norm_cfg` and `act_cfg` name them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from torch import nn

RELU: dict[str, Any] = {"type": "ReLU"}
"""What mmcv's layers end with where `act_cfg` is left out; where it is null, they end with none."""

_NORMS = {
    "BN": (nn.BatchNorm1d, nn.BatchNorm2d),
    "BN1d": (nn.BatchNorm1d, nn.BatchNorm1d),
    "BN2d": (nn.BatchNorm2d, nn.BatchNorm2d),
    "SyncBN": (nn.BatchNorm1d, nn.BatchNorm2d),
}


_ACTIVATIONS = {"HSwish": "Hardswish", "Swish": "SiLU"}
"""Activations that mmcv has under other names."""


def norm(config: Mapping[str, Any] | None, channels: int, axes: int) -> list[nn.Module]:
    """The layer of a `norm_cfg`, or nothing.

    Args:
        config: `{type: BN}`, `BN1d`, `BN2d`, `SyncBN` (a BN, which a distributed trainer converts), `GN`, `LN`; with
            `requires_grad` and the arguments of the layer.
        channels: Of what it normalises.
        axes: 1 for vectors, 2 for maps.

    Raises:
        ValueError: There is no such norm.

    Example:
        >>> [layer.num_groups for layer in norm({"type": "GN", "num_groups": 2}, 4, 2)]
        [2]
    """
    if config is None:
        return []
    given = dict(config)
    kind, requires_grad = str(given.pop("type", "")), bool(given.pop("requires_grad", True))
    if kind in _NORMS:
        made: nn.Module = _NORMS[kind][axes - 1](channels, **given)
    elif kind == "GN":
        made = nn.GroupNorm(num_channels=channels, **given)
    elif kind == "LN" and axes == 1:
        made = nn.LayerNorm(channels, **given)
    else:
        raise ValueError(f"norm_cfg is of type {', '.join(_NORMS)}, GN or LN (vectors), got {kind!r}")
    made.requires_grad_(requires_grad=requires_grad)
    return [made]


def activation(config: Mapping[str, Any] | None) -> list[nn.Module]:
    """The layer of an `act_cfg`, one of torch's activations by its name, or nothing.

    Raises:
        ValueError: There is no such activation.

    Example:
        >>> activation({"type": "LeakyReLU", "negative_slope": 0.1})
        [LeakyReLU(negative_slope=0.1)]
    """
    if config is None:
        return []
    given = dict(config)
    kind = str(given.pop("type", ""))
    made = getattr(nn.modules.activation, _ACTIVATIONS.get(kind, kind), None)
    if not (isinstance(made, type) and issubclass(made, nn.Module)):
        raise ValueError(f"act_cfg names an activation of torch.nn, such as ReLU, got {kind!r}")
    return [made(**given)]


def convolution(
    in_channels: int,
    out_channels: int,
    kernel_size: int,
    norm_cfg: Mapping[str, Any] | None,
    act_cfg: Mapping[str, Any] | None,
    *,
    stride: int = 1,
    dilation: int = 1,
) -> nn.Sequential:
    """A padded convolution, its norm and its activation; it has a bias where there is no norm."""
    conv = nn.Conv2d(
        in_channels,
        out_channels,
        kernel_size,
        stride=stride,
        padding=kernel_size // 2 * dilation,
        dilation=dilation,
        bias=norm_cfg is None,
    )
    return nn.Sequential(conv, *norm(norm_cfg, out_channels, 2), *activation(act_cfg))
