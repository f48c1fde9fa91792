"""Levels that timm lists by hand, in `feature_info`, beside the taps that were chosen."""

from __future__ import annotations

from typing import Any

from torch import nn

import autoadapt as aa
from benchmarks.judged_levels import STRIDES, identity

__all__ = ["compared_levels"]


def compared_levels(model: nn.Module, source: aa.Signature, plan: aa.Plan) -> list[dict[str, Any]]:
    """For each level that timm lists by hand: its module, the tap that was chosen, and whether they are one tensor.

    Of several levels at one stride the last counts. A level does not `exist` where the module that is listed is not
    there, or returns no tensor of the channels that are listed.
    """
    info = getattr(model, "feature_info", None)
    listed = {one.get("reduction"): dict(one) for one in (info.info if hasattr(info, "info") else info or [])}
    if len(listed) < 2:
        return []
    tensors = {output.module: identity(output) for output in reversed(source.inner) if output.call == 0}
    tensors |= {output.name: identity(output) for output in source.inner}
    chosen = dict(zip(STRIDES, plan.routes, strict=False))
    rows = []
    for one in listed.values():
        route = chosen.get(one.get("reduction", 0))
        if route is not None and route.octaves < 0.5:
            name, tap = str(one["module"]), route.source
            same = name == tap or tensors.get(name, name) == tensors.get(tap, tap) or stands_for(model, name, tap)
            named = name in dict(model.named_modules()) and returns_channels(source, name, int(one["num_chs"]))
            rows.append({"stride": one["reduction"], "timm": name, "chosen": tap, "agrees": same, "exists": named})
    return rows


def returns_channels(source: aa.Signature, name: str, channels: int) -> bool:
    """Whether a module returns a tensor of that many channels, or several that have them together."""
    returned = [output.spec for output in source.inner if output.module == name and output.call == 0]
    found = [max(dim.constant or 0 for dim in spec.dims) for spec in returned]
    return not returned or channels in found or sum(found) == channels


def stands_for(model: nn.Module, name: str, tap: str) -> bool:
    """Whether the tap is a leaf of the module that timm names, or the last of a list, which is never called itself."""
    if tap.partition(":")[0] == name:
        return True
    listed = dict(model.named_modules()).get(name)
    if not isinstance(listed, nn.ModuleList):
        return False
    return tap.partition(":")[0] == f"{name}.{len(listed) - 1}"
