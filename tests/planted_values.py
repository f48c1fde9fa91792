"""Faults of values and of the surroundings: where every shape is right, or only while something else holds."""

from __future__ import annotations

import random

import numpy as np
import torch
from spoiled_modules import Planted, Spoiled, spoiled, spoiled_where

KEPT: list[torch.Tensor] = []


def trains(module, image):
    return module.training


def learns_in_eval(module, image):
    return not module.training and torch.is_grad_enabled()


def without_gradients(module, image):
    return not torch.is_grad_enabled()


def large(module, image):
    return tuple(image.shape[2:]) == (40, 56)


def single(module, image):
    return len(image) == 1


def usual(module, image):
    return tuple(image.shape[2:]) == (224, 224)


def usual_batch(module, image):
    return len(image) > 1 and usual(module, image)


def large_batch(module, image):
    return len(image) > 1 and large(module, image)


def always(module, image):
    return True


def no_numbers(maps):
    maps["p3"] = maps["p3"] * float("nan")


def infinite(maps):
    maps["p3"] = maps["p3"] + float("inf")


def detach_some(maps):
    maps["p3"] = torch.cat([maps["p3"][:, :3].detach(), maps["p3"][:, 3:]], 1)


def shift(maps):
    maps["p2"] = maps["p2"] + 1


def mix(maps):
    maps["p3"] = maps["p3"] - maps["p3"].mean(0, keepdim=True)


def in_training_without_gradients(module, image):
    return module.training and not torch.is_grad_enabled()


def squares_of_256(module, image):
    return tuple(image.shape[2:]) == (256, 256)


def last_channels(module, image):
    return not image.is_contiguous()


def in_bfloat16(module, image):
    return image.dtype == torch.bfloat16


def under_autocast(module, image):
    return torch.is_autocast_enabled("cpu")


def several(module, image):
    return len(image) > 1


def third_item(maps):
    maps["p2"] = torch.cat([maps["p2"][:2], maps["p2"][2:3] + maps["p2"][:1], maps["p2"][3:]])


def last_item(maps):
    maps["p3"] = torch.cat([maps["p3"][:-1], maps["p3"][-1:] + maps["p3"][:1]])


def next_item(maps):
    maps["p3"] = torch.cat([maps["p3"][:-1] + maps["p3"][1:], maps["p3"][-1:]])


def shorten(maps):
    maps["p3"] = maps["p3"][..., 1:]


def widen(maps):
    maps["p2"] = maps["p2"].double()


def triple(maps):
    maps["p2"] = maps["p2"] * 3


def permute(maps):
    maps["p2"] = maps["p2"].permute(2, 3, 0, 1).contiguous().permute(2, 3, 0, 1)


def empty(maps):
    maps["p3"] = maps["p3"] * 0


def expand(maps):
    maps["p3"] = maps["p3"].mean(1, keepdim=True).expand(-1, 16, -1, -1)


def mirror(maps):
    maps["p2"] = maps["p2"].flip(3)


def turn_over(maps):
    maps["p3"] = maps["p3"].flip(2)


class WritesInTraining(Spoiled):
    """Changes its input where that leaves no trace in gradients."""

    def __init__(self, net, where=trains):
        super().__init__(net, lambda module, image, maps, labels: (image, maps, labels))
        self.where = where

    def forward(self, image):
        returned = super().forward(image)
        if self.where(self, image):
            image.detach().mul_(2)
        return returned


def keeps_a_copy(module, image, maps, labels):
    if maps["p2"].device.type != "meta":
        KEPT.append(maps["p2"].detach().clone())
    return image, maps, labels


def turns_gradients_on(module, image, maps, labels):
    torch.set_grad_enabled(True)
    return image, maps, labels


def seeds(module, image, maps, labels):
    torch.manual_seed(7)
    return image, maps, labels


def seeds_again(module, image, maps, labels):
    torch.manual_seed(torch.initial_seed())
    return image, maps, labels


def seeds_others(module, image, maps, labels):
    random.seed(7)
    return image, maps, labels


def seeds_numpy(module, image, maps, labels):
    np.random.seed(7)
    return image, maps, labels


def computes_in_double(module, image, maps, labels):
    torch.set_default_dtype(torch.float64)
    return image, maps, labels


def writes_learning(net):
    return WritesInTraining(net, learns_in_eval)


