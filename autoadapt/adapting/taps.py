"""Taps: the inner outputs of a module that may serve as levels, by where blocks end and not by names."""

from __future__ import annotations

import functools
import itertools
import math
import operator
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from fractions import Fraction
from typing import NamedTuple, TypeAlias

from autoadapt.adapting.layouts import factored
from autoadapt.contracts.signature import InnerOutput, TensorSpec

Strides: TypeAlias = tuple[tuple[str, Fraction], ...]


def block_boundaries(inner: Sequence[InnerOutput], sizes: Mapping[str, int]) -> list[InnerOutput]:
    """The inner outputs at which blocks end, in the order in which they finish.

    A block is a module that holds two or more convolutions or linear layers. For each stride those blocks count that
    are nested least (a plain `nn.Sequential` or `nn.ModuleList` adds no nesting, and is no block if it holds single
    layers only); at a stride without blocks the last layer before the next stride, such as the activation of a
    stem. A single convolution behind the blocks, as classifiers have before their pooling, does not count, unless it is
    a direct child of the model. Tensors that the model itself lists as levels are always included.

    Args:
        inner: The inner outputs, as `capture(..., inner=True)` notes them.
        sizes: A size for every input axis.
    """
    by_strides: dict[Strides, list[InnerOutput]] = {}
    known: dict[TensorSpec, Strides] = {}
    read = [output for output in inner if output.is_read and not output.attention]
    inner = [output for output in inner if not output.is_read]
    for output in inner:
        if output.attention:
            continue
        strides = known.get(output.spec)
        if strides is None:
            strides = known[output.spec] = _strides(output.spec)
        if strides:
            by_strides.setdefault(strides, []).append(output)
    trunk = sum({output.module: output.layers for output in inner if not output.parent}.values()) // 4
    strides_of = {
        output.name: known.get(output.spec, ()) for output in inner if output.layers <= trunk or not output.parent
    }
    places = _Places(strides_of, _steady(inner, known))
    groups = _without_branches({strides: _full_grids(outputs, sizes) for strides, outputs in by_strides.items()})
    most = sum(output.layers for output in inner if not output.parent and output.path == "output") // 2
    found = []
    for strides, outputs in groups.items():
        streams = [output for output in read if _strides(output.spec) == strides]
        level = _with_streams(_boundaries(outputs, places, most), streams)
        found += _with_listed(level, outputs)
    return sorted((_out_of_its_row(output, inner) for output in found), key=lambda output: output.finished)


def _out_of_its_row(found: InnerOutput, inner: Sequence[InnerOutput]) -> InnerOutput:
    """The last layer of a stage in a Sequential of stages: who checkpoints runs the layers of all stages one by one."""
    is_row = any(one.kind == "Sequential" for one in inner if one.module == _parent(found))
    if found.kind != "Sequential" or not is_row:
        return found
    inside = [one for one in inner if _tensor(one) == _tensor(found) and one.module.startswith(f"{found.module}.")]
    return max((one for one in inside if one.kind != "Sequential"), key=lambda one: one.finished, default=found)


class _Places(NamedTuple):
    """Strides of modules, by path."""

    strides: Mapping[str, Strides]
    """Of the outputs of modules that hold at most a quarter of all layers."""
    steady: Mapping[str, Strides]
    """Of modules whose layers all have one stride, even if a pooling behind them changes it."""


def _steady(inner: Sequence[InnerOutput], known: Mapping[TensorSpec, Strides]) -> dict[str, Strides]:
    found: dict[str, set[Strides]] = {}
    for output in inner:
        if output.layers:
            found.setdefault(_parent(output), set()).add(known.get(output.spec, ()))
    return {path: next(iter(strides)) for path, strides in found.items() if len(strides) == 1}


def worth_taking(
    inner: Sequence[InnerOutput], sizes: Mapping[str, int], scores: Collection[str] = ()
) -> list[InnerOutput]:
    """The inner outputs at which blocks end, and the input of a classifier's last layer; none that are class scores."""
    features, read = [output for output in inner if output.name not in scores], {output.reads for output in inner}
    found = block_boundaries(features, sizes)
    return found + [output for output in features if output.name in read and output not in found]


