"""Pairings: sources and their pairing with a target, and the rules that compare sources in matching."""

from __future__ import annotations

import functools
import math
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from autoadapt.adapting.aligning import WHOLE, Level, Stage
from autoadapt.adapting.layouts import Factored, factored, has_one_channel, is_state
from autoadapt.contracts.signature import Signature, TensorSpec


@dataclass(frozen=True)
class Source:
    """A tensor of the new module that may serve a target: an output, or an inner output."""

    path: str
    tensor: Factored
    """The tensor, as a function of the target's input axes."""
    sequence: str = ""
    """The name of the sequence in which it is ordered from shallow to deep; empty where no order is known."""
    tap: bool = False
    """Whether it is an inner output; outputs are preferred where both would do."""
    reads: str = ""
    """The source of which it is a linear map, such as scores of features: a projection of that source is cheaper."""
    listed: bool = False
    """Whether the new module itself lists it as a level; then it is preferred among sources of its stride."""
    weights: int = 0
    """Which parameters of the new module it depends on, as bits; 0 where that is not known."""
    scores: bool = False
    """Whether it holds class scores; then it serves nothing but class scores."""
    also: tuple[str, ...] = ()
    """Further paths of the very same tensor, as of the last hidden state in the list of all."""
    eval_only: bool = False
    """Whether it does not exist in train mode; then it serves only targets that no other output serves."""
    alone: float | None = None
    """The depth of an output if no other one had its stride, where outputs of one stride count as stages."""

    @property
    def spec(self) -> TensorSpec:
        """Dtype, dims and role."""
        return self.tensor.spec

    @property
    def name(self) -> str:
        """The last part of its path that is no number."""
        return name_in(self.path)


@dataclass(frozen=True)
class Pairing:
    """A target with the source that serves it."""

    target: str
    source: str
    others: tuple[str, ...] = ()
    """Other sources that would have served it."""
    recover: bool = False
    """Whether the source holds coordinates, from which the target's indices are recovered."""
    remark: str = ""
    same_as: str = ""
    """An earlier target that is the very same tensor."""


def from_shallow_to_deep(signature: Signature) -> tuple[str, ...]:
    """The outputs of a module in the order of their depth, where that is known; else in theirs."""
    known, paths = signature.shallow_first, signature.outputs.paths
    return known if {*known} == {*paths} else paths


