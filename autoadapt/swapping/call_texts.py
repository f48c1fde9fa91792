"""Call texts: the call that does a swap, to paste."""

from __future__ import annotations

from torch import nn

from autoadapt.adapting.planning import CONVERSIONS
from autoadapt.contracts.capturing.regions import RegionPath
from autoadapt.swapping.successors import Options


def call_text(
    path: RegionPath, new: nn.Module | str, options: Options, *, allow_cost: bool, max_parameters: int | None
) -> str:
    """The call that does the swap, to paste."""
    plain, told = vars(Options()), vars(options)
    chosen = {name: value for name, value in told.items() if name != "dry_run" and value != plain[name]}
    chosen["convert_inputs"] = tuple(options.convert_inputs)
    if set(options.convert_inputs) == set(CONVERSIONS):
        del chosen["convert_inputs"]
    chosen |= {"allow_cost": True} if allow_cost else {}
    chosen |= {"max_parameters": max_parameters} if max_parameters is not None else {}
    shown = repr(new) if isinstance(new, str) else "new"
    given = "".join(f", {name}={value!r}" for name, value in chosen.items())
    given = given.replace("Statistics(", "aa.Statistics(")
    place = f'"{path}"' if isinstance(path, str) else repr(path)
    return f"model = aa.swap(model, {place}, {shown}, inputs=inputs{given})"
