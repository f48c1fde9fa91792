"""Plans as pictures and tables: which source serves which output, by which operations, at what cost."""

from __future__ import annotations

from collections.abc import Sequence

from autoadapt.adapting.operations import Operation, Resize
from autoadapt.adapting.planning import InputRoute, Plan, Route, one_sample
from autoadapt.contracts.signature import Signature, TensorSpec, describe
from autoadapt.errors import PlanError
from autoadapt.showing import (
    Badge,
    Box,
    Column,
    Diagram,
    Facts,
    Lane,
    Name,
    Section,
    Step,
    Steps,
    Table,
    narrow_svg,
    section_of,
    svg,
)
from autoadapt.showing.tables import human_count


def plan_svg(plan: Plan, *, narrow: bool = False) -> str:
    """The picture of a plan: an SVG that stands alone, in light and dark.

    Args:
        plan: Which source serves which target.
        narrow: Whether it is 352 pixels wide, for telephones and columns of text, with the outputs below each other.

    Example:
        >>> from autoadapt.adapting.planning import plan
        >>> old = Signature.parse({"c2": "f32[B, 64, ceil(H/4), ceil(W/4)]"}, inputs="f32[B, 3, H, W]")
        >>> new = Signature.parse("f32[B, 32, ceil(H/4), ceil(W/4)]", inputs="f32[B, 3, H, W]")
        >>> "32→64" in plan_svg(plan(new, old))
        True
    """
    draw = narrow_svg if narrow else svg
    return str(draw(diagram(plan), alone=True)) + "\n"


@section_of.register
def plan_section(plan: Plan) -> Section:
    """The picture, what it costs, and a row for each output."""
    cost = f"{human_count(plan.parameters)} parameters" if _steps(plan) else "no layer"
    remarks = [*([plan.cut_remark] if plan.cut_remark else []), *_remarks(plan.routes)]
    notes = (Facts(tuple(("remark", remark) for remark in remarks)),) if remarks else ()
    return Section("Plan", _title(plan), (diagram(plan), _facts(plan), _routes(plan.routes), *notes), Badge(cost))


def _title(plan: Plan) -> str:
    return f"{plan.source.title} → contract of {plan.target.title} ({describe(plan.target.outputs.tree)})"


def _steps(plan: Plan) -> int:
    return sum(len(route.steps) for route in plan.routes)


def _costs(plan: Plan) -> tuple[str, ...]:
    if not _steps(plan):
        return ("none: the outputs are as they should be",)
    sizes = ", ".join(f"{name}={size}" for name, size in one_sample(plan.target.sizes()).items())
    work = f"{human_count(plan.multiply_adds)} multiply-adds" + (f" at {sizes}" if sizes else "")
    return f"{human_count(plan.parameters)} parameters", work


def _facts(plan: Plan) -> Facts:
    wanted = dict(plan.target.inputs.items())
    rows: list[tuple[str, Name | str]] = []
    for i, route in enumerate(plan.inputs):
        done = "".join(f", {step}" for step in route.steps)
        renamed = f" as {route.source}" if route.source != route.target else ""
        rows.append(("" if i else "input", Name(f"{route.target}  {wanted.get(route.target, '')}{renamed}{done}")))
    rows.append(("adapters", ", ".join(_costs(plan))))
    rows += [("cut", Name(", ".join(plan.cut)))] if plan.cut else []
    rows += [("no longer run", ", ".join(saved))] if (saved := _saved(plan)) else []
    rows += [("keeps", str(plan.kept))] if plan.kept is not None else []
    return Facts(tuple(rows))


def _saved(plan: Plan) -> list[str]:
    saved = {"parameters": plan.saved.parameters, "multiply-adds": plan.saved.multiply_adds}
    return [f"{human_count(count)} {what}" for what, count in saved.items()] if any(saved.values()) else []


def _routes(routes: Sequence[Route]) -> Table:
    columns = (
        Column("target"),
        Column("is"),
        Column("source"),
        Column("chain"),
        Column("params", right=True),
        Column("mul-adds", right=True, brief=False),
    )
    rows = tuple(
        (
            Name(route.target, strong=True),
            Name(str(route.specs[-1]), short=route.specs[-1].in_short),
            Name(route.source),
            Steps(_chain(route)),
            human_count(route.parameters) if route.steps else "",
            human_count(route.multiply_adds) if route.steps else "",
        )
        for route in routes
    )
    return Table(columns, rows)


