"""Sources: what the new module offers, in terms of the old one's input axes."""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Collection, Iterable, Mapping, Sequence

from autoadapt.adapting.layouts import factored
from autoadapt.adapting.operations import Pad, Rearrange, Remask
from autoadapt.adapting.pairings import Source, from_shallow_to_deep
from autoadapt.adapting.planning.plans import CutCost, InputRoute, Plan, Tap
from autoadapt.adapting.planning.train_outputs import eval_only_outputs
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import Gathering, InnerOutput, Signature, TensorSpec

__all__ = [
    "costs_of",
    "cut_after",
    "cut_beside",
    "inner_sources",
    "not_among",
    "output_sources",
    "source_axes",
    "taps_of",
    "translated",
    "trunk_sources",
]


def output_sources(
    source: Signature, target: Signature, routes: Sequence[InputRoute], *, again: bool = False
) -> list[Source]:
    """The outputs of the new module in terms of the old one's input axes.

    Args:
        source: Signature of the new module.
        target: Signature of the old one.
        routes: Where its inputs come from.
        again: Those that are inputs or earlier outputs once more, instead of those that are tensors of their own.
    """
    axes, names, padded = _axes(source, target, routes)
    lost = eval_only_outputs(source)
    reads = {inner.output: inner.reads for inner in source.inner if inner.reads}
    weights = {inner.output: inner.behind for inner in source.inner if inner.output and inner.weights}
    found = []
    heads = {_flat(inner.spec): inner.reads for inner in source.inner if inner.reads and not inner.output}
    for path, spec in source.outputs.items():
        if bool(spec.same_as) != again or any(dim.constant == 0 for dim in spec.dims):
            continue  # an empty one, as segmentation_models_pytorch fills a level in, holds nothing
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
            )
        )
    order = from_shallow_to_deep(source).index
    return sorted(found, key=lambda one: order((one.path, *one.also)[-1]))


def _flat(spec: TensorSpec) -> tuple[Dim, ...]:
    """Its axes without those of one cell."""
    return tuple(dim for dim in spec.dims if dim != 1)


def inner_sources(
    inner: Iterable[InnerOutput],
    source: Signature,
    target: Signature,
    routes: Sequence[InputRoute],
    *,
    on_points: bool = False,
) -> list[Source]:
    """What inner modules return, in terms of the old module's input axes; in the order in which they finish.

    Args:
        inner: Some of the outputs of inner modules.
        source: Signature of the new module.
        target: Signature of the old one.
        routes: Where its inputs come from.
        on_points: Whether axes that list points are told from those that list channels.
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
    """For outputs of the old module, what the trunk of the new one returns under the same name and on the same axes.

    A trunk is an inner module with more than half of the layers that runs once, such as the model that a classifier of
    transformers wraps. What the whole returns under that name itself goes before it; "output" is no name.
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
        if trunk.spec.dtype == spec.dtype and trunk.spec.dims[:-1] == spec.dims[:-1] and len(spec.dims) > 1:
            found.setdefault(output.path, trunk)
    return found


def not_among(inner: Iterable[InnerOutput], taken: Iterable[InnerOutput]) -> list[InnerOutput]:
    """The inner outputs that are not taken already."""
    known = {output.name for output in taken}
    return [output for output in inner if output.name not in known]


def taps_of(chosen: Iterable[str], source: Signature) -> dict[str, Tap]:
    """The inner outputs among the chosen sources, in the order in which they are made.

    If there are any, outputs of the whole are taken as taps too, and come last.
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
    """Modules that only serve what is not read, without those inside others of them.

    All of their calls begin after the last tensor that is read was made, or with it: a layer of which only what it
    reads is taken need not run itself.

    Args:
        inner: What inner modules return.
        taps: Inner outputs that are taken; where there are none, whole outputs are.
        read: Paths of the taps or outputs that are read.
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
    """Modules that run before the last tensor that is read is made, and of whose parameters none stands behind it.

    Without those inside others of them, those that hold what is tapped, and those without parameters.

    Args:
        source: Signature of the new module, with what its inner modules return.
        read: Paths of the taps or outputs that are read.
        late: Modules that follow the last of these.

    Returns:
        Nothing where the capture does not tell what parameters stand behind all that is read.
    """
    tapped = {output.module for output in source.inner if output.name in read}
    running = {module for tap in tapped for module in (tap, *_modules_above(tap))}
    behind = dict(zip(source.outputs.paths, source.output_weights, strict=False))
    behind |= {output.name: output.weights for output in source.inner if output.name in read}
    if not read or not all(behind.get(name) for name in read):
        return ()
    needed = functools.reduce(operator.or_, (int(behind[name], 16) for name in read))
    held = {output.module: output.held for output in source.inner if output.holds}
    unused = [module for module, own in held.items() if not own & needed and module not in running]
    known = {*unused, *late}
    return tuple(one for one in unused if one not in late and known.isdisjoint(_modules_above(one)))


def _modules_above(path: str) -> Iterable[str]:
    parts = path.split(".")
    return (".".join(parts[:i]) for i in range(1, len(parts)))


def costs_of(modules: Iterable[str], inner: Sequence[InnerOutput], batch: int) -> dict[str, CutCost]:
    """What modules cost while they run, for one sample of a batch."""
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
    """For each input axis of the new module its size in the old one's terms, and the old one's axis it follows.

    And those of them that are padded.
    """
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
    """The size of each input axis of the new module, in terms of the old one's."""
    return _axes(plan.source, plan.target, plan.inputs)[0]


def translated(invariants: Iterable[Gathering], routes: Iterable[InputRoute]) -> list[Gathering]:
    """Invariants of the new module with its inputs under the old one's names."""
    names = {f"inputs.{route.source}": f"inputs.{route.target}" for route in routes}
    return [
        invariant.model_copy(update={"values": names.get(invariant.values, invariant.values)})
        for invariant in invariants
    ]
