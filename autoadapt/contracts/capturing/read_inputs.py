"""Read inputs: whether a module uses an argument, or only takes it among `**kwargs`."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import bind
from autoadapt.contracts.capturing.devices import on_meta_device, takes_long
from autoadapt.contracts.capturing.hiding import others
from autoadapt.contracts.capturing.probing import Probe, ProbeError
from autoadapt.errors import AdaptError


def is_read(module: nn.Module, inputs: Mapping[str, object], name: str) -> bool:
    """Whether other values of an input change the outputs in any bit; true where no run can show it.

    Args:
        module: The module; only copies of it run.
        inputs: The example call, by keyword.
        name: The name of a tensor among them.
    """
    given = inputs[name]
    if not isinstance(given, torch.Tensor) or given.is_meta or not given.numel() or on_meta_device(module):
        return True
    changed = given.detach().clone()
    changed.copy_(others(changed, given))
    with contextlib.suppress(AdaptError, ProbeError):
        calls = [bind(module, {**inputs, name: one}) for one in (given, changed)]
        least = Probe(module, calls[0], real=False, inner=False)
        least.run()
        if takes_long(least.device, least.work.multiply_adds):
            return True
        left, right = (Probe(module, call, real=True, inner=False, forgets=False).run().tensors for call in calls)
        return len(left) != len(right) or not all(map(torch.equal, left, right))
    return True
