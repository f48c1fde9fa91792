"""Centres: whether the cells of adapted maps lie where those of the contract lie, in pixels of the input.

The backbone is replaced by a module whose outputs hold, at each cell, that cell's position along one input axis. After
the adapters, outputs hold the positions of the adapted cells, which are compared with those of the contract.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn

from autoadapt.adapting.operations import Restore
from autoadapt.adapting.planning import Plan, source_axes
from autoadapt.contracts.capturing import Arguments
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.layer_kinds import PROJECTING
from autoadapt.contracts.signature import Signature, TensorSpec, listed_along
from autoadapt.contracts.trees import NAMED, Container, Slot, Tree, flatten
from autoadapt.errors import Mismatch


def known_axes(plan: Plan, signature: Signature, sizes: Mapping[str, int]) -> dict[str, list[str]]:
    """Input axes along which cell positions are known at both ends of a route, with the targets of these routes.

    Args:
        plan: What the module was built from.
        signature: The contract.
        sizes: Sizes of the input axes; an axis of which the new module reads another size is left out.

    Returns:
        Names of output leaves, by the name of the input axis.
    """
    read = {axis: size.evaluate(sizes) for axis, size in source_axes(plan).items()}
    found: dict[str, list[str]] = {}
    for route in plan.routes:
        if route.same_as or {route.specs[0].order, signature.outputs[route.target].order} != {("rows", 0)}:
            continue  # the same tensor as another output, or tokens in another order than row by row
        if any(isinstance(step, Restore) for step in route.steps):
            continue  # it changes values, such as by softmax, and so the positions
        if signature.outputs[route.target].leading > route.specs[0].leading:
            continue  # tokens that are stretched over leading ones, as the plan says
        followed = {axis for dim in route.specs[0].dims for axis in dim.axes}
        have = followed & {one.axis for one in route.specs[0].centres if not one.reversed}
        for one in signature.outputs[route.target].centres:
            if not one.reversed and one.axis in have and read.get(one.axis) == sizes[one.axis]:
                found.setdefault(one.axis, []).append(route.target)
    return found


def telling_sizes(plan: Plan, signature: Signature, sizes: Mapping[str, int]) -> list[dict[str, int]]:
    """Sizes at which to compare positions: the given ones, and those where rounding differs most from the contract.

    Along each axis, among the sizes within one step of the coarser grid, these are the two at which the new module's
    cells reach farthest beyond those of the contract and fall shortest of them. A map that is wrongly stretched shows
    there even if both modules have equally many cells at the given sizes.
    """
    sources, found = {route.target: route.specs[0] for route in plan.routes}, [dict(sizes)]
    for axis, targets in known_axes(plan, signature, sizes).items():
        legal = signature.axes[axis]
        for target in targets:
            (have, made), (want, wanted) = (_sides(spec, axis) for spec in (sources[target], signature.outputs[target]))
            period = range(sizes[axis], sizes[axis] + math.ceil(max(made, wanted)))
            ahead = {
                size: have.evaluate({axis: size}) * made - want.evaluate({axis: size}) * wanted
                for size in period
                if size in legal
            }
            found += [{**sizes, axis: choose(ahead, key=ahead.__getitem__)} for choose in (max, min) if ahead]
    return [dict(one) for one in dict.fromkeys(tuple(sorted(one.items())) for one in found)]


def _sides(spec: TensorSpec, axis: str) -> tuple[Dim, float]:
    """The number of cells along an input axis, as a formula, and their distance in pixels."""
    listed = (listed_along(spec.dims, place, spec.merged, spec.leading) for place in range(len(spec.dims)))
    factors = (factor for _, along in listed for factor in along)
    step = next(one.step for one in spec.centres if one.axis == axis)
    return next(factor for factor in factors if factor.axes == {axis}), step


def misplaced_cells(
    net: nn.Module, plan: Plan, signature: Signature, arguments: Arguments, sizes: Mapping[str, int]
) -> tuple[list[Mismatch], float]:
    """Cells that lie more than half a step from where the contract has them.

    Projections are replaced by means over channels, which keep positions. Where the contract has cells beyond the
    outermost ones of the backbone, the distance is measured from these.

    Args:
        net: A copy of the adapted module; its backbone and projections are replaced.
        plan: What it was built from.
        signature: The contract.
        arguments: Inputs at the sizes.
        sizes: The size of every input axis.

    Returns:
        The faults, and the largest distance of a cell, in pixels of the input.
    """
    _average(net.get_submodule("adapters"))
    sources, faults, furthest = {route.target: route.specs[0] for route in plan.routes}, list[Mismatch](), 0.0
    for axis, targets in known_axes(plan, signature, sizes).items():
        net.backbone = _Positions(plan, axis, sizes)
        outputs = dict(zip(signature.outputs.paths, flatten(arguments.call(net))[1], strict=True))
        for target in targets:
            spec = signature.outputs[target]
            seen = _positions(sources[target], axis, sizes).real
            seen = seen[~seen.isnan()]  # leading tokens have no position
            wanted = _positions(spec, axis, sizes).real.clamp(float(seen.min()), float(seen.max()))
            away = float((outputs[target].detach() - wanted).abs().nan_to_num(0).max())
            furthest = max(furthest, away)
            centres = next(one for one in spec.centres if one.axis == axis)
            if 2 * away > centres.step + _ROUNDING * sizes[axis]:
                shown = f"up to {away:.3g} pixels away"
                faults.append(Mismatch(f"{target}, cells along {axis}", f"pixels {centres}", shown, "aa.adapt again"))
    return faults, furthest


_ROUNDING = 1e-4
"""Rounding error of positions that is let pass, as a part of the size of the axis."""


class _Positions(nn.Module):
    """In place of a backbone: its outputs hold the positions of their cells along one input axis."""

    def __init__(self, plan: Plan, axis: str, sizes: Mapping[str, int]) -> None:
        super().__init__()
        served = {route.source: route.specs[0] for route in plan.routes if not route.same_as}
        specs = dict(plan.source.outputs.items()) | served
        self._names = tuple(plan.taps) or plan.source.outputs.paths
        self._tensors = [_positions(specs[name], axis, sizes) for name in self._names]
        self._tree = None if plan.taps else plan.source.outputs.tree

    def forward(self, *_args: Any, **_kwargs: Any) -> Any:
        return tuple(self._tensors) if self._tree is None else _readable(self._tree, iter(self._tensors))


def _readable(tree: Tree, tensors: Iterator[torch.Tensor]) -> Any:
    """Tensors in containers whose members are read as in a tree; classes become namespaces, since some cannot be made.

    Args:
        tree: The containers.
        tensors: One for each slot, in order; they are used up.
    """
    match tree:
        case Slot():
            return next(tensors)
        case Container(kind=kind, keys=keys, children=children):
            items = {key: _readable(child, tensors) for key, child in zip(keys, children, strict=True)}
            return SimpleNamespace(**{str(key): item for key, item in items.items()}) if kind in NAMED else items
        case _:
            return None


def _positions(spec: TensorSpec, axis: str, sizes: Mapping[str, int]) -> torch.Tensor:
    """A tensor of a spec whose values are the positions of its cells along an input axis, in pixels of the input.

    Zeros where the positions are not known; NaN for leading tokens.
    """
    shape = spec.shape(sizes)
    centres = next((one for one in spec.centres if one.axis == axis), None)
    for place in range(len(spec.dims)):
        leading, factors = listed_along(spec.dims, place, spec.merged, spec.leading)
        sides = [int(factor.evaluate(sizes)) for factor in factors]
        own = next((number for number, factor in enumerate(factors) if factor.axes == {axis}), None)
        if centres is not None and own is not None:
            ramp = centres.first + centres.step * torch.arange(sides[own])
            cells = ramp.reshape([-1, *[1] * (len(sides) - own - 1)]).expand(sides).flatten()
            line = torch.cat([torch.full((leading,), torch.nan), cells])
            return line.reshape([-1, *[1] * (len(shape) - place - 1)]).expand(shape).to(spec.torch_dtype)
    return torch.zeros(shape, dtype=spec.torch_dtype)


def _average(adapters: nn.Module) -> None:
    """Replace projections, whose weights may be computed from others, by means over their input channels."""
    for module in list(adapters.modules()):
        for name, layer in module.named_children():
            if isinstance(layer, PROJECTING):
                setattr(module, name, _Means(layer))


class _Means(nn.Module):
    """What a layer returns whose weights are all the same and which has no offset.

    Shape:
        `[..., C] -> [..., D]` of a linear layer, `[B, C, *spatial] -> [B, D, *spatial]` of a 1x1 convolution
    """

    def __init__(self, layer: nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d) -> None:
        super().__init__()
        self._axis = -1 if isinstance(layer, nn.Linear) else 1
        self._groups = 1 if isinstance(layer, nn.Linear) else layer.groups
        self._channels = layer.out_features if isinstance(layer, nn.Linear) else layer.out_channels

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        parts = [part.mean(self._axis, keepdim=True) for part in features.chunk(self._groups, self._axis)]
        each = self._channels // self._groups
        return torch.cat([part.repeat_interleave(each, self._axis) for part in parts], self._axis)
