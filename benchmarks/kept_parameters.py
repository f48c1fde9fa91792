"""How many of the parameters that stand before the pooling of a model still serve, by what gradients reach.

Measured without what plans say of it (`plan.kept`), so that the two can be compared.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from autoadapt.contracts.trees import flatten

__all__ = ["kept_share"]


def kept_share(model: nn.Module, net: nn.Module, stages: Iterable[str], inputs: Any) -> float | None:
    """Share of the parameters behind the judged stages of a model that gradients of the adapted module reach.

    Args:
        model: The new module.
        net: It, adapted; its parameters are called `backbone.` and their name in the model.
        stages: Paths of the modules that end its stages; `:leaf` is not heeded.
        inputs: An image of the size that the model is made for.

    Returns:
        None where no stage has parameters or the model gives no gradients.
    """
    places = {path.partition(":")[0] for path in stages}
    behind = reached_by_stages(model, places, inputs)
    with torch.enable_grad():
        net.zero_grad(set_to_none=True)
        backward(flatten(net(inputs))[1])
    prefix = "backbone."
    serving = {name.removeprefix(prefix) for name, one in net.named_parameters() if one.grad is not None}
    sizes = {name: one.numel() for name, one in model.named_parameters()}
    whole = sum(sizes[name] for name in behind)
    return round(sum(sizes[name] for name in behind & serving) / whole, 4) if whole else None


def reached_by_stages(model: nn.Module, places: set[str], inputs: Any) -> set[str]:
    """Names of the parameters that have a gradient from what these modules return."""
    returned: list[Any] = []
    modules = dict(model.named_modules())
    hooks = [
        modules[place].register_forward_hook(lambda module, args, output: returned.append(output)) for place in places
    ]
    try:
        with torch.enable_grad():
            model.zero_grad(set_to_none=True)
            model(inputs)
            backward([leaf for output in returned for leaf in flatten(output)[1]])
    finally:
        for hook in hooks:
            hook.remove()
    reached = {name for name, one in model.named_parameters() if one.grad is not None}
    model.zero_grad(set_to_none=True)
    return reached


def backward(leaves: Iterable[Any]) -> None:
    """Gradients of the sum of all differentiable tensors among the leaves."""
    sums = [leaf.float().sum() for leaf in leaves if isinstance(leaf, torch.Tensor) and leaf.requires_grad]
    if sums:
        torch.stack(sums).sum().backward()
