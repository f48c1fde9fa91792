"""Region refusals: what a region does that stand-ins would leave out without a word."""

from __future__ import annotations

import torch

from autoadapt.contracts.capturing import Arguments
from autoadapt.contracts.capturing.regions import Region, RegionModule
from autoadapt.contracts.randomness import quiet
from autoadapt.contracts.trees import Constant, Container, Tree, flatten, rebuild
from autoadapt.errors import Mismatch, SwapError

__all__ = ["refuse_moving"]


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


def _has_numbers(tree: Tree) -> bool:
    match tree:
        case Constant(value=value):
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case Container(children=children):
            return any(map(_has_numbers, children))
        case _:
            return False