def last_map(inner: Sequence[InnerOutput]) -> list[InnerOutput]:
    """The map that a classifier's head averages: the last of those that depend on the most parameters."""
    maps = [one for one in inner if not one.is_read and not one.attention and _strides(one.spec)]
    most = max((one.behind.bit_count() for one in maps), default=0)
    last = [one for one in maps if one.behind.bit_count() == most]
    return sorted(last, key=lambda one: one.finished)[-1:]


def _with_listed(found: list[InnerOutput], outputs: Sequence[InnerOutput]) -> list[InnerOutput]:
    """Also the tensors that the model lists as levels, each as the output of the last module that returned it."""
    known = {_tensor(output) for output in found}
    listed = sorted((output for output in outputs if output.listed), key=lambda output: output.finished)
    return [*found, *{_tensor(output): output for output in listed if _tensor(output) not in known}.values()]


def _strides(spec: TensorSpec) -> Strides:
    """Strides along the spatial input axes; empty for tensors that are no feature maps."""
    if not spec.is_floating or len(spec.dims) < 3 or str(spec.dims[0]) != "B" or _weighs_tokens(spec):
        return ()
    found = factored(spec).strides
    return tuple(found.items()) if len(found) >= min(2, len(spec.dims) - 2) else ()


def _weighs_tokens(spec: TensorSpec) -> bool:
    """Whether two axes list tokens, as in attention weights."""
    return sum(len(dim.axes - {"B"}) > 1 for dim in spec.dims) > 1


def _full_grids(outputs: Sequence[InnerOutput], sizes: Mapping[str, int]) -> list[InnerOutput]:
    """Without outputs with less than a quarter of the most cells, as of fully connected layers made of convolutions."""
    cells = [_cells(output, sizes) for output in outputs]
    return [output for output, count in zip(outputs, cells, strict=True) if 4 * count >= max(cells)]


def _cells(output: InnerOutput, sizes: Mapping[str, int]) -> int:
    return math.prod(int(dim.evaluate(sizes)) for dim in output.spec.dims if dim.axes - {"B"})


def _boundaries(outputs: Sequence[InnerOutput], places: _Places, most: int) -> list[InnerOutput]:
    """The outputs of blocks at one stride, from shallow to deep; of its last layer where it has no blocks."""
    blocks = [output for output in outputs if output.parent and output.layers >= 2]
    inside = {block.module.rpartition(".")[0] for block in blocks}
    single = {_tensor(output) for output in outputs if output.layers == 1}
    blocks = [
        block
        for block in blocks
        if block.kind != "Sequential" or (block.module in inside and _tensor(block) not in single)
    ]
    if not blocks:
        return _last_layer(outputs, places)
    level = _least_nested(outputs, blocks)
    level = _with_inner_blocks(level, outputs, blocks, most)
    while later := _in_later_stages(blocks, level[-1]):
        level = [*level, *_least_nested(outputs, later)]
    return [*_alike(level), *_final_layer(outputs, level[-1])]


def _least_nested(outputs: Sequence[InnerOutput], blocks: Sequence[InnerOutput]) -> list[InnerOutput]:
    """The blocks that are nested least, and single layers of the same classes among them."""
    least = min(block.nesting for block in blocks)
    kinds = {block.kind for block in blocks if block.nesting == least and block.kind != "Sequential"}
    started = min(block.started for block in blocks)
    chosen = [
        output
        for output in outputs
        if output.nesting == least
        and output.started >= started
        and (output in blocks or (output.layers and output.kind in kinds))
    ]
    return sorted(_distinct(_first_leaves(chosen)), key=lambda output: output.finished)


def _with_inner_blocks(
    level: list[InnerOutput], outputs: Sequence[InnerOutput], blocks: Sequence[InnerOutput], most: int
) -> list[InnerOutput]:
    """Where one module wraps the whole trunk, the blocks inside of it, with the output of the wrapper for the last."""
    if len(level) != 1:
        return level
    (whole,) = level
    inside = [b for b in blocks if b.in_row and b.read_on and b.module.startswith(f"{whole.module}.")]
    if len(inside) < 2 or whole.layers <= most:
        return level
    row = [block for block in _least_nested(outputs, inside) if _parent(block) == _parent(inside[-1])]
    return [*row[:-1], whole] if row else level