def spread(options: Sequence[str], count: int) -> list[str]:
    """`count` options at even distances from shallow to deep, with the last one.

    >>> spread("abcdefghijkl", 4)
    ['c', 'f', 'i', 'l']
    >>> spread("ab", 3)
    ['a', 'b', 'b']
    """
    return [options[-(-(i + 1) * len(options) // count) - 1] for i in range(count)]


def shared_out(
    options: Sequence[str], wanted: Sequence[TensorSpec], sources: Mapping[str, Source], taken: Collection[str] = ()
) -> list[str]:
    """An option for each target: of recurrent states the first ones, `h` of `(h, c)`; of others as from `spread`.

    Where all are known to depend on a share of the blocks of a transformer, those with the nearest shares; but outputs
    that are as many as the targets, none of which serves others (`taken`), are levels that were chosen to agree.
    """
    specs = [sources[option].spec for option in options]
    if all(map(is_state, specs)):
        return [options[min(i, len(options) - 1)] for i in range(len(wanted))]
    if len(options) == len(wanted) and not any(sources[option].tap or option in taken for option in options):
        return [*options]
    found, shares = [one.share for one in specs if one.share is not None], [one.share for one in wanted]
    known = [share for share in shares if share is not None]
    if len(found) < len(specs) or len(known) < len(shares):
        return spread(options, len(wanted))
    return [options[nearest(share, found)] for share in known]


def nearest(wanted: float, offered: Sequence[float]) -> int:
    """The place of the number that is nearest to another one; of equally near ones that of the last of the largest.

    Example:
        >>> nearest(0.6667, [0, 0.25, 0.5, 0.75, 1]), nearest(0.25, [0, 0.5, 0.5])
        (3, 2)
    """
    return min(range(len(offered)), key=lambda i: (round(abs(wanted - offered[i]), 3), -offered[i], -i))


def cell(tensor: Factored) -> Fraction:
    """Input cells for each cell, to prefer the finer of two maps whose strides are equally far from the target's."""
    return math.prod(tensor.strides.values(), start=Fraction(1))


def level_of(tensor: Factored) -> Level | None:
    """Stride and depth of a feature map, where an unknown depth is that of the stride; None for other tensors."""
    strides = [stride for stride in tensor.strides.values() if stride > 0]
    if not strides or not tensor.spec.is_floating:
        return None
    octaves = round(2 * sum(map(math.log2, strides)) / len(strides)) / 2
    tokens = any(sum(bool(atom.kind - {"B"}) for atom in atoms) > 1 for atoms in tensor.atoms)
    return Level(octaves, octaves if tensor.spec.depth is None else tensor.spec.depth, tokens)


def levels_for(wanted: Iterable[Level], sources: Mapping[str, Source]) -> dict[str, Level]:
    """Stride and depth of the sources that are feature maps.

    Outputs of one stride count as stages of different depths, as `capture` found them, unless the old module returns
    a single level of that stride, its coarsest: that one has no such depth, and is served by the last of those outputs.
    """
    found = {path: level for path, source in sources.items() if (level := level_of(source.tensor))}
    octaves = [level.octaves for level in wanted]
    coarsest = max((level.octaves for path, level in found.items() if not sources[path].tap), default=0.0)
    if octaves.count(coarsest) != 1 or max(octaves) > coarsest:
        return found
    alone = {path: depth for path, one in sources.items() if path in found and (depth := one.alone) is not None}
    return found | {path: replace(found[path], depth=depth) for path, depth in alone.items()}


def as_wide(options: Sequence[str], sources: Mapping[str, Source], wanted: TensorSpec) -> list[str]:
    """The options with more channels than one for a target with more; with one for one, if an output has one.

    A map of one channel is a score, a depth or the gate of an attention, and no features where there are wider ones.
    """
    is_one = has_one_channel(factored(wanted))
    alike = [option for option in options if has_one_channel(sources[option].tensor) == is_one]
    gates_alone = is_one and all(sources[option].tap for option in alike)
    return [*options] if gates_alone or not alike else alike


def behind_all(
    options: Sequence[str], sources: Mapping[str, Source], wanted: TensorSpec, others: Iterable[TensorSpec]
) -> list[str]:
    """The options that also exist in train mode, have extra tokens if the target does, and are deep in sequence models.

    A tensor of a sequence model with a finer stride than its outputs comes before its transformer, and has hardly any
    depth; so only options of the outputs' strides are kept, if there are any. Not where targets have several strides,
    which are served as levels of a pyramid.

    Args:
        options: Sources from which a chain leads to the target.
        sources: All sources.
        wanted: The target.
        others: All targets.
    """
    steady = [option for option in options if not sources[option].eval_only]
    steady = steady if any(not sources[option].tap for option in steady) else [*options]
    options = _led(steady, sources, factored(wanted))
    strides = [factored(one).strides for one in others if _is_sequence(one)]
    if not _is_sequence(wanted) or any(one != strides[0] for one in strides):
        return [*options]
    offered = [sources[option].tensor.strides for option in options if not sources[option].tap]
    return [option for option in options if sources[option].tensor.strides in offered] or [*options]


def _led(options: Sequence[str], sources: Mapping[str, Source], wanted: Factored) -> Sequence[str]:
    """The options with tokens besides cells, if the target has such tokens and some option does; else all."""
    led = [option for option in options if any((*sources[option].tensor.prefixes, *sources[option].tensor.suffixes))]
    return led if led and any((*wanted.prefixes, *wanted.suffixes)) else options


def _is_sequence(spec: TensorSpec) -> bool:
    """Whether a tensor is `[B, N, C]`, or `[B, C, N]` of unknown depth, as of modules for waveforms."""
    follows = [bool(dim.axes) for dim in spec.dims]
    along = spec.dims[follows.index(True, 1)].axes if any(follows[1:]) else frozenset()
    last = follows == [True, True, False] or (follows == [True, False, True] and spec.depth is None)
    return spec.is_floating and last and not along & {"H", "W"}


def level_by_level(
    wanted: Mapping[str, Factored], honest: Mapping[str, Sequence[str]], sources: Mapping[str, Source]
) -> dict[str, tuple[str, ...]]:
    """For each of several levels the outputs of its very strides, where both modules return as many of all strides.

    How often widths have doubled says less than that. Empty where the modules differ in this, or where an inner output
    between two of these outputs is nearer to its level by an octave of depth, as where one network is dilated and the
    other one cut.

    Args:
        wanted: The levels of the old module.
        honest: For each of them the sources that can serve it.
        sources: All sources.
    """
    able = {option for path in wanted for option in honest[path]}
    levels = [one for one, source in sources.items() if one in able and not source.tap and level_of(source.tensor)]
    offered = sorted(levels, key=lambda one: cell(sources[one].tensor))
    paths = sorted(wanted, key=lambda path: cell(wanted[path]))
    strides = [sources[one].tensor.strides for one in offered]
    if len(paths) < 2 or strides != [wanted[path].strides for path in paths]:
        return {}
    if any(_is_passed(wanted[path], i, offered, sources) for i, path in enumerate(paths)):
        return {}
    alike = {
        path: tuple(one for one in honest[path] if one in offered and sources[one].tensor.strides == own)
        for path, own in zip(paths, strides, strict=True)
    }
    return alike if all(alike.values()) else {}


def _is_passed(wanted: Factored, i: int, offered: Sequence[str], sources: Mapping[str, Source]) -> bool:
    """Whether a tap between the neighbours of an output is an octave nearer to a level in depth."""
    level, found = level_of(wanted), level_of(sources[offered[i]].tensor)
    before = sources[offered[i - 1]].weights if i else 0
    behind = sources[offered[i + 1]].weights if i + 1 < len(offered) else ~0
    if level is None or found is None:
        return False
    outputs = {sources[one].weights for one in offered}
    between = [
        near
        for one in sources.values()
        if one.tap and one.weights not in outputs and not (before & ~one.weights or one.weights & ~behind)
        if (near := level_of(one.tensor))
    ]
    depth = sources[offered[i]].alone
    beyond = abs(level.depth - (found.depth if depth is None else depth)) - 1
    return any(abs(level.depth - one.depth) + abs(level.octaves - one.octaves) / 2 <= beyond for one in between)


def fitting(offered: Sequence[Stage], options: Sequence[str]) -> list[tuple[str, ...]]:
    """The options in each stage, in their own order."""
    stage_of = {source: i for i, stage in enumerate(offered) for source in stage.sources}
    found: list[list[str]] = [[] for _ in offered]
    for option in options:
        if option in stage_of:
            found[stage_of[option]].append(option)
    return [tuple(fitting) for fitting in found]


def end_of(options: tuple[str, ...], sources: Mapping[str, Source]) -> tuple[str, ...]:
    """The last option of the last stage that serves a coarser target; all where some are outputs."""
    if not all(sources[option].tap for option in options):
        return options
    listed = tuple(option for option in options if sources[option].listed)
    return (listed or options)[-1:]


def no_deeper(stage: Stage, depth: float, sources: Mapping[str, Source]) -> set[str]:
    """The sources of a stage that are at most a twentieth of a network deeper than a depth, or as deep as the nearest.

    A twentieth is about one block; of few blocks, the nearest may be deeper by more than that.
    """
    depths = {path: sources[path].spec.depth or 0 for path in stage.sources}
    known = list(depths.values())
    most = max(depth + WHOLE / 20, known[nearest(depth, known)])
    return {path for path, own in depths.items() if own <= most}


def whole_first(
    options: Mapping[str, tuple[str, ...]], levels: Mapping[str, Level], sources: Mapping[str, Source]
) -> dict[str, tuple[str, ...]]:
    """The options, where a level that may be the result of a whole network gets only outputs, in the fewest containers.

    That is a single level, in no container, whose depth is just that of its stride. For a transformer a stride says
    nothing of depth, so that its output is preferred to its blocks, which serve levels that are known to be shallow.
    """
    found = dict(options)
    for path, level in levels.items():
        outputs = [option for option in options[path] if not sources[option].tap]
        if outputs and "." not in path and not level.extra:
            least = min(option.count(".") for option in outputs)
            found[path] = tuple(option for option in outputs if option.count(".") == least)
    return found


def by_names(sources: Mapping[str, Source]) -> dict[str, Source]:
    """Sources by all of their paths."""
    return {path: source for source in sources.values() for path in (*source.also, source.path)}


def is_namesake(
    source: Source, path: str, wanted: Factored, targets: Mapping[str, TensorSpec], named: Iterable[str]
) -> bool:
    """Whether an output has a target's name and strides; sequences of unknown depth may have other strides.

    For `targets` and `named` see `is_counted_otherwise`.
    """
    if name_in(path) in ("", "output") or source.tap:  # "output" is what an output without a name is called
        return False
    is_resampled = wanted.spec.depth is None and _is_sequence(wanted.spec)
    alike = is_resampled or source.tensor.strides == wanted.strides
    return alike and not is_counted_otherwise(path, source.spec, targets, named)


def is_counted_otherwise(path: str, found: TensorSpec, targets: Mapping[str, TensorSpec], named: Iterable[str]) -> bool:
    """Whether the same number in a list means another share of blocks, as `hidden_states.3` of 12 and of 24 blocks.

    Not where both modules return the very same numbers: these lists were chosen to agree.

    Args:
        path: Path of an output of the old module.
        found: The output of the new one with that path.
        targets: All outputs of the old module.
        named: Paths of all outputs of the new one.
    """
    parent, _, last = path.rpartition(".")
    own, other = targets[path].share, found.share
    if not last.isdigit() or own is None or other is None or abs(own - other) < 1e-3:
        return False
    return {one for one in targets if one.rpartition(".")[0] == parent} != {
        one for one in named if one.rpartition(".")[0] == parent
    }


def is_scored(path: str, target: Signature) -> bool:
    """Whether an output of the old module holds class scores itself."""
    return path in target.scores or name_in(path) == "logits"


@functools.lru_cache(maxsize=8192)
def name_in(path: str) -> str:
    return next((part for part in reversed(path.split(".")) if not part.isdigit()), "")


def named_alike(options: Iterable[Source], path: str) -> tuple[str, ...]:
    """The options whose path has the most words in common with a target's."""
    wanted = _words_in(path)
    alike = {one.path: max(len(_words_in(own) & wanted) for own in (one.path, *one.also)) for one in options}
    most = max(alike.values(), default=0)
    return tuple(option for option in alike if alike[option] == most)


@functools.lru_cache(maxsize=8192)
def _words_in(path: str) -> frozenset[str]:
    return frozenset(re.findall(r"[a-z]+", path.lower()))
