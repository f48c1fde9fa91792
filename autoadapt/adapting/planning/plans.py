"""Plans: the chains that serve all outputs of a contract, as data and as a table."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import Field, model_validator

from autoadapt.adapting.coarse_steps import coarse_step
from autoadapt.adapting.operations import (
    Native,
    Operation,
    Pad,
    Renormalize,
    Resample,
    Resize,
    ResizeTokens,
    specs_along,
)
from autoadapt.contracts.facts import Dated, MadeByHand
from autoadapt.contracts.signature import Signature, TensorSpec, describe
from autoadapt.errors import Mismatch, PlanError
from autoadapt.errors.printable import is_plain_name, visible
from autoadapt.showing import Shown
from autoadapt.showing.tables import columns, hanging, headline, human_count, page_width


class InputRoute(MadeByHand):
    """One input tensor of the new module: the old module's input from which it is made, and how."""

    source: str
    """Path among the new module's inputs."""
    target: str
    """Path among the old module's inputs."""
    steps: tuple[Operation, ...] = ()


class Route(MadeByHand):
    """The chain that serves one output."""

    target: str
    """Path of the old module's output."""
    source: str
    """An output of the new module, the name of a tap, or `inputs.<path>`."""
    steps: tuple[Operation, ...] = ()
    specs: tuple[TensorSpec, ...]
    """The specs before the first step, and after each."""
    parameters: int = 0
    multiply_adds: int = 0
    """At the example, for one sample."""
    made_contiguous: bool = False
    """Whether the result is made contiguous, since the old output was and this would be a permuted view."""
    octaves: float = 0.0
    """By how much the stride changes, in octaves."""
    others: tuple[str, ...] = ()
    """Other sources that would have served it."""
    remark: str = ""
    same_as: str = ""
    """An earlier output that is the very same tensor, and is returned here again."""

    def with_steps(self, steps: Sequence[Operation], sizes: Mapping[str, int] | None = None) -> Route:
        """The route with other steps from the same source, and their cost.

        Args:
            steps: The chain.
            sizes: Sizes of the input axes, to count multiply-adds; without them none are counted.
        """
        specs = specs_along(self.specs[0], steps)
        adds = [step.multiply_adds(spec, sizes) for step, spec in zip(steps, specs, strict=False)] if sizes else []
        costs = {"parameters": sum(step.parameters for step in steps), "multiply_adds": sum(adds)}
        return self.model_copy(update={"steps": tuple(steps), "specs": specs, **costs})


class Tap(MadeByHand):
    """An inner output of the new module that a route starts from."""

    module: str
    """Path of the module; empty for the whole."""
    call: int = 0
    """Which of its calls, from 0."""
    path: str = "output"
    """Path within its output, or `inputs.0` for its first argument."""
    overwritten: bool = False
    """Whether later modules write to it in place, so that they get a copy; found when the plan is built."""


class CutCost(MadeByHand):
    """The cost of a module that no longer runs."""

    parameters: int = 0
    multiply_adds: int = 0
    """Of its convolutions and linear layers, at the example, for one sample."""


class Kept(MadeByHand):
    """How much of the new module the sources of a plan depend on.

    Example:
        >>> print(Kept(parameters=683_072, of=11_176_512, depth=0.6))
        6 % of its parameters, 60 % of its depth
    """

    parameters: int
    """Parameters on which the sources depend."""
    of: int
    """Parameters on which all of its feature maps depend."""
    depth: float
    """The fraction of its depth that the sources reach."""

    @property
    def share(self) -> float:
        """The fraction of the parameters."""
        return self.parameters / self.of if self.of else 1.0

    def __str__(self) -> str:
        return f"{_percent(self.share)} % of its parameters, {_percent(self.depth)} % of its depth"


def _percent(share: float) -> str:
    """A fraction in per cent, from 95 on with a decimal, and 100 only for the whole."""
    if share < 0.95:
        return str(int(100 * share + 0.5))
    return "100" if share == 1 else f"{min(int(1000 * share + 0.5) / 10, 99.9):g}"