def _in_later_stages(blocks: Sequence[InnerOutput], last: InnerOutput) -> list[InnerOutput]:
    """Blocks in a list that run after the last one found, however deep they are nested.

    Only if together they hold at least half as many layers as that one: a transition to the next stride holds few.
    """
    found = [block for block in blocks if block.in_row and block.started > last.finished]
    return found if 2 * sum(block.layers for block in found) >= last.layers else []


def _first_leaves(outputs: list[InnerOutput]) -> list[InnerOutput]:
    """Without the further outputs of modules whose first output is among them."""
    main = {output.module for output in outputs if output.path == "0"}
    return [output for output in outputs if output.path == "0" or output.module not in main]


def _last_layer(outputs: Sequence[InnerOutput], places: _Places) -> list[InnerOutput]:
    """The last layer at a stride without blocks.

    Layers inside of a module with an output of another stride, as a stem or an anti-aliased pooling, belong to that
    stride. If there are no others, the last convolution counts, with its norm and activation. A stage whose layers all
    have this stride, and only its pooling another, belongs to this one.
    """
    least = min(output.nesting for output in outputs)
    level = [output for output in outputs if output.nesting == least]
    own = next((places.strides[output.name] for output in level if output.name in places.strides), ())
    staying = [output for output in level if places.strides.get(_parent(output), own) == own]
    steady = [output for output in level if output.layers and places.steady.get(_parent(output)) == own]
    learned = steady or [output for output in level if output.layers and not staying]
    if learned and not (staying and staying[-1].finished > learned[-1].finished):
        return _activated(learned[-1], level)
    return (staying or level)[-1:]


def _activated(layer: InnerOutput, outputs: Sequence[InnerOutput]) -> list[InnerOutput]:
    """The last norm or activation directly behind a layer in the same module; the layer itself without one."""
    behind = [output for output in outputs if output.started > layer.finished and _parent(output) == _parent(layer)]
    passing = itertools.takewhile(lambda output: not output.layers and "Pool" not in output.kind, behind)
    return [layer, *(output for output in passing if output.spec.dims == layer.spec.dims)][-1:]


def _final_layer(outputs: Sequence[InnerOutput], last: InnerOutput) -> list[InnerOutput]:
    """A convolution behind the blocks, with its norm if there is one, if it is a child or a stage of the model."""
    norms = [output.started for output in outputs if output.parameters and not output.layers]
    stages = {output.module for output in outputs if output.kind == "Sequential" and output.layers == 1}
    return [
        output
        for output in outputs
        if output.finished > last.finished
        and output.layers == 1
        and (output.parent or not any(started > output.finished for started in norms))
        and ("." not in output.module or (output.parent and _parent(output) in stages))
    ][-1:]


def _parent(output: InnerOutput) -> str:
    return output.module.rpartition(".")[0]


def _tensor(output: InnerOutput) -> str:
    return output.same_as or output.name


def _distinct(outputs: Iterable[InnerOutput]) -> list[InnerOutput]:
    """One output for each tensor, the first."""
    first: dict[str, InnerOutput] = {}
    for output in outputs:
        first.setdefault(_tensor(output), output)
    return list(first.values())


def _alike(blocks: list[InnerOutput]) -> list[InnerOutput]:
    """Where a class occurs four times or more, only the blocks of that class, and the last one."""
    kinds: Mapping[str, int] = Counter(block.kind for block in blocks)
    common = max(kinds, key=lambda kind: kinds[kind])
    if kinds[common] < 4:
        return blocks
    return [block for block in blocks if block.kind == common or block is blocks[-1]]


