"""Adapted modules broken on purpose, each with the check that must fail and what it must say."""

from __future__ import annotations

import copy
from collections import OrderedDict
from typing import Any

import planted_calls
import planted_training
import planted_values
import torch
from spoiled_modules import Planted, Spoiled, spoiled, unchanged
from torch import nn


def wrong_stride_at_odd_sizes(module, image, maps, labels):
    if image.shape[2] % 2:
        maps["p3"] = maps["p3"][:, :, :-1]
    return image, maps, labels


def batch_baked_in(module, image, maps, labels):
    maps["p3"] = maps["p3"].reshape(2, 16, -1).unflatten(2, maps["p3"].shape[2:])
    return image, maps, labels


def size_baked_in(module, image, maps, labels):
    maps["p3"] = nn.functional.adaptive_avg_pool2d(maps["p3"], (5, 7))
    return image, maps, labels


def swapped_levels(module, image, maps, labels):
    return image, OrderedDict(p2=maps["p3"], p3=maps["p2"]), labels


def list_for_tuple(module, image, maps, labels):
    return [image, maps, labels]


def dict_for_ordered_dict(module, image, maps, labels):
    return image, dict(maps), labels


def lost_key(module, image, maps, labels):
    del maps["p2"]
    return image, maps, labels


def added_key(module, image, maps, labels):
    maps["p4"] = maps["p3"]
    return image, maps, labels


def reordered_keys(module, image, maps, labels):
    maps.move_to_end("p2")
    return image, maps, labels


def none_for_tensor(module, image, maps, labels):
    maps["p2"] = None
    return image, maps, labels


def number_for_tensor(module, image, maps, labels):
    return image, maps, 0


def one_axis_more(module, image, maps, labels):
    return image, maps, labels.unsqueeze(1)


def float64(module, image, maps, labels):
    maps["p2"] = maps["p2"].double()
    return image, maps, labels


def int64_for_int32(module, image, maps, labels):
    return image, maps, labels.long()


def floats_for_integers(module, image, maps, labels):
    return image, maps, labels.float()


def copied_input(module, image, maps, labels):
    return image.clone(), maps, labels


def copied_input_in_training(module, image, maps, labels):
    return image.clone() if module.training else image, maps, labels


def detached(module, image, maps, labels):
    maps["p3"] = maps["p3"].detach()
    return image, maps, labels


def overwritten_for_backward(module, image, maps, labels):
    squared = maps["p3"].sigmoid()
    maps["p3"] = squared * squared
    squared.zero_()
    return image, maps, labels


def always_float32(module, image, maps, labels):
    maps["p2"] = maps["p2"].float()
    return image, maps, labels


def constant_of_float32(module, image, maps, labels):
    maps["p2"] = torch.einsum("bchw,cd->bdhw", maps["p2"], torch.eye(8))
    return image, maps, labels


def half_under_autocast(module, image, maps, labels):
    if torch.is_autocast_enabled("cpu"):
        maps["p2"] = maps["p2"].half()
    return image, maps, labels


def smaller_in_training(module, image, maps, labels):
    if module.training:
        maps["p3"] = maps["p3"][:, :, ::2]
    return image, maps, labels


def more_in_training(module, image, maps, labels):
    return (image, maps, labels, maps["p3"].mean()) if module.training else (image, maps, labels)


def needs_rows_in_memory(module, image, maps, labels):
    maps["p2"] = maps["p2"].view(len(image), -1).view(maps["p2"].shape)
    return image, maps, labels


def remembers_the_first_size(module, image, maps, labels):
    if not hasattr(module, "kept"):
        module.kept = maps["p2"].shape[2:]
    maps["p2"] = nn.functional.interpolate(maps["p2"], tuple(module.kept))
    return image, maps, labels


def asks_for_values(module, image, maps, labels):
    if maps["p2"].sum() > 0:
        maps["p2"] = maps["p2"] * 1
    return image, maps, labels


class UnusedParameter(Spoiled):
    """Holds a parameter that no output depends on."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, unchanged)
        self.left_over = nn.Parameter(torch.zeros(3))


class DeepcopyRaises(Spoiled):
    """Cannot be copied."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, unchanged)

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        raise TypeError("cannot copy a running counter")


class DeepcopyLoses(Spoiled):
    """Comes back from a copy without what consumers read off it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, unchanged)
        self.out_channels = [8, 16]

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        made = DeepcopyLoses(copy.deepcopy(self.net, memo))
        del made.out_channels
        return made.train(self.training)


class PickleLoses(Spoiled):
    """Comes back from a pickle without its hooks."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, unchanged)
        self.register_forward_hook(silent_hook)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_forward_hooks": OrderedDict()}

    def __deepcopy__(self, memo: dict[int, Any]) -> nn.Module:
        return PickleLoses(copy.deepcopy(self.net, memo)).train(self.training)


