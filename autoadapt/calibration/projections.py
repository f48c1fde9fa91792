"""Projections: the learned maps of a plan, the tokens that go into them, and those that should come out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import einops
import torch
import torch.nn.functional as F
from torch import nn

from autoadapt.adapting.building import AdaptedModule, edits
from autoadapt.adapting.layers import resample
from autoadapt.adapting.operations import (
    Cast,
    Flip,
    Hide,
    Lead,
    Operation,
    Pool,
    Project,
    Rearrange,
    Resample,
    Resize,
    ResizeTokens,
    Restore,
    Thin,
    axis_groups,
)
from autoadapt.adapting.planning import Plan, Route
from autoadapt.calibration.sharded import whole, write_whole
from autoadapt.contracts.signature import TensorSpec
from autoadapt.errors import CalibrationError, Mismatch

_ALWAYS = 'adapt(..., project="always")'
# Dimension letters: B images, T tokens of an image, C and D channels.


@dataclass(frozen=True)
class Projection:
    """One learned map and where it stands in its chain."""

    route: Route
    module: str
    """Its path in the adapted module."""
    index: int
    """Its place among the steps of the route."""
    place: int | None = None
    """Which of the maps of its layer it is, where that has one for each place."""

    @property
    def target(self) -> str:
        """The output that it makes, and where it has a map for each place, which of them."""
        return self.route.target if self.place is None else f"{self.route.target} at {self.place}"

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
        if self.place is not None:
            return values.reshape(images, self.step.groups, -1)[:, self.place, None]
        last = values.movedim(1, -1) if self.step.form == "conv" else values
        return last.reshape(images, -1, last.shape[-1])

    def part(self, weight: torch.Tensor, bias_D: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What belongs to it of the gradients of its layer: of the weight, channels by channels, and of the offset."""
        if self.place is not None:
            weight, bias_D = (_of_place(one, self.place, self.step.groups) for one in (weight, bias_D))
        return weight.double().flatten(1).T, bias_D.double()

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
    """The projections of an adapted module that can be fitted, in the order of its plan.

    Raises:
        CalibrationError: A projection is of another form than plans have, or there is none to fit; or the module was
            edited, so that its outputs are not those of its plan.
    """
    found = []
    names = [name for name, _ in net.adapters.named_children()]
    for path, layer in net.named_modules():
        if path.startswith("adapters.") and path.endswith(".project"):
            _check_parametrised(layer, path)
    if faults := edits(net):
        raise CalibrationError("the module is no longer what its plan says, which alone is fitted", faults)
    routes = [route for route in net.plan.routes if _projected(route)]
    for name, route in zip(names, routes, strict=True):
        steps = [step for step in route.steps if isinstance(step, Project)]
        if len(steps) > 1:
            fault = Mismatch(route.target, "one projection", f"{len(steps)} in a row", "let autoadapt.plan derive it")
            raise CalibrationError(f"`{route.target}` cannot be fitted in closed form", [fault])
        if not _is_thinned(route):
            module, index = f"adapters.{name}.project", _projected(route)[0]
            places = range(steps[0].groups) if steps[0].groups > 1 else (None,)
            found += [Projection(route, module, index, place) for place in places]
    if not found:
        folded = vars(net).get("folded") is not None
        found_none = "none: they were folded, or rebuilt without" if folded else "none in the plan"
        before = "swap without refit, calibrate, and fold then"
        fault = Mismatch("adapters", "a projection to fit", found_none, before if folded else _ALWAYS)
        raise CalibrationError("there is nothing to calibrate", [fault])
    return tuple(found)


def _check_parametrised(layer: nn.Module, path: str) -> None:
    """Refuse a layer whose weight or offset is computed from others: what is written to it is gone at the next call."""
    own = {name for name, _ in layer.named_parameters(recurse=False)}
    computed = [name for name in ("weight", "bias") if getattr(layer, name, None) is not None and name not in own]
    if computed:
        expected, found = "a parameter of its own", "computed from others, by a parametrization, weight norm or pruning"
        where = f"{path}.{computed[0]}"
        remedy = f'torch.nn.utils.parametrize.remove_parametrizations(net.get_submodule("{path}"), "{computed[0]}")'
        fault = Mismatch(where, expected, found, remedy, "calibrate first, then parametrise")
        raise CalibrationError("a layer that is computed from others cannot be written", [fault])


def left_as_they_are(plan: Plan) -> dict[str, str]:
    """Feature outputs that are not fitted although the new module's function may differ, and why."""
    reasons = {}
    for route in plan.routes:
        is_feature = route.specs[-1].role == "feature" and route.specs[-1].is_floating
        if route.same_as:
            continue
        if _is_thinned(route) and _projected(route):
            reasons[route.target] = "points of the new module are not those of the old one, so nothing can be paired"
        elif is_feature and not _projected(route) and not route.source.startswith("inputs."):
            reasons[route.target] = 'no projection to fit, since channels agree; adapt(..., project="always") adds one'
    return reasons


def _is_thinned(route: Route) -> bool:
    return any(isinstance(step, Thin) for step in route.steps)


def _projected(route: Route) -> list[int]:
    return [index for index, step in enumerate(route.steps) if isinstance(step, Project)]


