"""Kept share: how much of the new module, in parameters and depth, the sources depend on."""

from __future__ import annotations

import functools
import operator
from collections.abc import Collection, Iterable, Sequence

from autoadapt.adapting.aligning import WHOLE, levels_in_order
from autoadapt.adapting.layouts import factored
from autoadapt.adapting.pairings import level_of
from autoadapt.adapting.planning.plans import Kept
from autoadapt.contracts.signature import InnerOutput, Signature, TensorSpec
from autoadapt.showing.tables import human_count


def kept_share(source: Signature, read: Collection[str]) -> Kept | None:
    """The parameters and the depth behind the sources that are read, relative to those behind all feature maps.

    All maps count, also those that are no taps: a last convolution, an auxiliary head. Layers behind vectors, as of a
    classifier after its pooling, count neither as kept nor as cut. A map counts as cut if it depends on a parameter
    that no source depends on.

    Args:
        source: Signature of the new module, with its inner outputs.
        read: Paths of the outputs and names of the taps that are read.

    Returns:
        The share; None where the capture did not trace dependencies.
    """
    behind = _behind(source)
    taken = [path for path in read if path in behind]
    if not taken or not source.weights:
        return None
    whole = [path for path, (spec, _) in behind.items() if path not in source.scores and _is_map(spec)]
    kept, every = (
        functools.reduce(operator.or_, (behind[path][1] for path in paths)) for paths in (taken, taken + whole)
    )
    cut = [path for path in whole if behind[path][1] & ~kept]
    reached, deepest = (max(behind[path][0].depth or 0 for path in paths) for paths in (taken, taken + cut))
    return Kept(
        parameters=_size(source, kept),
        of=_size(source, every),
        depth=min(max(reached, 0.0) / deepest, 1.0) if deepest > 0 else 1.0,  # modules for few points have no depth
    )


def _is_map(spec: TensorSpec) -> bool:
    return len(spec.dims) > 2 and bool(factored(spec).strides)


def _behind(source: Signature) -> dict[str, tuple[TensorSpec, int]]:
    """The spec of each output and inner output, and the parameters that it depends on as bits."""
    outputs = zip(source.outputs.items(), source.output_weights, strict=False)
    inner = {one.name: (one.spec, one.behind) for one in source.inner if one.weights}
    return inner | {path: (spec, int(weights, 16)) for (path, spec), weights in outputs if weights}


def _size(source: Signature, bits: int) -> int:
    return sum(count for i, count in enumerate(source.weights) if bits >> i & 1)


def remark_on_cut(kept: Kept | None, source: Signature, target: Signature, blocks: Iterable[InnerOutput]) -> str:
    """The remark that most parameters are cut, with the deepest tap as a remedy; empty for shallow contracts."""
    maps = {path: spec.depth for path, spec in target.outputs.items() if factored(spec).strides and not spec.same_as}
    depths = list(maps.values())
    if kept is None or 2 * kept.parameters >= kept.of or not depths:
        return ""
    if all(depth is not None and depth < WHOLE - 0.5 for depth in depths) and not _is_dilated(target, maps):
        return ""
    maps_inside = (block for block in blocks if factored(block.spec).strides)
    last = max(maps_inside, key=lambda block: (block.spec.depth or 0, block.finished), default=None)
    deepest = max(reversed(maps), key=lambda path: (maps[path] or 0, *factored(target.outputs[path]).strides.values()))
    remedy = "" if last is None or kept.depth == 1 else f': taps={{"{deepest}": "{last.name}"}} takes what lies deepest'
    cut = f"{human_count(kept.of - kept.parameters)} of the {human_count(kept.of)} parameters of {source.name}"
    return f"{cut} are cut{remedy}"


def last_convolution(
    source: Signature, target: Signature, blocks: Sequence[InnerOutput], last: Sequence[InnerOutput]
) -> list[InnerOutput]:
    """The last map, where the contract is the single map of a whole network, and no block has nearly all parameters.

    In a pyramid the last level is the last block, as model zoos list it. EfficientNet and MobileNet have a convolution
    behind it, which is right for a single map.

    Args:
        source: Signature of the new module.
        target: The contract.
        blocks: The inner outputs that may be tapped.
        last: The last map of the new module, if it has any.
    """
    wanted = [spec for spec in target.outputs.leaves if factored(spec).strides and not spec.same_as]
    if len(wanted) != 1 or (wanted[0].depth or 0) < WHOLE:
        return []
    reached = max((_size(source, block.behind) for block in blocks if _is_map(block.spec)), default=0)
    maps = [one for one in last if not one.attention and all(len(dim.axes) <= 1 for dim in one.spec.dims)]
    return [one for one in maps if _LEAST * _size(source, one.behind) > reached > 0]


_LEAST = 0.95
"""The least share of the parameters before the global pooling that the map of a whole network depends on."""


def _is_dilated(target: Signature, maps: Collection[str]) -> bool:
    """Whether a level is an octave or more deeper than its stride alone says."""
    levels = {path: level for path in maps if (level := level_of(factored(target.outputs[path])))}
    return any(level.octaves >= _USUAL and level.extra >= 1 for level in levels_in_order(levels).values())


_USUAL = 3
"""The least stride, in octaves, to which networks are dilated; finer levels are those of decoders."""
