"""Call texts: the call that does a swap, to paste."""

from __future__ import annotations

from torch import nn

from autoadapt.adapting.planning import CONVERSIONS
from autoadapt.contracts.capturing.regions import RegionPath
from autoadapt.swapping.successors import Options

__all__ = ["call_text"]


def call_text(
    path: RegionPath, new: nn.Module | str, options: Options, *, allow_cost: bool, max_parameters: int | None
) -> str:
    """The call that does the swap, to paste."""
    chosen = {
        "outputs": options.outputs,
        "pairs": dict(options.pairs) or None,
        "project": options.project if options.project != "needed" else None,
        "indices": options.indices if options.indices != "refuse" else None,
        "thin": options.thin if options.thin != "farthest" else None,
        "grid": options.grid,
        "convert_inputs": None if set(options.convert_inputs) == set(CONVERSIONS) else tuple(options.convert_inputs),
        "input_statistics": options.input_statistics,
        "channels": options.channels,
        "resolution": options.resolution,
        "fit": options.fit,
        "nondeterministic": options.nondeterministic if options.nondeterministic != "refuse" else None,
        "project_bias": None if options.project_bias else False,
        "refit": options.refit or None,
        "share": None if options.share else False,
        "allow_cost": allow_cost or None,
        "max_parameters": max_parameters,
    }
    shown = repr(new) if isinstance(new, str) else "new"
    given = "".join(f", {name}={value!r}" for name, value in chosen.items() if value is not None)
    given = given.replace("Statistics(", "aa.Statistics(")
    place = f'"{path}"' if isinstance(path, str) else repr(path)
    return f"model = aa.swap(model, {place}, {shown}, inputs=inputs{given})"
