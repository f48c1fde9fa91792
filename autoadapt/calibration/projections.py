"""Projections: the learned maps of a plan, the tokens that go into them, and those that should come out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import einops
import torch
import torch.nn.functional as F
from torch import nn

from autoadapt.building import AdaptedModule
from autoadapt.errors import CalibrationError, Mismatch
from autoadapt.operations import Cast, Operation, Pool, Project, Rearrange, Resize, axis_groups, text
from autoadapt.planning import Plan, Route
from autoadapt.signature import TensorSpec

__all__ = ["Projection", "find_projections", "lacking_projection", "set_weight"]

# Dimension letters: B images, T tokens of an image, C and D channels.


@dataclass(frozen=True)
class Projection:
    """One learned map and where it stands in its chain."""

    route: Route
    module: str
    """Its path in the adapted module."""
    index: int
    """Its place among the steps of the route."""

    @property
    def step(self) -> Project:
        """The operation."""
        step = self.route.steps[self.index]
        assert isinstance(step, Project), "found as one"
        return step

    def tokens(self, values: torch.Tensor, images: int) -> torch.Tensor:
        """Input or output of the projection, one row a token.

        Shape:
            `[B, C, *spatial]` or `[B, ..., C] -> [B, T, C]`
        """
        last = values.movedim(1, -1) if self.step.form == "conv" else values
        return last.reshape(images, -1, last.shape[-1])

    def wanted(self, old: torch.Tensor, sizes: Mapping[str, int]) -> torch.Tensor:
        """An old output brought back to where the projection stands: rearranged, and resized to its grid.

        Raises:
            CalibrationError: What follows the projection cannot be undone.
        """
        later = list(zip(self.route.steps, self.route.specs, strict=False))[self.index + 1 :]
        for step, before in reversed(later):
            old = _undone(step, old, before, sizes, self.route.target)
        return old


def find_projections(net: AdaptedModule) -> tuple[Projection, ...]:
    """All projections of an adapted module, in the order of its plan.

    Raises:
        CalibrationError: A chain has several, or the module has none.
    """
    found = []
    adapters = dict(net.adapters.named_children())  # type: ignore[union-attr]
    routes = [route for route in net.plan.routes if _projected(route)]
    for name, route in zip(adapters, routes, strict=True):
        places = _projected(route)
        if len(places) > 1:
            fault = Mismatch(route.target, "one projection", f"{len(places)} in a row", "let autoadapt.plan derive it")
            raise CalibrationError(f"`{route.target}` cannot be fitted in closed form", [fault])
        if not route.steps[places[0]].bias:  # type: ignore[union-attr]
            fault = Mismatch(route.target, "a projection with an offset", "bias=False", "Project(..., bias=True)")
            raise CalibrationError(f"`{route.target}` cannot take the mean of the old features", [fault])
        found.append(Projection(route, f"adapters.{name}.project", places[0]))
    if not found:
        fault = Mismatch("adapters", "a projection to fit", "none in the plan", 'adapt(..., project="always")')
        raise CalibrationError("there is nothing to calibrate", [fault])
    return tuple(found)


def lacking_projection(plan: Plan) -> tuple[str, ...]:
    """Feature outputs that the new module serves as they are, though its function may differ from the old one's."""
    return tuple(
        route.target
        for route in plan.routes
        if not _projected(route)
        and not route.source.startswith("inputs.")
        and route.specs[-1].role == "feature"
        and route.specs[-1].is_floating
    )


def _projected(route: Route) -> list[int]:
    return [index for index, step in enumerate(route.steps) if isinstance(step, Project)]


def set_weight(layer: nn.Module, weight_CD: torch.Tensor, bias_D: torch.Tensor) -> None:
    """Write an affine map into a linear layer or a 1x1 convolution; an offset that the layer lacks is left out."""
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, torch.Tensor), "a projection has a weight"
    with torch.no_grad():
        weight.copy_(weight_CD.T.reshape(weight.shape))
        if isinstance(bias, torch.Tensor):
            bias.copy_(bias_D)


def _undone(
    step: Operation, value: torch.Tensor, before: TensorSpec, sizes: Mapping[str, int], target: str
) -> torch.Tensor:
    """Bring what stands after a step to the form that stood before it."""
    match step:
        case Cast():
            return value
        case Rearrange(pattern=pattern):
            left, right = axis_groups(pattern)
            alone = zip(left, before.shape(sizes), strict=True)
            known = {names[0]: size for names, size in alone if len(names) == 1}
            known |= {name: dim.evaluate(sizes) for name, dim in step.sizes.items()}
            merged = {name: known[name] for names in right if len(names) > 1 for name in names}
            source, _, arranged = pattern.partition("->")
            return einops.rearrange(value, f"{arranged} -> {source}", **merged)
        case Resize() | Pool():
            return resized(value, before.shape(sizes)[2:])
        case _:
            fault = Mismatch(target, "rearranging and resizing", text(step), "calibrate before editing the plan")
            raise CalibrationError(f"`{target}`: what follows the projection cannot be undone", [fault])


def resized(values: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
    """Linear interpolation to a size, with antialiasing where it shrinks; cell centres stay where they are.

    Shape:
        `[B, C, *spatial] -> [B, C, *size]`
    """
    if tuple(values.shape[2:]) == size:
        return values
    if len(size) == 3:
        return F.interpolate(values, size=size, mode="trilinear", align_corners=False)
    flat = values.unsqueeze(2) if len(size) == 1 else values
    full = (1, *size) if len(size) == 1 else size
    made = F.interpolate(flat, size=full, mode="bilinear", align_corners=False, antialias=True)
    return made.squeeze(2) if len(size) == 1 else made
