"""Places: a projection with a map of its own at each place, for heads that read all places of a small map at once."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod

from autoadapt.adapting.operations import Operation, Project, Rearrange
from autoadapt.adapting.planning.plans import Route
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import AxisSizes, TensorSpec

MOST_PLACES = 16


def by_places(route: Route, sizes: Mapping[str, int], axes: Mapping[str, AxisSizes]) -> Route:
    """The route with a map for each place, where there are 2 to 16 places at every input size; else as it was.

    The channels of all places become channels of one place, to which a grouped convolution is applied.

    Args:
        route: A route with at most one projection.
        sizes: Sizes of the input axes, to count multiply-adds.
        axes: The legal sizes: dims of an axis of one size are constants.

    Example:
        >>> spec = TensorSpec(dtype="f32", dims=(Dim.axis("B"), Dim(8), Dim(4)))
        >>> project = Project(form="conv", source=8, target=6)
        >>> route = Route(target="", source="", steps=(project,), specs=(spec, project.gives(spec)))
        >>> [getattr(step, "pattern", None) or step.groups for step in by_places(route, {"B": 1}, {}).steps]
        ['b c x -> b (x c) 1', 4, 'b (x c) 1 -> b c x']
    """
    steps: list[Operation] = []
    known = {name: one.example for name, one in axes.items() if one.step == 0}
    spec = spec_before = route.specs[0].with_dims(tuple(_constant(dim, known) for dim in route.specs[0].dims))
    for step in route.steps:
        found = _Places.of(step, spec) if isinstance(step, Project) and step.groups == 1 else None
        steps += [step] if found is None else found.steps
        spec = step.gives(spec)
    if len(steps) == len(route.steps):
        return route
    return route.model_copy(update={"specs": (spec_before,)}).with_steps(steps, sizes)


def _constant(dim: Dim, known: Mapping[str, int]) -> Dim:
    return Dim(dim.evaluate(known)) if dim.axes and dim.axes <= known.keys() else dim


@dataclass(frozen=True)
class _Places:
    """A projection and the axes of its input by name, in their order: `b` the batch, `c` the channels, `xyz` places."""

    step: Project
    names: tuple[str, ...]
    sizes: Mapping[str, int]

    @classmethod
    def of(cls, step: Operation, spec: TensorSpec) -> _Places | None:
        """The places of a projection; None where their number varies, is 1, or is large."""
        assert isinstance(step, Project), "asked of one"
        channels = 1 if step.form == "conv" else len(spec.dims) - 1
        others = [axis for axis in range(1, len(spec.dims)) if axis != channels]
        names = {0: "b", channels: "c", **dict(zip(others, "xyz", strict=False))}
        sizes = {names.get(axis, ""): spec.dims[axis].constant for axis in others}
        known = {name: size for name, size in sizes.items() if name and size}
        if len(known) < len(others) or not 1 < prod(known.values()) <= MOST_PLACES or spec.dims[0].constant is not None:
            return None
        return cls(step, tuple(names[axis] for axis in range(len(spec.dims))), known)

    @property
    def steps(self) -> list[Operation]:
        """The operations: places are merged into channels, mapped, and split again."""
        plain, merged = " ".join(self.names), f"b ({' '.join([*self.sizes, 'c'])}) 1"
        split = {name: Dim(size) for name, size in self.sizes.items()} | {"c": Dim(self.step.target)}
        mapped = self.step.model_copy(update={"form": "conv", "groups": prod(self.sizes.values())})
        return [
            Rearrange(pattern=f"{plain} -> {merged}", sizes={}),
            mapped,
            Rearrange(pattern=f"{merged} -> {plain}", sizes=split),
        ]
