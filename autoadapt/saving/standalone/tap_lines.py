"""Tap lines: how a standalone file collects what inner modules return and read."""

from __future__ import annotations

from collections.abc import Iterator

from autoadapt.adapting.building.expressions import INDENT, WIDTH, Expression, Text, constant, group, lines_of, quoted
from autoadapt.adapting.planning import Plan
from autoadapt.contracts import leaves

_LISTS = {"TAPS": False, "READ": True}
"""The constants that name tapped modules, and whether those are tapped for what they read."""


def _modules(plan: Plan, *, reads: bool) -> tuple[str, ...]:
    """The modules that are tapped for what they return, or for what they read."""
    taps = [tap for tap in plan.taps.values() if tap.module and (tap.path == leaves.READ) is reads]
    return tuple(dict.fromkeys(tap.module for tap in taps))


def tap_constants(plan: Plan) -> Iterator[str]:
    """The lists of tapped modules."""
    for name, reads in _LISTS.items():
        if paths := _modules(plan, reads=reads):
            yield from lines_of(f"{name} = ", constant(paths), "", WIDTH)


def tap_hooks(plan: Plan) -> Iterator[str]:
    """What puts hooks on them."""
    for name, reads in _LISTS.items():
        if _modules(plan, reads=reads):
            kind, method = ("forward_pre_hook", "_read") if reads else ("forward_hook", "_take")
            yield f"for path in {name}:"
            yield "    module = backbone.get_submodule(path)"
            yield f"    module.register_{kind}(partial(self.{method}, path))"
    yield "self._calls = RunningCalls()"


def tap_methods(plan: Plan) -> Iterator[str]:
    """The methods that collect what inner modules return and read."""
    if _modules(plan, reads=False):
        yield from _taking(plan)
    if _modules(plan, reads=True):
        yield from _reading(plan)
    yield from _running(plan)


def _taking(plan: Plan) -> Iterator[str]:
    overwritten = _overwritten(plan, reads=False)
    returned = "Any" if overwritten else "None"
    yield f"    def _take(self, path: str, _module: nn.Module, _args: Any, output: Any) -> {returned}:"
    yield '        """Keep what an inner module returns, call by call."""'
    yield "        if self._calls.taken:"
    yield "            self._calls.taken[-1].setdefault(path, []).append(output)"
    if overwritten:
        yield f"        overwritten = path in {overwritten!r}  # by what follows".replace("'", '"')
        yield "        return cloned(output) if overwritten else output"
    yield ""


def _reading(plan: Plan) -> Iterator[str]:
    overwritten = _overwritten(plan, reads=True)
    yield "    def _read(self, path: str, _module: nn.Module, args: tuple[Any, ...]) -> None:"
    yield '        """Keep what an inner module reads, call by call."""'
    yield "        if self._calls.taken:"
    if overwritten:
        yield f"            overwritten = path in {overwritten!r}  # by what follows".replace("'", '"')
        yield "            taken = cloned(args[0]) if overwritten else args[0]"
    kept = "taken" if overwritten else "args[0]"
    yield f'            self._calls.taken[-1].setdefault(path + ":{leaves.READ}", []).append({kept})'
    yield ""


def _overwritten(plan: Plan, *, reads: bool) -> list[str]:
    taps = [tap for tap in plan.taps.values() if tap.overwritten and (tap.path == leaves.READ) is reads]
    return sorted({tap.module for tap in taps})


def _running(plan: Plan) -> Iterator[str]:
    yield "    def _tapped(self, *args: Any, **kwargs: Any) -> list[Any]:"
    yield '        """What the inner modules return while the backbone runs."""'
    yield "        taken: dict[str, list[Any]] = {}"
    yield "        self._calls.taken.append(taken)"
    yield "        try:"
    whole = any(not tap.module for tap in plan.taps.values())
    yield f"            {'output = ' if whole else ''}self.backbone(*args, **kwargs)"
    yield "        finally:"
    yield "            self._calls.taken.pop()"
    taps = list(plan.taps.values())
    each_once = len({tap.module for tap in taps}) == len(taps)
    if each_once and all(tap.module and not tap.call and tap.path == "output" for tap in taps):
        yield "        return [taken[path][0] for path in TAPS]"
        return
    items: list[tuple[str, Expression]] = []
    for tap in taps:
        value = f"taken[{quoted(leaves.place_of_tap(tap.module, tap.path))}][{tap.call}]" if tap.module else "output"
        whole_leaf = tap.path in ("output", leaves.READ)
        items.append(("", Text(value if whole_leaf else f"leaf({value}, {quoted(tap.path)})")))
    yield from ("        " + line for line in lines_of("return ", group("[", items, "]"), "", WIDTH - 2 * INDENT))
