"""Members: the modules of a region, from a list of paths or a span in order of calls."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

from torch import nn

from autoadapt.contracts.capturing.regions.traces import Call, Trace
from autoadapt.contracts.plain_modules import registering
from autoadapt.errors import CaptureError, Mismatch, nearest

RegionPath: TypeAlias = str | Sequence[str]
"""A list of paths, or a span `first:last` in order of calls."""


def region_text(region: RegionPath) -> str:
    """A region as text.

    Example:
        >>> region_text(["conv1", "layer1", "layer2"]), region_text("model.0:model.9")
        ('conv1, layer1, layer2', 'model.0:model.9')
    """
    return region if isinstance(region, str) else ", ".join(map(str, region))


def find_members(model: nn.Module, trace: Trace, region: RegionPath) -> tuple[str, ...]:
    """The paths of the modules of a region, none inside of another, in the order in which they first run.

    A module that is never called itself, such as a ModuleList, stands for the modules inside that are. One without
    weights that also runs elsewhere, such as a shared activation, is left out: it counts as a function.

    Raises:
        CaptureError: A path names no module, or a module of the region never runs.
    """
    named = dict(model.named_modules(remove_duplicate=False))
    wanted = region.split(":") if isinstance(region, str) else list(region)
    _refuse_no_span(wanted, region)
    _refuse_unregistered(model, wanted, named)
    _refuse_unknown(wanted, named)
    first_path = {id(module): path for path, module in reversed(named.items())}
    wanted = [first_path[id(named[path])] for path in wanted]
    called = {path: _called(trace, path) for path in wanted}
    idle = [path for path in wanted if not called[path]]
    if idle:
        remedy = "leave it out, or give an input at which it runs"
        faults = [Mismatch(path, "a module whose forward runs", "it is never called", remedy) for path in idle]
        raise CaptureError(f"`{idle[0]}` does not run when the model runs", faults)
    if not isinstance(region, str):
        found = _outermost(trace, (call for calls in called.values() for call in calls))
        return _without_shared(named, trace, tuple(dict.fromkeys(call.path for call in found)))
    start, end = _interval(called[wanted[0]], called[wanted[-1]], region)
    inside = [call for call in trace.calls if call.entered >= start and 0 <= call.left <= end]
    found = _outermost(trace, inside)
    return _without_shared(named, trace, tuple(dict.fromkeys(call.path for call in found)))


def _refuse_no_span(wanted: Sequence[str], region: RegionPath) -> None:
    expected = "a list of paths, or a span of two in order of calls"
    if not wanted:
        raise CaptureError("a region has no modules", [Mismatch("region", expected, "none", '"conv1:layer4"')])
    if isinstance(region, str) and len(wanted) > 2:
        remedy = f'"{wanted[0]}:{wanted[-1]}", or {list(wanted)}'
        raise CaptureError(f"`{region}` is no span", [Mismatch(region, expected, f"{len(wanted)} paths", remedy)])


def _refuse_unregistered(model: nn.Module, wanted: Iterable[str], named: dict[str, nn.Module]) -> None:
    remedies = {path: registering(model, path) for path in wanted if path not in named}
    expected, found = "a registered module", "one in a plain attribute, which PyTorch does not see"
    faults = [Mismatch(path, expected, found, remedy) for path, remedy in remedies.items() if remedy]
    if faults:
        raise CaptureError(f"`{faults[0].where}` is no submodule", faults)


def _refuse_unknown(wanted: Sequence[str], named: dict[str, nn.Module]) -> None:
    """Refuse paths that are no submodules."""
    faults = []
    for path in wanted:
        if not path or path not in named:
            near = nearest(path, named)
            found = "no module of that name" + (f"; nearest: {', '.join(near)}" if near else "")
            faults.append(Mismatch(path or "''", "a path in named_modules()", found, near[0] if near else ""))
    if faults:
        raise CaptureError(f"there is no module at `{faults[0].where}`", faults)


def _called(trace: Trace, path: str) -> list[Call]:
    """The calls of a module; where there are none, the outermost calls of modules inside of it."""
    own = [call for call in trace.calls if call.path == path]
    return own or _outermost(trace, (call for call in trace.calls if call.path.startswith(f"{path}.")))


def _outermost(trace: Trace, calls: Iterable[Call]) -> list[Call]:
    chosen = list(calls)
    ids = {id(call) for call in chosen}
    outer = [call for call in chosen if not any(id(trace.calls[number]) in ids for number in call.within)]
    return sorted(outer, key=lambda call: (call.entered, call.left))


def _interval(first: list[Call], last: list[Call], region: str) -> tuple[int, int]:
    """The steps at which the first call of `first` begins and, before it begins again, the last call of `last` ends."""
    start = first[0].entered
    again = [call.entered for call in first if call.path == first[0].path][1:2]
    ends = [call.left for call in last if call.left > start]
    within = [left for left in ends if not again or left <= again[0]]
    if not ends:
        low, high = region.split(":")[0], region.split(":")[-1]
        fault = Mismatch(region, "a span in order of calls", f"{high} runs before {low}", f'"{high}:{low}"')
        raise CaptureError(f"`{region}` is no span", [fault])
    return start, max(within or ends)


def _without_shared(named: dict[str, nn.Module], trace: Trace, found: tuple[str, ...]) -> tuple[str, ...]:
    """Without modules that have no weights and run more often than the region does."""
    count = {path: sum(call.path == path for call in trace.calls) for path in found}
    learned = [path for path in found if any(True for _ in named[path].parameters())]
    least = min((count[path] for path in learned), default=1)
    return tuple(path for path in found if path in learned or count[path] <= least) or found
