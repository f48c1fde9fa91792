"""Faults of training: outputs that are wrong only while gradients are on, and gradients that are none."""

from __future__ import annotations

from collections import OrderedDict

import torch
from spoiled_modules import Planted, spoiled, spoiled_where


def always(module, image):
    return True


def trains(module, image):
    return module.training


def learns(module, image):
    return module.training and torch.is_grad_enabled()


def learns_in_eval(module, image):
    return not module.training and torch.is_grad_enabled()


def learns_one(module, image):
    return learns(module, image) and len(image) == 1


def learns_small(module, image):
    return learns(module, image) and image.shape[2] < 40


def wants_gradient(module, image):
    return image.requires_grad


def shorten(maps):
    maps["p3"] = maps["p3"][:, :, :-1]


def lose(maps):
    del maps["p2"]


def add(maps):
    maps["aux"] = maps["p3"].mean()


def exchange(maps):
    maps["p2"], maps["p3"] = maps["p3"], maps["p2"]


def double(maps):
    maps["p2"] = maps["p2"].double()


def detach(maps):
    maps["p3"] = maps["p3"].detach()


def zero_gradient(maps):
    maps["p3"] = maps["p3"].detach() + 0 * maps["p3"]


def nan_gradient(maps):
    maps["p3"] = maps["p3"] + (maps["p3"] - maps["p3"]).sqrt()


def raise_error(maps):
    raise RuntimeError("no gradients wanted here")


def renamed(module, image, maps, labels):
    if learns(module, image):
        return image, OrderedDict(fine=maps["p2"], coarse=maps["p3"]), labels
    return image, maps, labels


def list_of_maps(module, image, maps, labels):
    return (image, list(maps.values()), labels) if learns(module, image) else (image, maps, labels)


def cut_from_the_input(module, image, maps, labels):
    maps = module.net(image.detach())[1]
    return image, maps, labels


def turns_gradients_off(module, image, maps, labels):
    torch.set_grad_enabled(False)
    return image, maps, labels


FAULTS = {
    "shape while learning": Planted(spoiled_where(learns, shorten), "train mode", "1.p3 at 1x40x56: expected"),
    "key lost while learning": Planted(spoiled_where(learns, lose), "train mode", "found ordered dict of 1 (p3)"),
    "key added while learning": Planted(spoiled_where(learns, add), "train mode", "of 3 (p2, p3, aux)"),
    "levels exchanged while learning": Planted(
        spoiled_where(learns, exchange), "train mode", "1.p2 at 1x40x56: expected [1, 8,"
    ),
    "keys renamed while learning": Planted(spoiled(renamed), "train mode", "found ordered dict of 2 (fine, coarse)"),
    "list while learning": Planted(spoiled(list_of_maps), "train mode", "found list of 2"),
    "dtype while learning": Planted(spoiled_where(learns, double), "train mode", "expected f32, found f64"),
    "shape while learning in eval mode": Planted(spoiled_where(learns_in_eval, shorten), "gradients", "1.p3 at "),
    "key lost while learning in eval mode": Planted(
        spoiled_where(learns_in_eval, lose), "gradients", "found ordered dict of 1 (p3)"
    ),
    "shape while learning at batch 1": Planted(spoiled_where(learns_one, shorten), "train mode", "1.p3 at 1x"),
    "shape while learning at a second size": Planted(spoiled_where(learns_small, shorten), "train mode", "1.p3 at "),
    "raises while learning": Planted(spoiled_where(learns, raise_error), "train mode", "no gradients wanted here"),
    "detached in training": Planted(
        spoiled_where(trains, detach), "train mode", "1.p3: expected a gradient, found none: it is detached"
    ),
    "zero gradient": Planted(
        spoiled_where(always, zero_gradient), "gradients", "1.p3: expected a gradient, found none: it is zero"
    ),
    "zero gradient in training": Planted(
        spoiled_where(trains, zero_gradient), "train mode", "1.p3: expected a gradient, found none: it is zero"
    ),
    "gradient of NaN": Planted(
        spoiled_where(always, nan_gradient), "gradients", "1.p3: expected finite gradients, found gradients of NaN"
    ),
    "gradient of NaN in training": Planted(
        spoiled_where(trains, nan_gradient), "train mode", "expected finite gradients, found gradients of NaN"
    ),
    "shape where the input has a gradient": Planted(spoiled_where(wants_gradient, shorten), "gradients", "1.p3 at "),
    "raises where the input has a gradient": Planted(
        spoiled_where(wants_gradient, raise_error), "gradients", "no gradients wanted here"
    ),
    "cut off from the input": Planted(
        spoiled(cut_from_the_input), "gradients", "inputs: expected a gradient, found none: the outputs are cut off"
    ),
    "turns gradients off": Planted(
        spoiled(turns_gradients_off), "gradients", "expected on after the call, found switched off by the module"
    ),
}
