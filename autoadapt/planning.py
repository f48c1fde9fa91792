"""Planning: the operations that make the new module speak the old one's signature, as data."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

from autoadapt.dims import Dim
from autoadapt.errors import MatchError, Mismatch, PlanError, nearest
from autoadapt.layouts import Factored, Refusal, chain, distance, factored
from autoadapt.matching import Pairing, Source, match
from autoadapt.operations import (
    Channels,
    Operation,
    Recover,
    Resize,
    Thin,
    Thinning,
    after,
    multiply_adds,
    parameters,
    text,
)
from autoadapt.signature import AxisSizes, Gathering, InnerOutput, Signature, TensorSpec, Values, describe
from autoadapt.tables import columns, human_count
from autoadapt.taps import block_boundaries
from autoadapt.thinning import mark_points, thinned, unmark_points
from autoadapt.trees import Container, Key, Slot, Tree

__all__ = ["InputRoute", "Plan", "Route", "Tap", "plan"]


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class InputRoute(_Frozen):
    """Where one input tensor of the new module comes from."""

    source: str
    """Path among the new module's inputs."""
    target: str
    """Path among the old module's inputs."""
    steps: tuple[Operation, ...] = ()


class Route(_Frozen):
    """The chain that serves one output."""

    target: str
    source: str
    """An output of the new module, or `inputs.<path>`."""
    steps: tuple[Operation, ...] = ()
    specs: tuple[TensorSpec, ...]
    """What stands before the first step, and after each."""
    parameters: int = 0
    multiply_adds: int = 0
    """At the probed size, for the probed batch."""
    octaves: float = 0.0
    """How far resampling goes, in octaves of stride."""
    others: tuple[str, ...] = ()
    """What else would have served as well."""
    remark: str = ""


class Tap(_Frozen):
    """An inner output of the new module that is taken."""

    module: str
    call: int = 0
    path: str = "output"


class Plan(_Frozen):
    """How the new module is made to speak the old one's signature: data that can be read, edited, compared."""

    schema_version: Literal[1] = 1
    source: Signature
    target: Signature
    inputs: tuple[InputRoute, ...]
    taps: dict[str, Tap] = Field(default_factory=dict)
    """Inner outputs that are taken, by the name that routes call them."""
    cut: tuple[str, ...] = ()
    """Modules that only serve what follows the last tap; `build` leaves out those it can."""
    routes: tuple[Route, ...]

    @property
    def parameters(self) -> int:
        """Parameters of all generated layers."""
        return sum(route.parameters for route in self.routes)

    @property
    def multiply_adds(self) -> int:
        """Multiply-adds of all generated layers at the probed size."""
        return sum(route.multiply_adds for route in self.routes)

    def __str__(self) -> str:
        contract = f"{self.target.name} ({describe(self.target.outputs.tree)})"
        lines = [f"{self.source.name}  ->  contract of {contract}"]
        lines += columns([row for route in self.inputs for row in _input_rows(route, self.target)])
        lines += ["", *columns(_route_rows(self.routes), align="lllr")]
        lines += columns(_sum_rows(self))
        lines += columns([("cut", _shown(self.cut))]) if self.cut else []
        remarks = [(f"`{route.target}`:", route.remark) for route in self.routes if route.remark]
        lines += ["", *columns([("remark", *row) for row in remarks])] if remarks else []
        return "\n".join(lines)


def _input_rows(route: InputRoute, target: Signature) -> Iterable[tuple[str, ...]]:
    spec = dict(target.inputs.items()).get(route.target)
    done = "  ·  ".join(text(step) for step in route.steps)
    yield "input", route.target, str(spec or ""), done


WIDTH = 80
NARROWEST_CHAIN = 24


def _route_rows(routes: Sequence[Route]) -> list[tuple[str, ...]]:
    """Target, source, chain and parameters; a chain that is too long for the page goes on in the next row."""
    targets = [f"{route.target} {_abbreviated(route.specs[-1])}" for route in routes]
    room = WIDTH - max(map(len, targets)) - max(len(route.source) for route in routes) - 14
    rows: list[tuple[str, ...]] = [("target", "source", "chain", "params")]
    for target, route in zip(targets, routes, strict=True):
        first, *more = _wrapped(_chain_texts(route), max(room, NARROWEST_CHAIN))
        rows.append((target, route.source, first, human_count(route.parameters) if route.steps else ""))
        rows += [("", "", f"  {line}", "") for line in more]
    return rows


