"""Whole models: the adapted module in one, and the old model that it is compared with."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from autoadapt.adapting.building import AdaptedModule
from autoadapt.calibration.sharded import is_sharded, whole_copy
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.contracts.views import clone_buffers, copy_module, eval_copy
from autoadapt.errors import CalibrationError, Mismatch, nearest
from autoadapt.swapping.passes import Passes


def find_adapted(net: nn.Module, at: str | None) -> AdaptedModule:
    """The adapted module at a path, or the only one there is.

    Raises:
        CalibrationError: There is none.
    """
    named = dict(net.named_modules())
    adapted = [path for path, module in named.items() if isinstance(module, AdaptedModule)]
    path = at if at is not None else (adapted[0] if len(adapted) == 1 and adapted[0] == "" else "")
    module = named.get(path)
    if isinstance(module, AdaptedModule):
        return module
    remedy = f'at="{adapted[0]}"' if adapted else f"model.{path or 'backbone'} = autoadapt.adapt(...)"
    near = ", ".join(nearest(path, named)) if module is None else ""
    found = type(module).__name__ if module is not None else f"nothing; nearest: {near}" if near else "nothing"
    fault = Mismatch(path or type(net).__name__, "an adapted module", found, remedy)
    raise CalibrationError("there is no adapted module to calibrate", [fault])


def with_old(net: nn.Module, like: nn.Module, at: str | None, passes: Passes | None) -> nn.Module:
    """The old model: `like`, or the bigger model with it where the adapted module is; copies in eval mode."""
    if not at or _is_whole(net, like, [at] if passes is None else passes.handing.paths):
        return like if is_sharded(like) else eval_copy(like)
    if passes is not None:
        fault = Mismatch("like", "the whole old model", f"a {type(like).__name__}", "like=old_model")
        raise CalibrationError("a region is calibrated with the model that it was a part of", [fault])
    around = whole_copy(net, without=find_adapted(net, at)) if is_sharded(net) else copy_module(net, clone_buffers)
    model = in_eval_mode(around)
    own = like if is_sharded(like) else eval_copy(like)
    model.set_submodule(_wrapped(net, like, at) or at, own)
    return model


def _wrapped(net: nn.Module, like: nn.Module, at: str) -> str:
    """The path of the model that a wrapper holds, as that of averaged weights does, where `like` is its old one."""
    names = at.split(".")
    inner = (".".join(names[:depth]) for depth in range(1, len(names)))
    return next((path for path in inner if _is_whole(net.get_submodule(path), like, [at[len(path) + 1 :]])), "")


def _is_whole(net: nn.Module, like: nn.Module, places: Sequence[str]) -> bool:
    """Whether `like` is the whole old model: the same tensors stand around the backbone, and one is at its place."""
    inside = tuple(f"{place}." for place in places)

    def around(module: nn.Module) -> dict[str, torch.Size]:
        return {name: t.shape for name, t in module.state_dict().items() if not name.startswith(inside)}

    has_place = set(places) <= dict(like.named_modules()).keys()
    return has_place and type(like) is type(net) and around(like) == around(net)