class Plan(Shown, Dated, MadeByHand):
    """How the new module gets the old one's signature, as data that can be read, edited and compared."""

    made_by = "plan(capture(new, inputs, inner=True), capture(old, inputs))"

    schema_version: Literal[1] = 1
    source: Signature
    target: Signature
    inputs: tuple[InputRoute, ...]
    taps: dict[str, Tap] = Field(default_factory=dict)
    """Inner outputs that routes start from, by their name in routes."""
    cut: tuple[str, ...] = ()
    """Modules on which no source depends; `build` removes those that it can."""
    beside: tuple[str, ...] = Field(default=(), exclude_if=lambda beside: not beside)
    """Those of them that run before the last source is computed: side branches."""
    cut_costs: dict[str, CutCost] = Field(default_factory=dict)
    """The cost of each of them."""
    frozen: tuple[str, ...] = ()
    """Parameters of the new module on which no output depends, and whose `requires_grad` is set to False; found when
    the plan is built."""
    routes: tuple[Route, ...]
    remarks: tuple[str, ...] = ()
    """Remarks on more than one output."""
    kept: Kept | None = Field(default=None, exclude_if=lambda kept: kept is None)
    """How much of the new module the sources depend on, where the capture traced that."""
    cut_remark: str = Field(default="", exclude_if=lambda remark: not remark)
    """The remark that most parameters are cut, from `remark_on_cut`."""

    @model_validator(mode="after")
    def _printable(self) -> Plan:
        """Names of modules must be one printable line, since they are put into tables, comments and code."""
        named = {f"taps.{name}": tap.module for name, tap in self.taps.items()} | {
            f"cut.{one}": one for one in self.cut
        }
        faults = [
            Mismatch(visible(where), "one printable line", visible(repr(path)), "rename the module")
            for where, path in named.items()
            if not (is_plain_name(where) and is_plain_name(path))
        ]
        if faults:
            raise PlanError("a plan has names of modules that no line can show", faults)
        return self

    @model_validator(mode="after")
    def _whole(self) -> Plan:
        """There must be a route for each output, in their order."""
        served, wanted = [route.target for route in self.routes], list(self.target.outputs.paths)
        if served != wanted:
            fault = Mismatch("routes", ", ".join(wanted)[:300], ", ".join(served)[:300], "aa.plan(new, old)")
            raise PlanError("a plan has other routes than its target has outputs", [fault])
        return self

    @property
    def parameters(self) -> int:
        """Parameters of all generated layers."""
        return sum(route.parameters for route in self.routes)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of all generated layers at the example, for one sample."""
        return sum(route.multiply_adds for route in self.routes)

    @property
    def saved(self) -> CutCost:
        """The cost of all modules that no longer run."""
        costs = [self.cut_costs[module] for module in self.cut if module in self.cut_costs]
        return CutCost(
            parameters=sum(cost.parameters for cost in costs), multiply_adds=sum(cost.multiply_adds for cost in costs)
        )

    @property
    def untraced(self) -> str:
        """Why it can be neither compiled nor exported at heights and widths that vary; empty where it can."""
        freed = [step.sizes.untraced for route in self.inputs for step in route.steps if isinstance(step, Native)]
        return next(filter(None, freed), "")

    @property
    def coarse_steps(self) -> dict[str, int]:
        """Input axes that are resized in coarse steps, with the step: a traced program is valid within one step."""
        resized = [step for route in self.inputs for step in route.steps if isinstance(step, (Resize, Pad))]
        return dict(found for step in resized for found in map(coarse_step, step.dims) if found)

    def gist(self) -> str:
        """The plan in one line."""
        count = len(self.target.outputs.leaves)
        outputs = f"{count} output{'s' if count != 1 else ''}"
        return f"{self.source.name} -> {outputs}, {human_count(self.parameters)} parameters"

    def __str__(self) -> str:
        contract = f"{self.target.title} ({describe(self.target.outputs.tree)})"
        lines = headline(self.source.title, f" ->  contract of {contract}")
        lines += columns([row for route in self.inputs for row in _input_rows(route, self.target)])
        lines += ["", *columns(_route_rows(self.routes), align="lllr")]
        lines += columns(_sum_rows(self))
        lines += _cut_lines(self)
        lines += columns([("keeps", str(self.kept))]) if self.kept is not None else []
        remarks = [(f"{about}:", remark) for remark, about in _remarks(self.routes).items()]
        widest = max((len(place) for place, _ in remarks), default=0)
        lines += [""] if remarks or self.cut_remark else []
        lines += hanging("remark", self.cut_remark) if self.cut_remark else []
        for place, remark in remarks:
            lines += hanging(f"remark  {place:<{widest}}", remark)
        for remark in self.remarks:
            lines += hanging("remark", remark)
        return "\n".join(lines)


def _remarks(routes: Sequence[Route]) -> dict[str, str]:
    """The outputs of each remark, as text, by remark."""
    about = dict[str, list[str]]()
    for route in routes:
        about.setdefault(route.remark, []).append(f"`{route.target}`")
    every = len(routes) if len(routes) > 1 else 0
    return {one: "all" if len(told) == every else _shown(told) for one, told in about.items() if one}


def one_sample(sizes: Mapping[str, int]) -> dict[str, int]:
    """Sizes with a batch of one, for which costs are counted.

    Example:
        >>> one_sample({"B": 2, "H": 224})
        {'B': 1, 'H': 224}
    """
    return {name: 1 if name == "B" else size for name, size in sizes.items()}


def _cut_lines(plan: Plan) -> list[str]:
    frozen = [("frozen", f"{_shown(plan.frozen)}: no output that is read depends on them")] if plan.frozen else []
    if not plan.cut:
        return columns(frozen)
    saved = plan.saved
    costs = f"{human_count(saved.parameters)} parameters and {human_count(saved.multiply_adds)} multiply-adds"
    rows = [("cut", _shown(plan.cut))]
    if saved.parameters or saved.multiply_adds:
        rows.append(("", f"{costs} no longer run"))
    return columns([*rows, *frozen])


def _input_rows(route: InputRoute, target: Signature) -> Iterable[tuple[str, ...]]:
    spec = dict(target.inputs.items()).get(route.target)
    first, *more = _input_lines(route.steps)
    yield "input", route.target, str(spec or ""), first
    yield from (("", "", "", line) for line in more)


def _input_lines(steps: Sequence[Operation]) -> list[str]:
    """The steps of an input as lines; statistics before and after have a line each."""
    lines, is_open = list[str](), False
    for step in steps:
        if isinstance(step, Renormalize):
            lines += [str(step.given), f"  -> {step.wanted}"]
        elif is_open:
            lines[-1] += f"  ·  {step}"
        else:
            lines.append(str(step))
        is_open = not isinstance(step, (Native, Renormalize))
    return lines or [""]


NARROWEST_CHAIN = 24


def _route_rows(routes: Sequence[Route]) -> list[tuple[str, ...]]:
    """Rows of target, source, chain and parameters; a long chain continues in the next row."""
    targets = [f"{route.target} {route.specs[-1].in_short}" for route in routes]
    room = (
        page_width() - max(map(len, targets), default=0) - max((len(route.source) for route in routes), default=0) - 14
    )
    rows: list[tuple[str, ...]] = [("target", "source", "chain", "params")]
    for target, route in zip(targets, routes, strict=True):
        first, *more = _wrapped(_chain_texts(route), max(room, NARROWEST_CHAIN))
        rows.append((target, route.source, first, human_count(route.parameters) if route.steps else ""))
        rows += [("", "", f"  {line}", "") for line in more]
    return rows


def _chain_texts(route: Route) -> list[str]:
    """The texts of a route's steps; a last resizing without sizes, which are those of the target in the same row."""
    if route.same_as:
        return [f"is {route.same_as}"]
    shown = [step.short_text if isinstance(step, ResizeTokens) else str(step) for step in route.steps]
    if route.steps and isinstance(route.steps[-1], (Resize, Resample)):
        shown[-1] = route.steps[-1].op
    return shown


def _wrapped(steps: Sequence[str], room: int) -> list[str]:
    """The steps joined by dots, in lines of at most `room` characters."""
    lines = [""]
    for step in steps:
        if lines[-1] and len(lines[-1]) + len(step) + 3 > room:
            lines.append("· " + step)
        else:
            lines[-1] += f" · {step}" if lines[-1] else step
    return lines if steps else ["as it is"]


def _sum_rows(made: Plan) -> list[tuple[str, ...]]:
    layers = sum(len(route.steps) for route in made.routes)
    if not layers:
        return [("adapters", "none: the outputs are as they should be")]
    sizes = ", ".join(f"{name}={size}" for name, size in one_sample(made.target.sizes()).items())
    cost = f"{human_count(made.parameters)} parameters, {human_count(made.multiply_adds)} multiply-adds at {sizes}"
    return [("adapters", cost)]


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")