class Unpicklable(Spoiled):
    """Holds a function that pickle cannot name."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, lambda module, image, maps, labels: (image, maps, labels))


class CheckpointingBreaks(Spoiled):
    """Returns other sizes as soon as gradient checkpointing is on."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__(net, smaller_when_checkpointing)
        self.checkpointing = False

    def set_grad_checkpointing(self, enable: bool = True) -> None:
        self.checkpointing = enable


def smaller_when_checkpointing(module, image, maps, labels):
    if module.checkpointing:
        maps["p3"] = maps["p3"][..., :1]
    return image, maps, labels


def silent_hook(module, args, output):
    return None


FAULTS = {
    "wrong stride at odd sizes only": Planted(spoiled(wrong_stride_at_odd_sizes), "sizes", "1.p3 at "),
    "batch baked in": Planted(spoiled(batch_baked_in), "sizes", "invalid for input of size"),
    "swapped levels": Planted(spoiled(swapped_levels), "signature", "1.p2, axis 1: expected 8, found 16"),
    "list for tuple": Planted(spoiled(list_for_tuple), "signature", "expected tuple of 3, found list of 3"),
    "lost dict key": Planted(
        spoiled(lost_key), "signature", "expected ordered dict of 2: p2, p3, found ordered dict of 1: p3"
    ),
    "None for a tensor": Planted(spoiled(none_for_tensor), "signature", "1.p2: expected tensor, found None"),
    "size baked in": Planted(spoiled(size_baked_in), "signature", "1.p3, axis 2: expected ceil(H/8), found 5"),
    "OrderedDict to dict": Planted(
        spoiled(dict_for_ordered_dict), "signature", "expected ordered dict of 2, found dict of 2"
    ),
    "added dict key": Planted(spoiled(added_key), "signature", "found ordered dict of 3: p2, p3, p4"),
    "reordered dict": Planted(
        spoiled(reordered_keys), "signature", "expected ordered dict of 2: p2, p3, found ordered dict of 2: p3, p2"
    ),
    "a number for a tensor": Planted(spoiled(number_for_tensor), "signature", "2: expected tensor, found 0"),
    "one axis more": Planted(
        spoiled(one_axis_more), "signature", "expected i32[B, ceil(H/8), ceil(W/8)], found i32[B, 1,"
    ),
    "float64": Planted(spoiled(float64), "signature", "1.p2: expected f32, found f64"),
    "int64 for int32": Planted(spoiled(int64_for_int32), "signature", "2: expected i32, found i64"),
    "floats for integers": Planted(spoiled(floats_for_integers), "signature", "2: expected i32, found f32"),
    "copies the input": Planted(spoiled(copied_input), "signature", "expected the tensor inputs.image itself"),
    "copies the input in training": Planted(
        spoiled(copied_input_in_training), "train mode", "expected the tensor inputs.image itself, found another tensor"
    ),
    "detached gradient": Planted(
        spoiled(detached), "gradients", "1.p3: expected a gradient, found none: it is detached"
    ),
    "overwritten for backward": Planted(
        spoiled(overwritten_for_backward), "gradients", "modified by an inplace operation"
    ),
    "unused parameter": Planted(
        UnusedParameter, "gradients", "left_over: expected a gradient, found none: it is not used"
    ),
    "always float32": Planted(spoiled(always_float32), "bfloat16", "expected bf16, found f32"),
    "breaks in bfloat16": Planted(spoiled(constant_of_float32), "bfloat16", "RuntimeError"),
    "half under autocast": Planted(spoiled(half_under_autocast), "autocast", "found torch.float16"),
    "train-mode shape change": Planted(spoiled(smaller_in_training), "train mode", "1.p3 at "),
    "train-mode extra output": Planted(
        spoiled(more_in_training), "train mode", "expected tuple of 3 (0, 1, 2), found tuple of 4"
    ),
    "breaks in channels_last": Planted(spoiled(needs_rows_in_memory), "channels_last", "view size is not compatible"),
    "remembers the first size": Planted(spoiled(remembers_the_first_size), "sizes", "1.p2 at "),
    "deepcopy raises": Planted(DeepcopyRaises, "deepcopy, pickle", "cannot copy a running counter"),
    "deepcopy loses attributes": Planted(DeepcopyLoses, "deepcopy, pickle", "attributes after deepcopy"),
    "pickle raises": Planted(Unpicklable, "deepcopy, pickle", "lambda"),
    "pickle loses hooks": Planted(PickleLoses, "deepcopy, pickle", "hooks after pickle"),
    "checkpointing breaks": Planted(CheckpointingBreaks, "checkpointing", "1.p3 at "),
}
FAULTS |= planted_calls.FAULTS | planted_training.FAULTS | planted_values.FAULTS
