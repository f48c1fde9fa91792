"""Stems: first convolutions of a view, rewritten for another number of input channels."""

from __future__ import annotations

from torch import nn

from autoadapt.adapting import layers
from autoadapt.errors import BuildError, Mismatch

__all__ = ["read_channels"]


def read_channels(module: nn.Module, path: str, source: int, target: int) -> None:
    """Let a convolution of a view read another number of channels.

    The response to an image that is the same in all channels is kept, see `layers.spread_channels`.

    Args:
        module: A view; the convolution's weight is replaced by one of its own.
        path: The convolution.
        source: Channels that are given.
        target: Channels that it was made for.

    Raises:
        BuildError: What stands there is no convolution over all channels of the input.
    """
    layer = module.get_submodule(path)
    if not isinstance(layer, (nn.Conv1d, nn.Conv2d, nn.Conv3d)) or layer.groups != 1 or layer.in_channels != target:
        fault = Mismatch(
            path,
            f"a convolution that reads the {target} channels of the input",
            f"{type(layer).__name__}",
            f"in_chans={source}  # build the new module for these inputs",
        )
        raise BuildError(f"the first layer cannot be made to read {source} channels", [fault])
    weight = layers.spread_channels(layer.weight.detach(), source)
    layer.weight = nn.Parameter(weight, requires_grad=layer.weight.requires_grad)
    layer.in_channels = source