def _chain_texts(route: Route) -> list[str]:
    """The steps of a route; a last resizing goes to the target's own size, which stands beside it."""
    shown = [text(step) for step in route.steps]
    if route.steps and isinstance(route.steps[-1], Resize):
        shown[-1] = "resize"
    return shown


def _abbreviated(spec: TensorSpec) -> str:
    """A spec whose width is as its height, without saying it twice."""
    dims = [str(dim) for dim in spec.dims]
    if len(dims) > 3 and dims[-1] == dims[-2].replace("H", "W") != dims[-2]:
        return f"{spec.dtype}[{', '.join(dims[:-1])}, ..]"
    return str(spec)


def _wrapped(steps: Sequence[str], room: int) -> list[str]:
    """Steps set between dots, in lines of a width."""
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
    sizes = ", ".join(f"{name}={size}" for name, size in made.target.sizes().items())
    cost = f"{human_count(made.parameters)} parameters, {human_count(made.multiply_adds)} multiply-adds at {sizes}"
    return [("adapters", cost)]


def _shown(names: Sequence[str]) -> str:
    return ", ".join(names[:6]) + (f" and {len(names) - 6} more" if len(names) > 6 else "")


def plan(
    source: Signature,
    target: Signature,
    *,
    pairs: Mapping[str, str] | None = None,
    outputs: Sequence[str] | None = None,
    project: Literal["needed", "always"] = "needed",
    indices: Literal["refuse", "recover"] = "refuse",
    thin: Thinning = "farthest",
) -> Plan:
    """Find the fewest layers that make a module with one signature speak another.

    Args:
        source: Signature of the new module.
        target: Signature of the old module: the contract.
        pairs: Sources chosen by the caller, by target path.
        outputs: Serve only these outputs; the others are left out of the container.
        project: `always` puts a projection on every feature leaf, also where the channels agree.
        indices: `recover` finds missing indices from coordinates that are exact input points.
        thin: How points are chosen where the new module has more than are wanted: `farthest`, `first`, `even`,
            `random`; `repeat` also where it has fewer.

    Raises:
        MatchError: An output, or an input of the new module, has no honest source, or several equally good ones.
        PlanError: The arguments name outputs that do not exist.

    Example:
        >>> old = Signature.parse(["f32[B, 64, ceil(H/4), ceil(W/4)]"], inputs="f32[B, 3, H, W]")
        >>> new = Signature.parse("f32[B, 32, ceil(H/4), ceil(W/4)]", inputs="f32[B, 3, H, W]")
        >>> [text(step) for step in plan(new, old).routes[0].steps]
        ['32->64']
    """
    wanted = _served(_with_inputs(target, source), outputs)
    routes = _route_inputs(source, wanted)
    outputs_marked = mark_points(wanted.outputs)
    wanted = wanted.model_copy(update={"outputs": unmark_points(wanted.outputs)})
    offered = source.model_copy(update={"outputs": mark_points(source.outputs)})
    sources, thinning = thinned(_sources(offered, wanted, routes), outputs_marked, thin)
    taps = _inner_sources(block_boundaries(source.inner, source.sizes()), source, wanted, routes)
    others = _inner_sources(_not_among(source.inner, taps), source, wanted, routes) if pairs else []
    pairings = match(
        wanted.model_copy(update={"outputs": outputs_marked}),
        [*sources, *taps],
        invariants=_translated(source.invariants, routes),
        pairs=pairs,
        others={other.path: other for other in others},
        indices=indices,
        name=source.name,
    )
    tensors = {found.path: found.tensor for found in (*others, *taps, *sources)}
    tensors |= {f"inputs.{path}": factored(spec) for path, spec in wanted.inputs.items()}
    contract = dict(outputs_marked.items())
    first = {found.path: (found.spec, thinning.get(found.path)) for found in _sources(source, wanted, routes)}
    made = [
        _route(pairing, tensors, contract[pairing.target], wanted, project == "always", first.get(pairing.source))
        for pairing in pairings
    ]
    taken = _taps([pairing.source for pairing in pairings], source)
    return Plan(
        source=source.model_copy(update={"inner": ()}),
        target=wanted,
        inputs=routes,
        taps=taken,
        cut=_cut(source.inner, taken),
        routes=tuple(made),
    )


