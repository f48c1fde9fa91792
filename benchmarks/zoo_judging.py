"""One model of the zoo benchmark: adapted, run, and its outputs, kept share and taps compared with what is known."""

from __future__ import annotations

import functools
import time
from typing import Any

import torch
from torch import nn

import autoadapt as aa
from autoadapt.contracts.capturing import capture_source
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.contracts.trees import flatten
from benchmarks.judged_levels import LAST, Judged, compared_with_judged, judged_taps
from benchmarks.kept_parameters import kept_share
from benchmarks.listed_levels import compared_levels
from benchmarks.zoo_families import create

__all__ = ["like_signature", "said", "trial"]


@functools.cache
def like_signature(like: str, last: bool = False) -> aa.Signature:
    """The contract: feature levels of a timm model, or its last level alone."""
    import timm

    options = {"out_indices": (-1,)} if last else {}
    return aa.capture(timm.create_model(like, features_only=True, **options))


def trial(family: str, name: str, like: str) -> dict[str, Any]:
    """Build, adapt and check one model, on the meta device first."""
    judged = judged_taps().get(name) if family == "unlisted" else None
    target = like_signature(like, judged is not None and LAST in judged)
    row: dict[str, Any] = {"name": name}
    started = time.perf_counter()
    for device in ("meta", "cpu"):
        try:
            model, inputs = create(family, name, device)
        except Exception as error:
            row |= {"outcome": "not built", "reason": said(error)}
            continue
        row.pop("reason", None)
        row |= {"device": device, "parameters": sum(p.numel() for p in model.parameters())}
        started = time.perf_counter()
        row |= adapted(model, inputs, target, device, judged)
        row["seconds"] = round(time.perf_counter() - started, 2)
        if row["outcome"] == "exact" or row["parameters"] > 1_500_000_000:
            break
    return row


def adapted(
    model: nn.Module, inputs: Any, target: aa.Signature, device: str, judged: Judged | None = None
) -> dict[str, Any]:
    started = time.perf_counter()
    try:
        source = capture_source(model, target, inputs, inner=True)
        net = in_eval_mode(aa.build(model, aa.plan(source, target)))
        seconds = round(time.perf_counter() - started, 2)
        unlisted = aa.plan(without_list(source), target)
    except aa.AdaptError as error:
        why = error.mismatches[0].why or error.mismatches[0].found if error.mismatches else ""
        return {"outcome": "refused", "reason": f"{error.summary}: {why}"[:300]}
    except Exception as error:
        return {"outcome": "wrong", "reason": said(error)}
    facts = {
        "adapted in": seconds,
        "taps": [route.source for route in net.plan.routes],
        "adapters": net.plan.parameters,
        "levels": compared_levels(model, source, net.plan),
        "levels without the list": compared_levels(model, source, unlisted),
    }
    if judged is not None:
        facts["judged levels"] = compared_with_judged(judged, source, net.plan)
        stages = [modules[0] for modules in judged.values()]
        facts["kept"] = kept_share(in_eval_mode(model), net, stages, torch.zeros_like(inputs, device=device))
        facts["kept, as planned"] = None if net.plan.kept is None else round(net.plan.kept.share, 4)
    return facts | checked(net, target, device)


def without_list(source: aa.Signature) -> aa.Signature:
    """A capture that does not know which levels the model lists itself, so that taps are found by evidence alone."""
    inner = tuple(output.model_copy(update={"listed": False}) for output in source.inner)
    return source.model_copy(update={"inner": inner})


def checked(net: nn.Module, target: aa.Signature, device: str) -> dict[str, Any]:
    """Run at four sizes and two batch sizes; outputs, and what the plan says of its sources, are to hold."""
    native, noted = target.sizes(), dict[str, tuple[int, ...]]()
    net.backbone.register_forward_hook(lambda module, args, returned: noted.update(tap_shapes(net.plan, returned)))
    for sizes in ({}, {"H": 221, "W": 200}, {"H": 131, "W": 97}, {"H": 49, "W": 34}):
        for batch in (1, 3):
            at = native | sizes | {"B": batch}
            x = torch.zeros(batch, 3, at["H"], at["W"], device=device)
            try:
                with torch.no_grad(), torch.device(device):
                    found = net(x)
            except Exception as error:
                return {"outcome": "wrong", "reason": f"at {at}: {said(error)}"}
            wanted = [spec.shape(at) for spec in target.outputs.leaves]
            shapes = [tuple(leaf.shape) for leaf in found]
            if type(found) is not list or shapes != wanted:
                return {"outcome": "wrong", "reason": f"at {at}: {shapes}"}
            sources = {route.source: route.specs[0].shape(at) for route in net.plan.routes}
            if any(noted[name] != shape for name, shape in sources.items() if name in noted):
                return {"outcome": "wrong", "reason": f"at {at}: sources {noted}, planned {sources}"}
    return {"outcome": "exact"}


def tap_shapes(plan: aa.Plan, returned: Any) -> dict[str, tuple[int, ...]]:
    """The shapes of what a backbone returned, by the names that the plan gives them."""
    names = tuple(plan.taps) or plan.source.outputs.paths
    return dict(zip(names, (tuple(tensor.shape) for tensor in flatten(returned)[1]), strict=False))


def said(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:300]