def _remarks(routes: Sequence[Route]) -> list[str]:
    """Each remark once, with the outputs that it is about."""
    about: dict[str, list[str]] = {}
    for route in routes:
        about.setdefault(route.remark, []).append(route.target)
    is_of_all = len(about) == 1 < len(routes)
    return [f"{'all' if is_of_all else ', '.join(targets)}: {remark}" for remark, targets in about.items() if remark]


def diagram(plan: Plan) -> Diagram:
    """The picture of a plan, as data."""
    inputs = [f"inputs.{route.target}" for route in plan.inputs]
    sources = _sources(plan)
    places = {name: i for i, name in enumerate([*inputs, *sources])}
    cost = f"{len(plan.routes)} outputs, " + ", ".join(_costs(plan))
    given = [_given(route, plan.target) for route in plan.inputs]
    for name in dict.fromkeys(route.source for route in plan.routes):
        if name not in places:  # an input that the old module hands through and the new one does not take
            places = {other: i + (i >= len(given)) for other, i in places.items()} | {name: len(given)}
            path = name.removeprefix("inputs.")
            given.append((Box(path, str(plan.target.inputs[path])), ()))
    return Diagram(
        title=f"Plan: {_title(plan)}; {cost}",
        source=plan.source.name,
        target=(plan.target.name, describe(plan.target.outputs.tree)),
        inputs=tuple(given),
        sources=tuple(Box(name, str(spec)) for name, spec in sources.items()),
        lanes=tuple(_lane(route, places) for route in plan.routes),
        notes=_costs(plan),
        unused=_unused(plan),
    )


def _sources(plan: Plan) -> dict[str, TensorSpec]:
    """What the new module gives: taps in the order in which they are made, outputs in that in which they are read."""
    made = [route for route in plan.routes if not (route.same_as or route.source.startswith("inputs."))]
    first = {route.source: route.specs[0] for route in made}
    order = {name: i for i, name in enumerate(plan.taps)}
    return {name: first[name] for name in sorted(first, key=lambda name: order.get(name, len(order)))}


def _given(route: InputRoute, target: Signature) -> tuple[Box, tuple[Step, ...]]:
    spec = reached = dict(target.inputs.items()).get(route.target)
    steps = []
    for step in route.steps:
        reached = reached and _after(step, reached)
        steps.append(_step(step, gives=reached))
    renamed = "" if route.source == route.target else f" as {route.source}"
    return Box(route.target + renamed, str(spec or "")), tuple(steps)


def _after(step: Operation, spec: TensorSpec) -> TensorSpec | None:
    """What an operation gives; a plan that was edited by hand may ask for what cannot be, and is shown all the same."""
    try:
        return step.gives(spec)
    except PlanError:
        return None


def _unused(plan: Plan) -> tuple[str, str]:
    if plan.cut:
        return ": ".join(["no longer run", *_saved(plan)[:1]]), ", ".join(plan.cut)
    used = {route.source for route in plan.routes}
    left = [path for path in plan.source.outputs.paths if path not in used]
    return ("not used", ", ".join(left)) if left and not plan.taps else ("", "")


def _lane(route: Route, places: dict[str, int]) -> Lane:
    return Lane(places[route.source], _chain(route), Box(route.target, str(route.specs[-1])), route.remark)


def _chain(route: Route) -> tuple[Step, ...]:
    """The steps of a route; the dims after the last are those of the target, which stand beside it."""
    last = len(route.steps) - 1
    return tuple(
        _step(step, gives=None if i == last else route.specs[i + 1], last=i == last)
        for i, step in enumerate(route.steps)
    )


def _step(operation: Operation, *, gives: TensorSpec | None = None, last: bool = False) -> Step:
    to_target = last and isinstance(operation, Resize)
    return Step(
        kind=operation.op.partition(" ")[0],
        text="resize" if to_target else str(operation).replace("->", "→"),
        label="to target size" if to_target else operation.label,
        says=operation.says,
        note=human_count(operation.parameters) if operation.parameters else "",
        gives=gives.in_short.removeprefix(gives.dtype) if gives is not None else "",
    )
