"""Stand-ins: what stands at the members of a swapped region, and how the levels of a running call get to them."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import nn

from autoadapt.contracts.capturing.regions import Region, RegionPath, Returned
from autoadapt.contracts.dims.forms import Axis, Floor, Form
from autoadapt.contracts.leaves import RunningCalls, leaf
from autoadapt.contracts.signature import Signature, TensorSpec
from autoadapt.contracts.trees import Slot, flatten, rebuild

__all__ = ["Blank", "Levels", "Passes", "StandIn", "blank_of", "first_path", "passes_of"]

Sum: TypeAlias = tuple[tuple[int, tuple[Any, ...]], ...]
"""A size as plain tuples, which compilers follow: terms of a factor and of atoms, each `("axis", name)`,
`("floor", sum, divisor)` or `("max", sum, low)`."""


@dataclass(frozen=True)
class Blank:
    """A tensor of zeros, of the shape of a leaf of which nobody reads the values but functions take it.

    The functions between the modules of a region still run, as they stand in the model's own code; with the shapes
    that they always had they run at every size at which they did.
    """

    shape: tuple[Sum, ...]
    dtype: torch.dtype | None
    """None for that of the region's first input."""
    is_written: bool
    """Whether a function writes over it; else all its values are one in memory."""

    def like(self, given: torch.Tensor, sizes: Mapping[str, Any]) -> torch.Tensor:
        """The tensor, for a call of the region with an input."""
        shape = [_size(one, sizes) for one in self.shape]
        dtype = given.dtype if self.dtype is None else self.dtype
        if self.is_written:
            return torch.zeros(shape, dtype=dtype, device=given.device)
        return torch.zeros((), dtype=dtype, device=given.device).expand(shape)


def blank_of(spec: TensorSpec, *, is_written: bool) -> Blank:
    """What stands for a leaf of a signature."""
    shape = tuple(_plain(dim._form) for dim in spec.dims)
    return Blank(shape, None if spec.is_floating else spec.torch_dtype, is_written)


def _plain(form: Form) -> Sum:
    def atom(one: Any) -> tuple[Any, ...]:
        if isinstance(one, Axis):
            return "axis", one.name
        if isinstance(one, Floor):
            return "floor", _plain(one.inner), one.divisor
        return "max", _plain(one.inner), one.low

    return tuple((factor, tuple(map(atom, monomial))) for monomial, factor in form.terms)


def _size(terms: Sum, sizes: Mapping[str, Any]) -> Any:
    total = 0
    for factor, atoms in terms:
        for atom in atoms:
            factor = factor * _atom(atom, sizes)
        total = total + factor
    return total


def _atom(atom: tuple[Any, ...], sizes: Mapping[str, Any]) -> Any:
    if atom[0] == "axis":
        return sizes[atom[1]]
    value = _size(atom[1], sizes)
    return value // atom[2] if atom[0] == "floor" else max(value, atom[2])