def _without_branches(groups: Mapping[Strides, Sequence[InnerOutput]]) -> dict[Strides, Sequence[InnerOutput]]:
    """Feature maps by stride, without those of side branches, where others of their stride are in the trunk.

    The trunk is all parameters behind one map: of those that depend on layers of the coarsest stride, the map that
    depends on most parameters. A map of a side branch depends on parameters outside of the trunk, and on no layer of a
    coarser stride; so top-down paths, and parallel branches that are fused repeatedly, are in the trunk. At the
    coarsest stride all maps are.
    """
    every = [output for outputs in groups.values() for output in outputs]
    if not all(output.weights for output in every):
        return dict(groups)
    held = {_cell(strides): _held(outputs) for strides, outputs in groups.items()}
    coarsest = max((cells for cells, own in held.items() if own), default=0)
    trunk = max((one.behind for one in every if one.behind & held.get(coarsest, 0)), key=int.bit_count, default=0)
    found = dict(groups)
    for strides, outputs in groups.items():
        if _cell(strides) < coarsest:
            coarser = functools.reduce(operator.or_, (own for cells, own in held.items() if cells > _cell(strides)))
            kept = [one for one in outputs if one.output or not one.behind & ~trunk or one.behind & coarser]
            found[strides] = kept if any(output.layers for output in kept) else outputs
    return found


def _held(outputs: Iterable[InnerOutput]) -> int:
    """The parameters of single layers, as bits."""
    layers = (output.held for output in outputs if not output.parent)
    return functools.reduce(operator.or_, layers, 0)


def _cell(strides: Strides) -> Fraction | int:
    """Input cells for each cell."""
    return math.prod(stride for _, stride in strides)


def _with_streams(level: Sequence[InnerOutput], read: Sequence[InnerOutput]) -> list[InnerOutput]:
    """The ends of blocks of one stride, where streams that modules read replace outputs that are only branches.

    A block whose output a later one reads unchanged ends with that output. The outputs of others, such as the two in
    `x = attend(x) + x; x = forward(x) + x`, are residual branches; the stream behind them is what the next block reads.
    The sum behind the last branch is missing where a function reads it, and no module.

    Args:
        level: The outputs of blocks of the stride, in the order in which they finish.
        read: The streams of that stride that modules read.
    """
    branches = _branches(level, read)
    if branches or any(block.is_branch for block in level):
        kept = [block for block in level if block not in branches]
        return sorted([*kept, *read], key=lambda output: output.finished)
    wrapped = [one for one in read if any(_is_element(one.module, block.module) for block in level)]
    return sorted([*level, *wrapped], key=lambda output: output.finished)


def _branches(level: Sequence[InnerOutput], read: Sequence[InnerOutput]) -> list[InnerOutput]:
    """The blocks whose outputs are branches.

    These are blocks in a list whose elements read a stream, unless a later module reads their output unchanged; and
    those with a sum behind them that is read after all lists, as by a norm or a head.
    """
    lists, behind = {_list_of(one.module) for one in read} - {""}, [one for one in read if not _list_of(one.module)]
    return [
        block
        for block in level
        if (_list_of(block.module) in lists and not block.read_on)
        or (block.is_branch and _is_summed(block, read))
        or (_list_of(block.module) and not block.read_on and _is_summed(block, behind))
    ]


def _is_summed(block: InnerOutput, read: Sequence[InnerOutput]) -> bool:
    """Whether a later stream of the same dims depends on all parameters that a block's output depends on."""
    later = (one for one in read if one.finished > block.finished and one.spec.dims == block.spec.dims)
    return any(not block.behind & ~one.behind for one in later)


def _list_of(path: str) -> str:
    """The path of the list whose element a module is, the outermost of nested ones; empty where it is in none.

    Example:
        >>> _list_of("layers.3.1"), _list_of("net.norm")
        ('layers', '')
    """
    parts = path.split(".")
    while parts and parts[-1].isdigit():
        parts.pop()
    return ".".join(parts) if len(parts) < len(path.split(".")) else ""


def _is_element(path: str, whole: str) -> bool:
    """Whether a module is in a list inside of another module."""
    return path.startswith(f"{whole}.") and any(part.isdigit() for part in path[len(whole) :].split("."))
