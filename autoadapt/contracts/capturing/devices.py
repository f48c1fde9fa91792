"""Devices: where a module runs, and what a real pass there may take."""

from __future__ import annotations

import torch
from torch import nn

from autoadapt.contracts.instances import tensors_of

MOST_MULTIPLY_ADDS = {"cpu": 3e10}
"""The most for one real pass, by type of device: a second or two on one core."""
_ELSEWHERE = 1e12


def device_of(module: nn.Module) -> torch.device:
    """The device of a module's first parameter; the CPU without any."""
    return next((parameter.device for parameter in module.parameters()), torch.device("cpu"))


def on_meta_device(module: nn.Module) -> bool:
    """Whether some parameter or buffer is on the meta device, so that the module cannot run for real."""
    return any(tensor.is_meta for tensor in tensors_of(module))


def is_dear(module: nn.Module, multiply_adds: float) -> bool:
    """Whether a module has no values to run on, or real passes of so many multiply-adds together take too long."""
    return on_meta_device(module) or takes_long(device_of(module), multiply_adds)


def takes_long(device: torch.device, multiply_adds: float) -> bool:
    """Whether real passes of so many multiply-adds together take too long on a device."""
    return multiply_adds > MOST_MULTIPLY_ADDS.get(device.type, _ELSEWHERE)
