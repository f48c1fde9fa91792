"""Stand-ins: what stands at the members of a swapped region, and what these give in runs of the old model."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import Any

from torch import nn

from autoadapt.contracts.capturing.regions import RegionPath, leave_before, with_numbers
from autoadapt.contracts.trees import flatten
from autoadapt.errors import Mismatch, SwapError
from autoadapt.swapping.passes import Passes


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
            leave_before(model.get_submodule(path), functools.partial(self._take, path))
            for path in passes.handing.paths
        ]

    def _take(self, path: str, _module: nn.Module, _args: Any, output: Any) -> None:
        if self._passes.handing.order[len(self._taken) % len(self._passes.handing.order)].path == path:
            self._taken.append(output)

    def end(self) -> list[Any]:
        """The outputs of each pass, as the adapted module returns them; the hooks are taken off."""
        for handle in self._handles:
            handle.remove()
        size = len(self._passes.handing.order)
        return [self._of(self._taken[i : i + size]) for i in range(0, len(self._taken) - size + 1, size)]

    def _of(self, outputs: list[Any]) -> Any:
        found: dict[str, Any] = {}
        for one, output in zip(self._passes.handing.order, outputs, strict=True):
            found |= dict(zip(one.names, with_numbers(*flatten(output))[1], strict=True))
        levels = {name: found[name] for name in self._passes.handing.served}
        return next(iter(levels.values())) if self._passes.handing.is_bare else levels


def first_path(model: nn.Module, at: RegionPath | None) -> str | None:
    """The path of the adapted module that a path or a swapped region means.

    Raises:
        SwapError: A path of the region is none of those that were swapped with the first one.

    Example:
        >>> first_path(nn.Module(), "conv1:layer4"), first_path(nn.Module(), "backbone")
        ('conv1', 'backbone')
    """
    if at is None or (isinstance(at, str) and ":" not in at):
        return at
    named = at.split(":") if isinstance(at, str) else list(at)
    first = named[0] if named else ""
    inside: dict[str, Passes] = {
        path: passes for path, one in model.named_modules() if (passes := passes_of(one)) and _is_in(path, first)
    }
    for path, passes in inside.items():
        _refuse_others(model, named, path, passes)
        return path
    return first


def _is_in(path: str, holder: str) -> bool:
    return f"{path}.".startswith(f"{holder}.")


def _refuse_others(model: nn.Module, named: list[str], first: str, passes: Passes) -> None:
    stand_ins = [path for path, one in model.named_modules() if isinstance(one, StandIn) and one._passes is passes]
    members = [first, *stand_ins]
    others = [path for path in named if not any(_is_in(one, path) for one in members)]
    if others:
        fault = Mismatch("at", f"modules of the region {', '.join(members)}", ", ".join(others), f"at={members}")
        raise SwapError(f"`{others[0]}` was not swapped with `{first}`", [fault])


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
        self._path = path
        self._passes = passes

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Hand on what is read at this place."""
        return self._passes.next(self._path, args, kwargs)

    def extra_repr(self) -> str:
        """Where the levels come from."""
        return f"hands on what {self._passes.handing.order[0].path} returns"