def _with_inputs(target: Signature, source: Signature) -> Signature:
    """A contract written without inputs takes those of the new module."""
    if target.inputs.leaves:
        return target
    given = {"inputs": source.inputs, "positional": source.positional, "axes": source.axes | target.axes}
    return target.model_copy(update=given)


def _served(target: Signature, outputs: Sequence[str] | None) -> Signature:
    """The contract with only some of its outputs."""
    if outputs is None:
        return target
    known = target.outputs.paths
    unknown = [path for path in outputs if not any(_under(name, path) for name in known)]
    if unknown:
        faults = [
            Mismatch(
                f"outputs={path!r}",
                "a path among the outputs",
                path,
                "one of " + ", ".join(nearest(path, known) or known[:4]),
            )
            for path in unknown
        ]
        raise PlanError("outputs names something that the old module does not return", faults)
    keep = [any(_under(name, path) for path in outputs) for name in known]
    tree = _pruned(target.outputs.tree, iter(keep))
    if tree is None:
        raise PlanError(
            "outputs is empty", [Mismatch("outputs", "at least one path", "none", f"outputs=[{known[0]!r}]")]
        )
    leaves = tuple(leaf for leaf, kept in zip(target.outputs.leaves, keep, strict=True) if kept)
    kept_names = {name for name, kept in zip(known, keep, strict=True) if kept}
    invariants = tuple(g for g in target.invariants if {g.index, g.result} <= kept_names)
    return target.model_copy(update={"outputs": Values(tree=tree, leaves=leaves), "invariants": invariants})


