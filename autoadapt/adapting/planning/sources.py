"""Sources: the tensors of the new module that may serve a target, as functions of the old one's input axes."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence

from autoadapt.adapting.layouts import factored
from autoadapt.adapting.operations import Pad, Rearrange, Remask
from autoadapt.adapting.pairings import Source, from_shallow_to_deep, is_counted_otherwise
from autoadapt.adapting.planning.plans import CutCost, InputRoute, Plan, Tap
from autoadapt.adapting.planning.train_outputs import eval_only_outputs
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.instances import paths_above
from autoadapt.contracts.signature import Gathering, InnerOutput, Signature, TensorSpec


def output_sources(
    source: Signature, target: Signature, routes: Sequence[InputRoute], *, again: bool = False
) -> list[Source]:
    """The outputs of the new module as sources.

    Args:
        source: Signature of the new module.
        target: Signature of the old module.
        routes: The routes of the inputs.
        again: Only outputs that are the same tensor as an input or an earlier output, instead of all others.
    """
    axes, names, padded = _axes(source, target, routes)
    lost = eval_only_outputs(source)
    reads = {inner.output: inner.reads for inner in source.inner if inner.reads}
    known = zip(source.outputs.paths, source.output_weights, strict=False)
    weights = {path: int(bits, 16) for path, bits in known if bits}
    found = []
    heads = {_flat(inner.spec): inner.reads for inner in source.inner if inner.reads and not inner.output}
    for path, spec in source.outputs.items():
        if bool(spec.same_as) != again or any(dim.constant == 0 for dim in spec.dims):
            continue  # an empty tensor, which segmentation_models_pytorch returns for a missing level
        also = tuple(other for other, one in source.outputs.items() if one.same_as == path)
        parents = [parent for parent, _, last in (one.rpartition(".") for one in (path, *also)) if last.isdigit()]
        sequence = f"{parents[0]}." if parents else ""
        read = reads.get(path, heads.get(_flat(spec), ""))
        found.append(
            Source(
                path,
                factored(spec, axes, names, padded),
                sequence,
                reads=read,
                weights=weights.get(path, 0),
                scores=path in source.scores,
                also=also,
                eval_only=path in lost,
                alone=_alone(spec, weights.get(path, 0), source.inner),
            )
        )
    order = from_shallow_to_deep(source).index
    return sorted(found, key=lambda one: order((one.path, *one.also)[-1]))


def _alone(spec: TensorSpec, behind: int, inner: Iterable[InnerOutput]) -> float | None:
    """The depth of an output as `capture` finds it where no other output has its stride."""
    depths = [one.spec.depth or 0 for one in inner if one.weights and not one.behind & ~behind]
    return max(depths, default=spec.depth) if spec.depth is not None else None


def _flat(spec: TensorSpec) -> tuple[Dim, ...]:
    """The dims without those of size 1."""
    return tuple(dim for dim in spec.dims if dim != 1)


def inner_sources(
    inner: Iterable[InnerOutput],
    source: Signature,
    target: Signature,
    routes: Sequence[InputRoute],
    *,
    on_points: bool = False,
) -> list[Source]:
    """Inner outputs as sources, in the order in which they finish.

    Args:
        inner: Some of the inner outputs.
        source: Signature of the new module.
        target: Signature of the old module.
        routes: The routes of the inputs.
        on_points: Whether to mark the axes of points that real runs showed.
    """
    axes, names, padded = _axes(source, target, routes)
    known = source.outputs.paths
    return [
        Source(
            output.name,
            factored(_on_points(output.spec) if on_points else output.spec, axes, names, padded),
            sequence="taps",
            tap=True,
            listed=output.listed,
            weights=output.behind,
            scores=output.name in source.scores,
        )
        for output in sorted(inner, key=lambda output: output.finished)
        if output.name not in known
    ]


def _on_points(spec: TensorSpec) -> TensorSpec:
    return spec.model_copy(update={"points": spec.point_axis})


def trunk_sources(source: Signature, target: Signature, routes: Sequence[InputRoute]) -> dict[str, Source]:
    """For outputs of the old module, outputs of the new one's base model with the same name and axes.

    The base model is an inner module with more than half of the layers that runs once, such as the one that a
    classifier of transformers wraps. Not for names that the new module returns itself, nor for the name "output".
    """
    single = [one for one in source.inner if not one.parent and not one.is_read and one.call == 0]
    half = sum(output.layers for output in single) / 2
    again = {output.module for output in source.inner if output.call}
    trunks = [one for one in source.inner if one.parent and one.layers > half and one.module not in again]
    offered = {one.path: one for one in inner_sources(trunks, source, target, routes)}
    found: dict[str, Source] = {}
    for output in sorted(trunks, key=lambda output: output.nesting):
        spec = dict(target.outputs.items()).get(output.path)
        unnamed = output.path.isdigit() or output.path == "output"
        if spec is None or spec.same_as or output.path in source.outputs.paths or unnamed:
            continue
        trunk = offered[output.name]
        if is_counted_otherwise(output.path, trunk.spec, dict(target.outputs.items()), [one.path for one in trunks]):
            continue
        if trunk.spec.dtype == spec.dtype and trunk.spec.dims[:-1] == spec.dims[:-1] and len(spec.dims) > 1:
            found.setdefault(output.path, trunk)
    return found


def not_among(inner: Iterable[InnerOutput], taken: Iterable[InnerOutput]) -> list[InnerOutput]:
    """The inner outputs that are not among others."""
    known = {output.name for output in taken}
    return [output for output in inner if output.name not in known]


def taps_of(chosen: Iterable[str], source: Signature) -> dict[str, Tap]:
    """The taps for the chosen sources, in the order in which they are computed.

    None if all sources are outputs; else outputs are tapped as well, and come last.
    """
    inner = {output.name: Tap(module=output.module, call=output.call, path=output.path) for output in source.inner}
    outputs = source.outputs.paths
    made = {output.name: output.finished for output in source.inner}
    wanted = (name for name in dict.fromkeys(chosen) if not name.startswith("inputs."))
    names = sorted(wanted, key=lambda name: made.get(name, math.inf))
    if all(name in outputs for name in names):
        return {}
    return {name: Tap(module="", path=name) if name in outputs else inner[name] for name in names}


def cut_after(inner: Sequence[InnerOutput], taps: Mapping[str, Tap], read: Collection[str]) -> tuple[str, ...]:
    """The outermost modules that only run after the last tensor that is read was computed.

    A layer whose first argument is that tensor is among them, as it need not run itself.

    Args:
        inner: The inner outputs.
        taps: The taps; without any, outputs are read.
        read: Names of the taps, or paths of the outputs, that are read.
    """
    if any(tap.module == "" for tap in taps.values()):
        return ()
    ends = {name: output.finished for output in inner if (name := output.name if taps else output.output) in read}
    if ends.keys() != set(read) or not ends:
        return ()
    first = dict[str, int]()
    for output in inner:
        first[output.module] = min(first.get(output.module, output.started), output.started)
    last, layers = max(ends.values()), {output.module for output in inner if output.is_read and not output.parent}
    late = [module for module, started in first.items() if started > last or (started == last and module in layers)]
    return tuple(module for module in late if not any(module.startswith(f"{other}.") for other in late))


def cut_beside(source: Signature, read: Collection[str], late: Collection[str]) -> tuple[str, ...]:
    """The outermost modules with parameters on none of which a tensor that is read depends, though they run before it.

    Modules that contain a tapped one are not among them.

    Args:
        source: Signature of the new module, with its inner outputs.
        read: Names of the taps, or paths of the outputs, that are read.
        late: The modules from `cut_after`.

    Returns:
        Their paths; none where the capture did not trace dependencies.
    """
    tapped = {output.module for output in source.inner if output.name in read}
    running = {module for tap in tapped for module in (tap, *paths_above(tap))}
    behind = {output.name: output.weights for output in source.inner if output.name in read}
    behind |= dict(zip(source.outputs.paths, source.output_weights, strict=False))  # also one with a layer's name
    if not read or not all(behind.get(name) for name in read):
        return ()
    needed = functools.reduce(operator.or_, (int(behind[name], 16) for name in read))
    held = {output.module: output.held for output in source.inner if output.holds}
    unused = [module for module, own in held.items() if not own & needed and module not in running]
    known = {*unused, *late}
    return tuple(one for one in unused if one not in late and known.isdisjoint(paths_above(one)))


def costs_of(modules: Iterable[str], inner: Sequence[InnerOutput], batch: int) -> dict[str, CutCost]:
    """The cost of some modules for one sample of a batch."""
    found = {}
    for module in modules:
        within = [output for output in inner if output.module == module or output.module.startswith(f"{module}.")]
        parameters = max((output.parameters for output in within if output.module == module), default=0)
        calls = {(output.module, output.call): output.multiply_adds for output in within if not output.is_read}
        found[module] = CutCost(parameters=parameters, multiply_adds=sum(calls.values()) // batch)
    return found


def _axes(
    source: Signature, target: Signature, routes: Sequence[InputRoute]
) -> tuple[dict[str, Dim], dict[str, str], set[str]]:
    """The arguments `axes`, `names` and `padded` of `factored`, for tensors of the new module."""
    axes, names, padded = dict[str, Dim](), dict[str, str](), set[str]()
    have, wanted = dict(source.inputs.items()), dict(target.inputs.items())
    for route in routes:
        given = reached = wanted[route.target]
        for step in route.steps:
            reached = step.gives(reached)
            given = step.gives(given) if isinstance(step, (Rearrange, Remask)) else given
        for dim, left, made in zip(have[route.source].dims, given.dims, reached.dims, strict=True):
            if dim.axes:
                axes[str(dim)] = made
                names[str(dim)] = str(left) if left.axes else str(dim)
                padded |= {str(dim)} if any(isinstance(step, Pad) for step in route.steps) else set()
    return axes, names, padded


def source_axes(plan: Plan) -> dict[str, Dim]:
    """The size of each input axis of the new module, as a function of the old one's."""
    return _axes(plan.source, plan.target, plan.inputs)[0]


def translated(invariants: Iterable[Gathering], routes: Iterable[InputRoute]) -> list[Gathering]:
    """Invariants of the new module, with the old one's names for inputs."""
    names = {f"inputs.{route.source}": f"inputs.{route.target}" for route in routes}
    return [
        invariant.model_copy(update={"values": names.get(invariant.values, invariant.values)})
        for invariant in invariants
    ]
