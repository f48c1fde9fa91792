"""Faults that show at some sizes, values, dtypes or neighbours alone, or in what one call leaves for the next."""

from __future__ import annotations

import copy
from typing import Any

import torch
from spoiled_modules import Planted, Spoiled, spoiled, spoiled_where, unchanged
from torch import nn


def always(module, image):
    return True


def square(module, image):
    return image.shape[2] == image.shape[3]


def usual(module, image):
    return tuple(image.shape[2:]) == (224, 224)


def large(module, image):
    return image.shape[2] >= 384


def whole_steps(module, image):
    return image.shape[2] % 32 == 0 and image.shape[3] % 32 == 0


def bright(module, image):
    return image.device.type != "meta" and bool(image.abs().max() > 20)


def dark(module, image):
    return image.device.type != "meta" and not bool(image.any())


def inferring(module, image):
    return torch.is_inference_mode_enabled()


def bfloat(module, image):
    return image.dtype == torch.bfloat16


def half(module, image):
    return image.dtype == torch.float16


def autocasting(module, image):
    return torch.is_autocast_enabled("cpu")


def shorten(maps):
    maps["p3"] = maps["p3"][:, :, :-1]


def lose(maps):
    del maps["p2"]


def turn(maps):
    maps["p2"] = maps["p2"].transpose(2, 3)


def shift(maps):
    maps["p2"] = maps["p2"] + 1


def overflow(maps):
    maps["p2"] = maps["p2"] * float("inf")


def no_numbers(maps):
    maps["p3"] = maps["p3"] * float("nan")


def float32(maps):
    maps["p2"] = maps["p2"].float()


def raise_error(maps):
    raise RuntimeError("not made for this")


def batch_norm_of_the_batch(module, image, maps, labels):
    maps["p3"] = maps["p3"] - maps["p3"].mean(0, keepdim=True)
    return image, maps, labels


def first_item_for_all(module, image, maps, labels):
    maps["p2"] = maps["p2"] + maps["p2"][:1].amax()
    return image, maps, labels


def one_buffer(module, image, maps, labels):
    if not hasattr(module, "buffer") or module.buffer.shape != maps["p3"].shape or torch.is_grad_enabled():
        module.buffer = torch.empty_like(maps["p3"])
    if torch.is_grad_enabled() or maps["p3"].device.type == "meta":
        return image, maps, labels
    module.buffer.copy_(maps["p3"])
    maps["p3"] = module.buffer
    return image, maps, labels


def expanded(module, image, maps, labels):
    maps["p3"] = maps["p3"].mean(1, keepdim=True).expand(-1, 16, -1, -1)
    return image, maps, labels


def dropout(module, image, maps, labels):
    maps["p2"] = nn.functional.dropout(maps["p2"], 0.3, training=True)
    return image, maps, labels


def counting(module, image, maps, labels):
    module.calls = getattr(module, "calls", 0) + 1
    maps["p2"] = maps["p2"] * module.calls
    return image, maps, labels


def rows_by_value(module, image, maps, labels):
    if dark(module, image):
        labels = labels[:, :1]
    return image, maps, labels


def keeps_outputs(module, image, maps, labels):
    module.__dict__.setdefault("history", []).append(maps["p3"].detach())
    return image, maps, labels


def keeps_outputs_elsewhere(module, image, maps, labels):
    KEPT.append(maps["p2"])
    return image, maps, labels


KEPT: list[torch.Tensor] = []


def counts_sizes(module, image, maps, labels):
    module.__dict__.setdefault("seen", {})[len(getattr(module, "seen", {}))] = tuple(image.shape)
    return image, maps, labels


def keeps_an_inference_tensor(module, image, maps, labels):
    if not hasattr(module, "scale") and image.device.type != "meta":
        module.scale = torch.ones(1, device=image.device)
    if image.device.type != "meta":
        maps["p2"] = maps["p2"] * module.scale
    return image, maps, labels


class WritesToInput(Spoiled):
    """Normalises the caller's image where it stands."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, unchanged)

    def forward(self, image: torch.Tensor) -> Any:
        if not image.requires_grad:
            image.sub_(0.5)
        return super().forward(image)


class DeepcopyTrains(Spoiled):
    """Comes back from a copy in train mode."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, unchanged)
        self.eval()

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        return DeepcopyTrains(copy.deepcopy(self.net, memo)).train()