def weight_and_offset(layer: nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    """The parameters of a layer; an offset of zeros, whose gradient is zero, where it has none."""
    weight = whole(layer.get_parameter("weight"))
    if layer.bias is None:
        return weight, weight.new_zeros(weight.shape[0], requires_grad=True)
    return weight, whole(layer.get_parameter("bias"))


def set_weight(layer: nn.Module, weight_CD: torch.Tensor, bias_D: torch.Tensor, place: int | None = None) -> None:
    """Write an affine map into a linear layer or a 1x1 convolution; an offset that the layer lacks is left out.

    Args:
        layer: With groups, it has a map for each place.
        weight_CD: The weight.
        bias_D: The offset.
        place: Which of the layer's maps; all, if left out.
    """
    with torch.no_grad():
        for tensor, values in ((layer.weight, weight_CD.T), (layer.bias, bias_D)):
            if isinstance(tensor, torch.Tensor):
                given = whole(tensor)
                part = given if place is None else _of_place(given, place, layer.groups)
                part.copy_(values.reshape(part.shape))
                if given is not tensor:
                    write_whole(tensor, given)


def _of_place(tensor: torch.Tensor, place: int, places: Any) -> torch.Tensor:
    """What belongs to one place of a layer's weight, offset or gradients, as a view of it."""
    assert isinstance(places, int), "a convolution has groups"
    return tensor.view(places, -1, *tensor.shape[1:])[place]


def set_weights(
    layers: Sequence[nn.Module],
    maps: Sequence[tuple[torch.Tensor, torch.Tensor]],
    places: Sequence[int | None] = (),
) -> None:
    """Write an affine map into each layer, or its place there, or into none: whatever comes between, all are as before.

    Args:
        layers: One for each map; one that has a map for each place comes as often.
        maps: Weight and offset.
        places: Which of its layer's maps each is; left out where all layers have one.
    """
    with all_or_none(parameter for layer in layers for parameter in layer.parameters(recurse=False)):
        for layer, (weight_CD, bias_D), place in zip(layers, maps, places or [None] * len(maps), strict=True):
            set_weight(layer, weight_CD, bias_D, place)


@contextlib.contextmanager
def all_or_none(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Whatever raises inside, a user's interruption too, leaves these parameters as they were."""
    own = [(parameter, parameter.detach().clone()) for parameter in parameters]
    try:
        yield
    except BaseException:
        with torch.no_grad():
            for parameter, before in own:
                parameter.copy_(before)
        raise


_SATURATED = 1e-6
"""So near their bounds, values of a sigmoid or of tanh tell no more of what went in."""


def _undone(
    step: Operation, value: torch.Tensor, before: TensorSpec, sizes: Mapping[str, int], target: str
) -> torch.Tensor:
    """Bring what stands after a step to the form that stood before it."""
    match step:
        case Cast() | Restore(what="norm 1" | "log-probabilities"):
            return value
        case Restore(what="between 0 and 1"):
            return torch.logit(value, eps=_SATURATED)
        case Restore(what="between -1 and 1"):
            return torch.atanh(value.clamp(_SATURATED - 1, 1 - _SATURATED))
        case Restore():
            return value.clamp_min(torch.finfo(value.dtype).tiny).log()
        case Rearrange(pattern=pattern):
            left, right = axis_groups(pattern)
            alone = zip(left, before.shape(sizes), strict=True)
            known = {names[0]: size for names, size in alone if len(names) == 1}
            known |= {name: dim.evaluate(sizes) for name, dim in step.sizes.items()}
            merged = {name: known[name] for names in right if len(names) > 1 for name in names}
            source, _, arranged = pattern.partition("->")
            return einops.rearrange(value, f"{arranged} -> {source}", **merged)
        case Hide():
            return value
        case Flip(axes=axes):
            return value.flip(axes)
        case Resize() | Pool():
            return resized(value, before.shape(sizes)[2:])
        case Resample(first=first, step=by):
            return _resampled_back(value, first, by, before.shape(sizes)[2:])
        case Lead():
            return value[:, 1:]
        case ResizeTokens(prefix=prefix, source=grid, dims=dims, order=order, first=first, step=by, suffix=suffix):
            have, want = (tuple(dim.evaluate(sizes) for dim in sides) for sides in (dims, grid))
            end = value.shape[1] - suffix
            cells = torch.unflatten(value[:, prefix:end].transpose(1, 2), 2, have)
            cells = cells.permute(0, 1, *(2 + order.index(side) for side in range(len(order)))) if order else cells
            cells = _resampled_back(cells, first, by, want) if first else resized(cells, want)
            return torch.cat([value[:, :prefix], cells.flatten(2).transpose(1, 2), value[:, end:]], 1)
        case _:
            fault = Mismatch(target, "rearranging and resizing", str(step), "calibrate before editing the plan")
            raise CalibrationError(f"`{target}`: what follows the projection cannot be undone", [fault])


def _resampled_back(
    values: torch.Tensor, first: Sequence[float], step: Sequence[float], size: tuple[int, ...]
) -> torch.Tensor:
    """Read cells that lie at `first + j*step` of a grid at the places of its own cells, `[B, C, *size]`."""
    inverse = [-start / by for start, by in zip(first, step, strict=True)]
    return resample(values, inverse, [1 / by for by in step], [*size])


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
