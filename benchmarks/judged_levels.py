"""Levels of models that list none, judged by reading each architecture, beside the taps that were chosen.

`judged_taps.json` names for each model and stride the module that ends the stage: the last tensor of that stride on
the residual stream, before what leads on to the next. Where several modules are equally right (the last block, the
norm behind it, the same as a map, a last 1x1 convolution that some count to the network and some to the head) all of
them stand there. `last` stands for models of one stride, of which the deepest features alone are asked for. A model
that ends before stride 32 has its deepest stage at 32 as well. A stride at which no module ends a stage is left out.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import autoadapt as aa
from autoadapt.contracts.signature import InnerOutput

__all__ = ["LAST", "STRIDES", "Judged", "compared_with_judged", "identity", "judged_taps"]

Judged: TypeAlias = Mapping[str, list[str]]
"""Modules that are right, by stride or for the last level."""
LAST = "last"
STRIDES = (2, 4, 8, 16, 32)


@functools.cache
def judged_taps() -> dict[str, Judged]:
    """The table, by `package/model`."""
    table: dict[str, Judged] = json.loads(Path(__file__).with_name("judged_taps.json").read_text(encoding="utf-8"))
    return table


def compared_with_judged(judged: Judged, source: aa.Signature, plan: aa.Plan) -> list[dict[str, Any]]:
    """For each judged level: the modules that are right, the tap that was chosen, and whether it is one of them.

    A path with `:leaf` is that leaf of what the module returns, without one its first. A level does not `exist` where
    none of its modules ran.
    """
    first = {output.module: output.name for output in reversed(source.inner) if output.call == 0}
    tensors = {output.name: identity(output) for output in source.inner}
    tensors |= {output.output: tensors[output.name] for output in source.inner if output.output}
    tensors |= {module: tensors[name] for module, name in first.items()}
    chosen = {str(stride): route.source for stride, route in zip(STRIDES, plan.routes, strict=False)}
    rows = []
    for stride, right in judged.items():
        tap = plan.routes[-1].source if stride == LAST else chosen[stride]
        agrees = tensors.get(tap, tap) in {tensors.get(path, path) for path in right}
        exists = all(path in tensors for path in right)
        rows.append({"stride": stride, "judged": right, "chosen": tap, "agrees": agrees, "exists": exists})
    return rows


def identity(output: InnerOutput) -> str:
    """One name for all modules that return the very same tensor: that of the first output which is it."""
    return output.same_as or output.name