FAULTS = {
    "NaN in training": Planted(spoiled_where(trains, no_numbers), "train mode", "1.p3 in training: expected numbers"),
    "NaN with gradients": Planted(spoiled_where(learns_in_eval, no_numbers), "gradients", "1.p3: expected numbers"),
    "NaN at one size": Planted(spoiled_where(large, no_numbers), "sizes", "1.p3 at 40x56: expected numbers, found NaN"),
    "infinite": Planted(spoiled_where(always, infinite), "sizes", ": expected numbers, found infinity"),
    "channels detached": Planted(spoiled_where(always, detach_some), "gradients", "1.p3, channels 0, 1, 2 of 16"),
    "channels detached in training": Planted(
        spoiled_where(trains, detach_some), "train mode", "1.p3, channels 0, 1, 2 of 16"
    ),
    "values of one item": Planted(
        spoiled_where(single, shift), "calls", "1.p2 of one item: expected the values it has in a batch"
    ),
    "values without gradients": Planted(
        spoiled_where(without_gradients, shift), "gradients", "1.p2 with gradients: expected the values without"
    ),
    "mean of the batch at one size": Planted(
        spoiled_where(large_batch, mix),
        "sizes",
        "1.p3 of the first item at 40x56: expected the values it has in another",
    ),
    "NaN at a usual size": Planted(
        spoiled_where(usual, no_numbers), "sizes", "1.p3 at 224x224: expected numbers, found NaN"
    ),
    "mean of the batch at a usual size": Planted(
        spoiled_where(usual_batch, mix),
        "sizes",
        "1.p3 of the first item at 224x224: expected the values it has in another",
    ),
    "writes to its input in training": Planted(
        WritesInTraining, "train mode", "inputs.image: expected the values that it had, found written to by the call"
    ),
    "writes to its input with gradients": Planted(
        writes_learning, "gradients", "inputs.image: expected the values that it had, found written to by the call"
    ),
    "expanded for one item": Planted(
        spoiled_where(single, expand), "calls", "1.p3 at batch 1: expected a place for each value, found an expanded"
    ),
    "keeps a copy of each call": Planted(
        spoiled(keeps_a_copy), "calls", "memory: expected tensors freed with their last use"
    ),
    "turns gradients on": Planted(
        spoiled(turns_gradients_on), "calls", "torch's gradients: expected False after the call, found True"
    ),
    "seeds torch": Planted(spoiled(seeds), "calls", "torch's seed: expected"),
    "seeds torch as the caller did": Planted(
        spoiled(seeds_again), "calls", "torch's seed: expected left alone by the call, found set by the module"
    ),
    "seeds Python": Planted(
        spoiled(seeds_others), "calls", "Python's seed: expected left alone by the call, found set by the module"
    ),
    "sets the default dtype": Planted(
        spoiled(computes_in_double), "calls", "torch's default dtype: expected torch.float32 after the call"
    ),
    "left for right": Planted(
        spoiled_where(always, mirror), "sizes", "expected the upper right corner at the end of axis 3, found start"
    ),
    "upside down": Planted(
        spoiled_where(always, turn_over), "sizes", "expected the upper right corner at the start of axis 2, found end"
    ),
    "the last item sees the first": Planted(
        spoiled_where(several, last_item),
        "calls",
        "1.p3 of an item among others: expected the values it has in another batch, found other values",
    ),
    "the third item sees the first": Planted(
        spoiled_where(several, third_item),
        "calls",
        "1.p2 of an item among others: expected the values it has",
    ),
    "each item sees the next": Planted(
        spoiled_where(several, next_item),
        "calls",
        "1.p3 of an item among others: expected the values it has in another",
    ),
    "another shape in training without gradients": Planted(
        spoiled_where(in_training_without_gradients, shorten), "train mode", ", without gradients: expected [3, 16, "
    ),
    "float64 at a usual size": Planted(
        spoiled_where(squares_of_256, widen), "sizes", "1.p2 at 2x256x256: expected torch.float32, found torch.float64"
    ),
    "other values in channels-last memory": Planted(
        spoiled_where(last_channels, triple),
        "channels_last",
        "1.p2 in channels-last memory: expected the values that it has without, found other values",
    ),
    "other values in bfloat16": Planted(
        spoiled_where(in_bfloat16, triple),
        "bfloat16",
        "1.p2 in bfloat16: expected the values of full precision, but for rounding, found other values",
    ),
    "other values under autocast": Planted(
        spoiled_where(under_autocast, triple),
        "autocast",
        "1.p2 under autocast: expected the values of full precision, but for rounding, found other values",
    ),
    "rows that are permuted": Planted(
        spoiled_where(always, permute), "calls", "1.p2: expected contiguous memory, as the old module's, found strides"
    ),
    "seeds numpy": Planted(
        spoiled(seeds_numpy), "calls", "numpy's seed: expected left alone by the call, found set by the module"
    ),
    "zeros at a usual size": Planted(
        spoiled_where(usual, empty), "sizes", "1.p3 at 224x224: expected values, found zeros"
    ),
}
