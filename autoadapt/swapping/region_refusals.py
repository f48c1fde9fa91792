"""Region refusals: what a region does that stand-ins would leave out without a word."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from autoadapt.contracts.capturing import Arguments
from autoadapt.contracts.capturing.regions import Region, RegionModule
from autoadapt.contracts.randomness import quiet
from autoadapt.contracts.trees import Constant, Container, Tree, flatten, rebuild
from autoadapt.errors import Mismatch, SwapError
from autoadapt.swapping.passes import Passes
from autoadapt.swapping.stand_ins import StandIn, passes_of

__all__ = ["refuse_moving", "refuse_parts"]


def refuse_moving(region: Region, module: RegionModule, arguments: Arguments) -> None:
    """Refuse a region that hands on a number which changes with the size and is no size itself, such as a scale.

    Raises:
        SwapError: It does.
    """
    trees = [one.tree for one in region.order]
    if not any(map(_has_numbers, trees)):
        return
    tree, tensors = flatten(arguments.values)
    larger = [torch.cat([torch.cat([t, t], -1)] * 2, -2) if t.dim() > 3 else t for t in tensors]
    try:
        with quiet(), torch.no_grad():
            found = module.trees(*rebuild(tree, larger).values())
    except Exception:  # it takes no other size, so that the number is one
        return
    faults = [
        Mismatch(
            one.path,
            "tensors, whole numbers that are sizes, and numbers that stay",
            "it returns a number that is another one at another size",
            f"let what reads it derive it from the tensors that {one.path} returns",
        )
        for one, other in zip(region.order, found, strict=True)
        if one.tree != other
    ]
    if faults:
        raise SwapError(f"`{faults[0].where}` returns a number that no stand-in can tell", faults)


def refuse_parts(model: nn.Module, paths: Sequence[str]) -> None:
    """Refuse modules of which some are in a region that has been swapped, and others of that region are not among them.

    Raises:
        SwapError: There are such.
    """
    inside = {part for path in paths for part in model.get_submodule(path).modules()}
    regions: dict[Passes, dict[str, nn.Module]] = {}
    for path, module in model.named_modules():
        if (passes := _passes_at(module)) is not None:
            regions.setdefault(passes, {})[path] = module
    for members in regions.values():
        taken = [path for path, module in members.items() if module in inside]
        if taken and len(taken) < len(members):
            found = f"{', '.join(members)} were swapped together as a region"
            remedy = f"swap(model, {list(members)}, ...)"
            fault = Mismatch(taken[0], "a whole module, or the whole region", found, remedy)
            raise SwapError(f"`{taken[0]}` is a part of a region that has been swapped", [fault])


def _passes_at(module: nn.Module) -> Passes | None:
    return module._passes if isinstance(module, StandIn) else passes_of(module)


def _has_numbers(tree: Tree) -> bool:
    match tree:
        case Constant(value=value):
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case Container(children=children):
            return any(map(_has_numbers, children))
        case _:
            return False
