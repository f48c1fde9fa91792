"""One pair of the zoo benchmark's small models: adapted, and compared with the old model at other sizes."""

from __future__ import annotations

import inspect
import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

import autoadapt as aa
from autoadapt.contracts.trees import flatten
from benchmarks.modalities import pair_of

__all__ = ["pair_trial"]


def pair_trial(family: str, name: str) -> dict[str, Any]:
    """Adapt one model to another of its pool.

    `exact`: containers, shapes and dtypes are those of the old model at each size that it takes, items of a batch with
    a mask keep their values without padding where those of both models do, and one step of training moves weights.
    """
    pool, new, old = pair_of(family, name)
    calls = [by_its_names(old, pool.call(*sizes)) for sizes in ((), *pool.others)]
    example, *others = [call for call in calls if _runs(old, call)]
    started = time.perf_counter()
    row: dict[str, Any] = {"name": name, "parameters": sum(p.numel() for p in new.parameters())}
    try:
        net = aa.adapt(new, like=old, inputs=example)
    except aa.AdaptError as error:
        why = error.mismatches[0].why or error.mismatches[0].found if error.mismatches else ""
        return row | {"outcome": "refused", "reason": f"{error.summary}: {why}"[:300], "seconds": since(started)}
    fault = _differs(net, old, [example, *others])
    if not any(_changes_with_padding(one, by_its_names(one, example)) for one in (new, old)):
        fault = fault or _changes_with_padding(net, example)
    fault = fault or _does_not_train(net, example)
    sources = [route.source for route in net.plan.routes]
    outcome = {"outcome": "wrong", "reason": fault} if fault else {"outcome": "exact"}
    return row | outcome | {"sources": sources, "seconds": since(started)}


def by_its_names(model: nn.Module, call: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The inputs by the names that the model has for them: its own, or those of its first arguments."""
    names = [*inspect.signature(model.forward).parameters]
    return dict(zip(call if call.keys() <= {*names} else names, call.values(), strict=False))


def since(started: float) -> float:
    return round(time.perf_counter() - started, 2)


def _runs(model: nn.Module, call: dict[str, torch.Tensor]) -> bool:
    """Whether a model takes inputs of these sizes; others are no part of its contract."""
    try:
        with torch.no_grad():
            model(**call)
    except Exception:
        return False
    return True


def _differs(net: nn.Module, old: nn.Module, calls: list[dict[str, torch.Tensor]]) -> str:
    for call in calls:
        with torch.no_grad():
            wanted, found = old(**call), net(**call)
        (tree, tensors), (other, others) = flatten(found), flatten(wanted)
        kinds, wanted_kinds = ([(tuple(one.shape), one.dtype) for one in side] for side in (tensors, others))
        if str(tree) != str(other) or kinds != wanted_kinds:
            return f"{kinds} for {wanted_kinds}"
    return ""


def _changes_with_padding(net: nn.Module, call: dict[str, torch.Tensor]) -> str:
    mask = call.get("attention_mask")
    if mask is None:
        return ""
    count = int(mask[-1].sum())
    alone = {name: value[-1:, :count] for name, value in call.items()}
    with torch.no_grad():
        pairs = zip(flatten(net(**call))[1], flatten(net(**alone))[1], strict=True)
    for padded, lone in pairs:
        part = padded[-1:, : lone.shape[1]] if lone.dim() == 3 else padded[-1:]
        if not torch.allclose(part, lone, rtol=1e-3, atol=1e-4):
            return f"padding changes values by {float((part - lone).abs().max()):.2g}"
    return ""


def _does_not_train(net: nn.Module, call: dict[str, torch.Tensor]) -> str:
    moved = [one for one in net.parameters() if one.requires_grad]
    before = [one.detach().clone() for one in moved]
    tensors = [one for one in flatten(net(**call))[1] if one.is_floating_point()]
    torch.stack([one.square().mean() for one in tensors]).sum().backward()
    torch.optim.SGD(moved, 0.1).step()
    same = all(torch.equal(one, other) for one, other in zip(moved, before, strict=True))
    return "one step of training moves nothing" if same else ""
