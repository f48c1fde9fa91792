"""Device and mode: how a module stands in a model: its device and dtype, mode, gradients and memory format."""

from __future__ import annotations

import torch
from torch import nn

from autoadapt.adapting.building import AdaptedModule
from autoadapt.errors import Mismatch, SwapError


def move(module: nn.Module, old: nn.Module) -> None:
    """Bring a module to the device and dtype of another; one without weights leaves it as it is.

    Raises:
        SwapError: Its weights have no values, as on the meta device, and those of the other do.
    """
    like = next((p for p in old.parameters() if p.is_floating_point()), None)
    if like is not None and like.device.type != "meta":
        _refuse_meta(module, like.device)
    if like is not None:
        module.to(device=like.device, dtype=like.dtype)


def _refuse_meta(module: nn.Module, device: torch.device) -> None:
    named = [*module.named_parameters(), *module.named_buffers()]
    without = next((name for name, tensor in named if tensor.is_meta), None)
    if without is not None:
        name = type(module).__name__
        remedy = f'new.to_empty(device="{device}") and load its weights, or build it with the default device "cpu"'
        fault = Mismatch(without, f"values, on {device}", "the meta device, without values", remedy)
        raise SwapError(f"{name} is on the meta device and the model is not", [fault])


def take_over(net: nn.Module, old: nn.Module, *, is_generated: bool = False) -> None:
    """Bring a module into the mode, the gradient pattern and the memory format of another.

    Parts that are in another mode than the whole keep it, such as norms in eval mode while the rest is trained. A
    module that is in eval mode but for some parts, and comes to a place that is trained, keeps those in eval mode too.

    Args:
        net: What takes the place.
        old: What stood there.
        is_generated: Whether all of the module is generated, not only the adapters of an adapted one.
    """
    if net.training != old.training:
        inner = net.backbone if isinstance(net, AdaptedModule) else net
        kept = [part for part in inner.modules() if part is not inner and not part.training]
        mixed = any(part.training for part in inner.modules())
        net.train(old.training)
        for part in kept if mixed and old.training else ():
            part.training = False
    norms = {part.training for part in old.modules() if isinstance(part, _NORMS)}
    if norms == {False}:
        for part in net.modules():
            if isinstance(part, _NORMS):
                part.eval()
    whole = "" if is_generated else "adapters."
    _take_over_gradients(net, old, whole)
    images = [p for p in old.parameters() if p.dim() == 4 and min(p.shape[1:]) > 1]
    if images and all(p.is_contiguous(memory_format=torch.channels_last) for p in images):
        net.to(memory_format=torch.channels_last)


_NORMS = (nn.modules.batchnorm._BatchNorm,)


def _take_over_gradients(net: nn.Module, old: nn.Module, generated: str) -> None:
    """All frozen or all trained as the old one was; a mixed pattern goes over where names agree.

    What serves no output stays frozen, so that distributed training does not wait for it. Generated layers are never
    frozen: they start from random weights, which nothing would ever change.
    """
    unused = {f"backbone.{name}" for name in net.plan.frozen} if isinstance(net, AdaptedModule) else set()
    pattern = {name: p.requires_grad for name, p in old.named_parameters() if p.is_floating_point()}
    common = set(pattern.values())
    for name, parameter in net.named_parameters():
        if not parameter.is_floating_point() or not common or name in unused:
            continue
        if name.startswith(generated):
            parameter.requires_grad_(True)
        elif len(common) == 1:
            parameter.requires_grad_(common == {True})
        elif (inner := name.removeprefix("backbone.")) in pattern and isinstance(net, AdaptedModule):
            parameter.requires_grad_(pattern[inner])