FAULTS = {
    "shape at squares": Planted(spoiled_where(square, shorten), "sizes", "1.p3 at 1x224x224: expected"),
    "shape at 224 alone": Planted(spoiled_where(usual, shorten), "sizes", "1.p3 at 1x224x224: expected"),
    "raises at 224 alone": Planted(spoiled_where(usual, raise_error), "sizes", "found RuntimeError: not made for this"),
    "shape from 384 on": Planted(spoiled_where(large, shorten), "sizes", "1.p3 at 2x384x384: expected"),
    "shape at multiples of 32": Planted(spoiled_where(whole_steps, shorten), "sizes", "1.p3 at 1x224x224: expected"),
    "key lost at multiples of 32": Planted(spoiled_where(whole_steps, lose), "sizes", "container at 1x224x224"),
    "turned at squares": Planted(
        spoiled_where(square, turn), "sizes", "expected the upper right corner at the start of axis 2, found end"
    ),
    "key by values": Planted(
        spoiled_where(bright, lose), "calls", "inputs times 8: expected ordered dict of 2 (p2, p3)"
    ),
    "key by darkness": Planted(spoiled_where(dark, lose), "calls", "inputs times 0: expected ordered dict"),
    "columns by values": Planted(spoiled(rows_by_value), "calls", "inputs times 0: expected [2,"),
    "mean of the batch": Planted(
        spoiled(batch_norm_of_the_batch),
        "calls",
        "1.p3 of an item among others: expected the values it has in another batch",
    ),
    "first item for all": Planted(
        spoiled(first_item_for_all),
        "calls",
        "1.p2 of an item among others: expected the values it has in another batch",
    ),
    "one output buffer": Planted(spoiled(one_buffer), "calls", "1.p3 after another call: expected memory of its own"),
    "expanded output": Planted(spoiled(expanded), "calls", "1.p3: expected a place for each value, found an expanded"),
    "dropout in eval mode": Planted(spoiled(dropout), "calls", "1.p2 of equal inputs: expected equal values"),
    "a counter in the values": Planted(spoiled(counting), "calls", "1.p2 of equal inputs: expected equal values"),
    "NaN": Planted(spoiled_where(always, no_numbers), "calls", "1.p3: expected numbers, found NaN"),
    "values in inference_mode": Planted(
        spoiled_where(inferring, shift), "calls", "1.p2 in inference_mode: expected the values outside of it"
    ),
    "raises in inference_mode": Planted(
        spoiled_where(inferring, raise_error),
        "calls",
        "inference_mode: expected a run without error, found RuntimeError",
    ),
    "a tensor kept from inference_mode": Planted(
        spoiled(keeps_an_inference_tensor), "calls", "training after inference_mode: expected a run without error"
    ),
    "keeps every output": Planted(spoiled(keeps_outputs), "calls", "memory: expected no more after each call"),
    "keeps every output elsewhere": Planted(
        spoiled(keeps_outputs_elsewhere), "calls", "memory: expected outputs freed with their last use"
    ),
    "keeps every size": Planted(spoiled(counts_sizes), "calls", "memory: expected no more after each call"),
    "writes to its input": Planted(
        WritesToInput, "calls", "inputs.image: expected the values that it had, found written to by the call"
    ),
    "NaN in bfloat16": Planted(spoiled_where(bfloat, no_numbers), "bfloat16", "1.p3: expected finite values"),
    "overflow in bfloat16": Planted(spoiled_where(bfloat, overflow), "bfloat16", "1.p2: expected finite values"),
    "NaN in float16": Planted(spoiled_where(half, no_numbers), "float16", "1.p3: expected finite values"),
    "float32 out of float16": Planted(spoiled_where(half, float32), "float16", "expected f16, found f32"),
    "raises in float16": Planted(spoiled_where(half, raise_error), "float16", "RuntimeError: not made for this"),
    "shape under autocast": Planted(spoiled_where(autocasting, shorten), "autocast", "1.p3: expected [2, 16,"),
    "NaN under autocast": Planted(spoiled_where(autocasting, no_numbers), "autocast", "1.p3: expected finite values"),
    "deepcopy trains": Planted(DeepcopyTrains, "deepcopy, pickle", "after deepcopy: expected eval mode, found train"),
}