def _under(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def _pruned(tree: Tree, keep: Iterable[bool]) -> Tree | None:
    """The tree without the leaves that are not kept, nor containers that become empty."""
    flags = iter(keep)
    return _prune(tree, flags)


def _prune(tree: Tree, flags: Iterable[bool]) -> Tree | None:
    match tree:
        case Slot():
            return tree if next(iter(flags)) else None
        case Container(keys=keys, children=children):
            pairs = [(key, _prune(child, flags)) for key, child in zip(keys, children, strict=True)]
            kept: list[tuple[Key, Tree]] = [(key, child) for key, child in pairs if child is not None]
            if not kept:
                return None
            numbered = tree.kind in ("list", "tuple")
            return tree.model_copy(
                update={
                    "keys": tuple(range(len(kept))) if numbered else tuple(key for key, _ in kept),
                    "children": tuple(child for _, child in kept),
                }
            )
        case _:
            return tree


def _route_inputs(source: Signature, target: Signature) -> tuple[InputRoute, ...]:
    """Pair inputs by name, then by spec, and bring them to legal sizes."""
    routes, faults = list[InputRoute](), list[Mismatch]()
    wanted = dict(target.inputs.items())
    for path, spec in source.inputs.items():
        taken = [route.target for route in routes]
        chosen = _paired_input(path, spec, {p: s for p, s in wanted.items() if p not in taken})
        if isinstance(chosen, Mismatch):
            faults.append(chosen)
            continue
        given = wanted[chosen]
        channels = _matched_channels(spec, given, source.inner)
        steps = _fitted_input(path, spec, after(channels[0], given) if channels else given, source.axes, target.axes)
        if isinstance(steps, Mismatch):
            faults.append(steps)
        else:
            routes.append(InputRoute(source=path, target=chosen, steps=(*channels, *steps)))
    if faults:
        raise MatchError(f"{source.name} cannot be called with the old module's inputs", faults)
    return tuple(routes)


def _matched_channels(spec: TensorSpec, given: TensorSpec, inner: Sequence[InnerOutput]) -> tuple[Channels, ...]:
    """Where an image has other channels than the new module was made for: its first layer reads them."""
    if len(spec.dims) not in (4, 5) or spec.dims[1] == given.dims[1]:
        return ()
    have, want = given.dims[1].constant, spec.dims[1].constant
    stem = min((o for o in inner if o.layers == 1 and not o.parent), key=lambda o: o.started, default=None)
    if have is None or want is None or stem is None:
        return ()
    return (Channels(source=have, target=want, stem=stem.module),)


def _paired_input(path: str, spec: TensorSpec, options: Mapping[str, TensorSpec]) -> str | Mismatch:
    alike = [other for other, found in options.items() if _same_kind(found, spec)]
    named = [other for other in alike if other == path]
    if named or len(alike) == 1:
        return (named or alike)[0]
    exact = [other for other in alike if _constants(options[other]) == _constants(spec)]
    if len(exact) == 1:
        return exact[0]
    offered = "; ".join(f"{other} {found}" for other, found in options.items()) or "no input left"
    found = f"equally good: {', '.join(alike)}" if alike else offered
    return Mismatch(f"inputs.{path}", str(spec), found, "wrap the new module so that it takes the old one's arguments")


def _same_kind(left: TensorSpec, right: TensorSpec) -> bool:
    return left.is_floating == right.is_floating and len(left.dims) == len(right.dims)


def _constants(spec: TensorSpec) -> tuple[int | None, ...]:
    return tuple(dim.constant for dim in spec.dims)


def _fitted_input(
    path: str,
    spec: TensorSpec,
    given: TensorSpec,
    legal: Mapping[str, AxisSizes],
    wanted: Mapping[str, AxisSizes],
) -> tuple[Operation, ...] | Mismatch:
    """The operations that make a given input legal for the new module."""
    reached = [_legal(dim, have, legal, wanted) for dim, have in zip(spec.dims, given.dims, strict=True)]
    changed = [i for i, (made, have) in enumerate(zip(reached, given.dims, strict=True)) if made != have]
    spatial = given.is_floating and len(given.dims) in (3, 4, 5) and all(axis >= 2 for axis in changed)
    if changed and not spatial:
        return Mismatch(
            f"inputs.{path}, axis {changed[0]}",
            str(given.dims[changed[0]]),
            f"{spec.dims[changed[0]]} only",
            "build the new module for these inputs, such as in_chans=" + str(given.dims[changed[0]]),
        )
    return (Resize(dims=tuple(reached[2:])),) if changed else ()


def _legal(dim: Dim, given: Dim, legal: Mapping[str, AxisSizes], wanted: Mapping[str, AxisSizes]) -> Dim:
    """The size to bring a given axis to, so that the new module takes it."""
    if dim.constant is not None:
        return dim
    sizes = legal.get(str(dim))
    if sizes is None or sizes.step == 1:
        return given
    if given.constant is not None:
        return given if given.constant in sizes else Dim(sizes.near(given.constant))
    allowed = wanted.get(str(given))
    if allowed is not None and sizes.covers(allowed):
        return given
    if sizes.step == 0:
        return Dim(sizes.example)
    return (given - sizes.offset).ceildiv(sizes.step) * sizes.step + sizes.offset


def _sources(source: Signature, target: Signature, routes: Sequence[InputRoute]) -> list[Source]:
    """The outputs of the new module in terms of the old one's input axes."""
    axes, names = _axes(source, target, routes)
    found = []
    for path, spec in source.outputs.items():
        parent, _, last = path.rpartition(".")
        found.append(Source(path, factored(spec, axes, names), f"{parent}." if last.isdigit() else ""))
    return found


def _inner_sources(
    inner: Iterable[InnerOutput], source: Signature, target: Signature, routes: Sequence[InputRoute]
) -> list[Source]:
    """What inner modules return, in terms of the old module's input axes; in the order in which they finish."""
    axes, names = _axes(source, target, routes)
    known = source.outputs.paths
    return [
        Source(output.name, factored(output.spec, axes, names), sequence="taps", tap=True)
        for output in sorted(inner, key=lambda output: output.finished)
        if output.name not in known
    ]


def _not_among(inner: Iterable[InnerOutput], taps: Iterable[Source]) -> list[InnerOutput]:
    known = {tap.path for tap in taps}
    return [output for output in inner if output.name not in known]


def _taps(chosen: Iterable[str], source: Signature) -> dict[str, Tap]:
    """The inner outputs among the chosen sources; if there are any, outputs of the whole are taken as taps too."""
    inner = {output.name: Tap(module=output.module, call=output.call, path=output.path) for output in source.inner}
    outputs = source.outputs.paths
    names = [name for name in dict.fromkeys(chosen) if not name.startswith("inputs.")]
    if all(name in outputs for name in names):
        return {}
    return {name: Tap(module="", path=name) if name in outputs else inner[name] for name in names}


def _cut(inner: Sequence[InnerOutput], taps: Mapping[str, Tap]) -> tuple[str, ...]:
    """Modules all of whose calls begin after the last tap has finished, without those inside others of them."""
    if not taps or any(tap.module == "" for tap in taps.values()):
        return ()
    ends = [output.finished for output in inner if output.name in taps]
    first = dict[str, int]()
    for output in inner:
        first[output.module] = min(first.get(output.module, output.started), output.started)
    late = [module for module, started in first.items() if started > max(ends)]
    return tuple(module for module in late if not any(module.startswith(f"{other}.") for other in late))


def _axes(source: Signature, target: Signature, routes: Sequence[InputRoute]) -> tuple[dict[str, Dim], dict[str, str]]:
    """For each input axis of the new module its size in the old one's terms, and the old one's axis it follows."""
    axes, names = dict[str, Dim](), dict[str, str]()
    have, wanted = dict(source.inputs.items()), dict(target.inputs.items())
    for route in routes:
        given = reached = wanted[route.target]
        for step in route.steps:
            reached = after(step, reached)
        for dim, left, made in zip(have[route.source].dims, given.dims, reached.dims, strict=True):
            if dim.axes:
                axes[str(dim)] = made
                names[str(dim)] = str(left) if left.axes else str(dim)
    return axes, names


def _translated(invariants: Iterable[Gathering], routes: Iterable[InputRoute]) -> list[Gathering]:
    """Invariants of the new module with its inputs under the old one's names."""
    names = {f"inputs.{route.source}": f"inputs.{route.target}" for route in routes}
    return [
        invariant.model_copy(update={"values": names.get(invariant.values, invariant.values)})
        for invariant in invariants
    ]


def _route(
    pairing: Pairing,
    sources: Mapping[str, Factored],
    contract: TensorSpec,
    target: Signature,
    always: bool,
    first: tuple[TensorSpec, Thin | None] | None = None,
) -> Route:
    tensor = sources[pairing.source]
    spec, thin = first if first is not None else (tensor.spec, None)
    steps: tuple[Operation, ...]
    if pairing.recover:
        gathering = next(g for g in target.invariants if g.index == pairing.target)
        steps = (Recover(values=gathering.values.removeprefix("inputs."), dtype=contract.dtype),)
    else:
        found = chain(tensor, contract, project=always)
        assert not isinstance(found, Refusal), "only what can be chained is paired"
        steps = found
    if thin is not None:
        steps = (thin, *steps)
    specs = [spec]
    for step in steps:
        specs.append(after(step, specs[-1]))
    sizes = target.sizes()
    return Route(
        target=pairing.target,
        source=pairing.source,
        steps=steps,
        specs=tuple(specs),
        parameters=sum(map(parameters, steps)),
        multiply_adds=sum(multiply_adds(step, left, sizes) for step, left in zip(steps, specs, strict=False)),
        octaves=0.0 if pairing.recover else round(distance(tensor, contract), 3),
        others=pairing.others,
        remark="; ".join(filter(None, [pairing.remark, _lost(tensor, contract)])),
    )


def _lost(source: Factored, target: TensorSpec) -> str:
    """What resampling loses, in words."""
    have, want = source.strides, factored(target).strides
    finer = [axis for axis in want if axis in have and want[axis] < have[axis]]
    if finer:
        return f"finer than its source (stride {have[finer[0]]}): detail is interpolated, not seen"
    if set(have) - set(want):
        return f"averaged over {', '.join(sorted(set(have) - set(want)))}"
    rounded = [dim for dim in source.spec.dims if dim.axes - {"B"} and dim not in target.dims and dim.factors]
    if rounded and have == want:
        return f"its source has {' x '.join(map(str, rounded))} cells, rounded otherwise: resized by a cell"
    return ""