@dataclass(eq=False)
class Passes:
    """The running passes through a swapped region, and what each of its modules hands on.

    The levels of a pass belong to the call of the module around the region: each thread has its own, calls within
    calls too, and they are gone when the call ends, also where it raises. Where the model's methods are called past
    the module itself, they belong to the last pass that began in the thread.
    """

    order: tuple[Returned, ...]
    served: tuple[str, ...]
    """The leaves that the adapted module returns."""
    axes: Mapping[str, tuple[int, int]]
    """For each input axis the tensor, among those that the region is given, and which of its axes it is."""
    blanks: Mapping[str, Blank]
    is_bare: bool
    """Whether it returns its one leaf without a container."""
    _running: RunningCalls = field(default_factory=RunningCalls)

    @property
    def paths(self) -> tuple[str, ...]:
        """Where the modules of the region stand, each once."""
        return tuple(dict.fromkeys(one.path for one in self.order))

    def begin(self, _module: nn.Module, _args: Any) -> None:
        """A forward pre-hook of the module around."""
        self._running.taken.append({})

    def end(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        """A forward hook of the module around, also where it raises."""
        if self._running.taken:
            self._running.taken.pop()

    def take_over(self, net: nn.Module) -> None:
        """Have an adapted module hand on only what is read at its place, instead of all that it returns."""
        net.__dict__["hand_on"] = self
        net.register_forward_hook(self.first, with_kwargs=True)

    def first(self, _module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], returned: Any) -> Any:
        """The forward hook of the adapted module."""
        if not self._running.taken:
            self._running.taken.append({})
        taken = self._running.taken[-1]
        taken.clear()
        taken["given"] = [one for one in (*args, *kwargs.values()) if isinstance(one, torch.Tensor)]
        for name in self.served:
            taken[f"level {name}"] = [returned if self.is_bare else leaf(returned, name)]
        taken["calls"] = []
        return self._handed_on(self.order[0].path, taken, args, kwargs)

    def next(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a stand-in hands on.

        Raises:
            RuntimeError: It runs outside a pass that began at the first module of the region.
        """
        taken = self._running.taken[-1] if self._running.taken else {}
        number = len(taken.get("calls", self.order))
        if number == len(self.order) or self.order[number].path != path:
            raise RuntimeError(
                f"{path} stands in for a module of a swapped region, which runs in this order: "
                f"{', '.join(one.path for one in self.order)}"
            )
        return self._handed_on(path, taken, args, kwargs)

    def _handed_on(self, path: str, taken: dict[str, list[Any]], args: Any, kwargs: dict[str, Any]) -> Any:
        number = len(taken["calls"])
        one = self.order[number]
        taken["calls"].append(path)
        if isinstance(one.tree, Slot) and not one.names[0]:
            value = next((given for given in (*args, *kwargs.values()) if isinstance(given, torch.Tensor)), None)
        else:
            leaves = [self._leaf(name, taken) for name in one.names]
            value = leaves[0] if isinstance(one.tree, Slot) else rebuild(one.tree, leaves)
        if len(taken["calls"]) == len(self.order):
            taken.clear()
        return value

    def _leaf(self, name: str, taken: dict[str, list[Any]]) -> Any:
        if f"level {name}" in taken:
            return taken[f"level {name}"][0]
        given = taken["given"]
        if name not in self.blanks:
            return given[0]
        sizes = {axis: given[tensor].shape[at] for axis, (tensor, at) in self.axes.items()}
        return self.blanks[name].like(given[0], sizes)

    @classmethod
    def of(cls, region: Region, signature: Signature, served: Sequence[str]) -> Passes:
        """For a region of which an adapted module returns some leaves.

        Args:
            region: The region.
            signature: What it returns at every size, as `RegionModule` does.
            served: The leaves that the adapted module returns.
        """
        axes: dict[str, tuple[int, int]] = {}
        for number, spec in enumerate(signature.inputs.leaves):
            for at, dim in enumerate(spec.dims):
                axes.setdefault(str(dim), (number, at))
        specs = signature.outputs.leaves
        by_name = dict(zip(region.named, specs, strict=True))
        over = {name for one in region.order if one.overwritten for name in one.names}
        blanks = {n: blank_of(spec, is_written=n in over) for n, spec in by_name.items() if n not in served}
        used = frozenset[str]().union(*(dim.axes for n in blanks for dim in by_name[n].dims))
        read = {name: axes[name] for name in axes if name in used}
        return cls(region.order, tuple(served), read, blanks, is_bare=len(region.named) == 1)


class Levels:
    """What the modules that stood in a region's place return in later runs of the old model, as the region's outputs.

    Args:
        model: The old model; hooks are added to it until the end.
        passes: What the new one's modules share.
    """

    def __init__(self, model: nn.Module, passes: Passes) -> None:
        self._passes = passes
        self._taken: list[Any] = []
        self._handles = [
            model.get_submodule(path).register_forward_hook(functools.partial(self._take, path))
            for path in passes.paths
        ]

    def _take(self, path: str, _module: nn.Module, _args: Any, output: Any) -> None:
        if self._passes.order[len(self._taken) % len(self._passes.order)].path == path:
            self._taken.append(output)

    def end(self) -> list[Any]:
        """The outputs of each pass, as the adapted module returns them; the hooks are taken off."""
        for handle in self._handles:
            handle.remove()
        size = len(self._passes.order)
        return [self._of(self._taken[i : i + size]) for i in range(0, len(self._taken) - size + 1, size)]

    def _of(self, outputs: list[Any]) -> Any:
        found: dict[str, torch.Tensor] = {}
        for one, output in zip(self._passes.order, outputs, strict=True):
            found |= dict(zip(one.names, flatten(output)[1], strict=True))
        levels = {name: found[name] for name in self._passes.served}
        return next(iter(levels.values())) if self._passes.is_bare else levels


def first_path(model: nn.Module, at: RegionPath | None) -> str | None:
    """The path of the adapted module that a path or a swapped region means.

    Example:
        >>> first_path(nn.Module(), "conv1:layer4"), first_path(nn.Module(), "backbone")
        ('conv1', 'backbone')
    """
    if at is None or (isinstance(at, str) and ":" not in at):
        return at
    first = at.split(":")[0] if isinstance(at, str) else at[0]
    inside = [path for path, one in model.named_modules() if passes_of(one) and f"{path}.".startswith(f"{first}.")]
    return inside[0] if inside else first


def passes_of(net: nn.Module) -> Passes | None:
    """What the first module of a swapped region shares with its stand-ins; None for any other module."""
    found: Passes | None = net.__dict__.get("hand_on")
    return found


class StandIn(nn.Module):
    """Stands where a module of a swapped region stood: hands on a level, or what it is given.

    Args:
        path: Where it stands.
        passes: The running passes, which all stand-ins of a region share.
        attributes: What is read off the module, as `f` and `i` of a layer that a list of layers is walked by.
    """

    def __init__(self, path: str, passes: Passes, attributes: Mapping[str, Any] | None = None) -> None:
        super().__init__()
        self.__dict__.update(attributes or {})
        self.path = path
        self.passes = passes

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Hand on what is read at this place."""
        return self.passes.next(self.path, args, kwargs)

    def extra_repr(self) -> str:
        """Where the levels come from."""
        return f"hands on what {self.passes.order[0].path} returns"
