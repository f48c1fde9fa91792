"""Region refusals: what a region does that stand-ins would leave out without a word."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from autoadapt.contracts.capturing import Arguments
from autoadapt.contracts.capturing.regions import Form, Region, RegionModule, form_text, loosened
from autoadapt.contracts.randomness import quiet
from autoadapt.contracts.trees import Constant, Container, Tree, flatten, rebuild
from autoadapt.errors import Mismatch, SwapError
from autoadapt.swapping.passes import Passes
from autoadapt.swapping.stand_ins import StandIn, passes_of


def refuse_moving(region: Region, module: RegionModule, arguments: Arguments) -> None:
    """Refuse a region that hands on a number which changes with the size and is no size itself, such as a scale.

    Raises:
        SwapError: It does.
    """
    trees = [one.tree for one in region.order]
    if not any(map(_has_numbers, trees)):
        return
    try:
        with quiet(), torch.no_grad():
            found = module.trees(*_larger(arguments, -1, -2))
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


def with_moving_sizes(region: Region, module: RegionModule, arguments: Arguments) -> Region:
    """The region, of which later members may be given any number where one follows the size of the input.

    Raises:
        SwapError: A number changes from call to call of the same input, as a counter does: nobody would look at it.
    """
    if all(isinstance(piece, str) for one in region.order[1:] for form in one.forms for piece in form):
        return region
    alike = [found for _ in range(2) if (found := _forms(module, arguments))]
    others = [found for axes in ((-1, -2), (0,), (1,)) if (found := _forms(module, arguments, *axes))]
    if not alike:
        return region
    faults = [
        Mismatch(
            one.path,
            "numbers that stay, or that follow the size of the input",
            f"({form_text(forms[0])}), and then ({form_text(forms[1])}) for the same input",
            f"a region without {one.path}",
        )
        for one, *forms in zip(region.order[1:], *(found[1:] for found in alike), strict=True)
        if len(set(forms)) > 1
    ]
    if faults:
        raise SwapError(f"`{faults[0].where}` is given a number that changes from call to call", faults)
    order = [
        one.model_copy(update={"forms": loosened(one.forms, forms)})
        for one, *forms in zip(region.order, *alike, *others, strict=True)
    ]
    return region.model_copy(update={"order": tuple(order)})


def _forms(module: RegionModule, arguments: Arguments, *axes: int) -> list[Form]:
    """What the members are given where some axes of the input are twice as long; nothing where it raises."""
    try:
        with quiet(), torch.no_grad():
            found = module.forms(*_larger(arguments, *axes))
    except Exception:  # it takes no other size
        return []
    return found if len(found) == len(module.order) else []


def _larger(arguments: Arguments, *axes: int) -> list[Any]:
    """The arguments with axes twice as long: those of images, the batch, and the tokens of what has three axes."""
    tree, tensors = flatten(arguments.values)
    made = []
    for tensor in tensors:
        for axis in axes:
            is_axis = axis == 0 or (axis == 1) == (tensor.dim() == 3)
            if tensor.dim() > 0 and is_axis and (axis >= 0 or tensor.dim() > 3):
                tensor = torch.cat([tensor, tensor], axis)
        made.append(tensor)
    return list(rebuild(tree, made).values())


def refuse_parts(model: nn.Module, paths: Sequence[str]) -> None:
    """Refuse modules of which some are in a region that has been swapped, and others of that region are not among them.

    Raises:
        SwapError: There are such.
    """
    inside = {part for path in paths for part in model.get_submodule(path).modules()}
    regions: dict[Passes, dict[str, nn.Module]] = {}
    for path, module in model.named_modules():
        passes = module._passes if isinstance(module, StandIn) else passes_of(module)
        if passes is not None:
            regions.setdefault(passes, {})[path] = module
    for members in regions.values():
        taken = [path for path, module in members.items() if module in inside]
        if taken and len(taken) < len(members):
            found = f"{', '.join(members)} were swapped together as a region"
            remedy = f"swap(model, {list(members)}, ...)"
            fault = Mismatch(taken[0], "a whole module, or the whole region", found, remedy)
            raise SwapError(f"`{taken[0]}` is a part of a region that has been swapped", [fault])


def _has_numbers(tree: Tree) -> bool:
    match tree:
        case Constant(value=value):
            return isinstance(value, (int, float)) and not isinstance(value, bool)
        case Container(children=children):
            return any(map(_has_numbers, children))
        case _:
            return False
