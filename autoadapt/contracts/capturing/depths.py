"""Depths: how much of a network lies behind a tensor, in octaves, as the strides of a usual backbone count them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from torch import nn

from autoadapt.contracts.capturing.dataflow import Behind, Dataflow, Key, Node
from autoadapt.contracts.signature import InnerOutput, TensorSpec

if TYPE_CHECKING:
    from autoadapt.contracts.capturing.probing import Observation

__all__ = ["Depths", "argument_that_dilates", "place_of", "sizes_for_depths"]

WHOLE = 5.0
"""The depth of a whole backbone, whose last stride is 32."""

USUAL_IMAGE = 256
"""Height and width at which all strides of a usual backbone show."""

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """Where a feature map stands between the image and the deepest level."""

    octaves: float
    """Binary logarithm of its stride, to a half."""
    width: int
    """Channels."""


class Depths:
    """The depth of each tensor of one run.

    A tensor is as deep as the deepest block that it depends on: not as late as it runs, so that the finest level of
    a feature pyramid, which runs last, is as deep as what it adds up. The depth of a block is

    - the octaves of its stride, 5 at stride 32. This alone is right for pyramids, and for networks that were cut
      after a stage;
    - and one for each time that width or dilation has doubled since the first block of that stride: layer2, layer3
      and layer4 of a ResNet that all have stride 8 count as 8, 16 and 32. This tells dilated networks from those cut at
      the same stride: width where strides went without dilation, dilation where the width stays the same;
    - where an output is not deeper by that than another of the same stride that it is made of, it is if it is wider, as
      the end of another stage is: only at the coarsest stride that comes out, since nothing tells a stage that is
      wider by half in a dilated network from one in a network cut there;
    - where all blocks have one stride of 8 or more, or cells of 64 voxels, as behind a patch embedding, neither tells
      anything: block `i` of `n` has depth `1 + 4 i / n`.

    Blocks are the largest modules that hold two or more convolutions or linear layers, but less than half of all, or a
    quarter where there are several strides inside; at a stride that has none, single layers count.

    Args:
        module: What ran.
        observed: Its outputs.
        flow: What its tensors depend on.
        image: Sizes of the input's batch axis and of its spatial axes; without them nothing has a depth.
    """

    def __init__(
        self,
        module: nn.Module,
        observed: Observation | None = None,
        flow: Dataflow | None = None,
        image: Shape = (),
    ) -> None:
        self._image = image
        self._observed = observed
        self._nodes = _channels_last(module, flow.nodes) if flow is not None else {}
        self._read = flow.read if flow is not None else {}
        nodes = list(self._nodes.values())
        places = [place_of(node.shape, image) for node in nodes]
        self._blocks = {i: place for i in _blocks(module, nodes, places) if (place := places[i]) is not None}
        self._even = _even(self._blocks, len(image) - 1)
        self._found = nodes
        self._depth_of = {i: self._block(i, nodes[i].behind) for i in self._blocks}

    def on_outputs(self, specs: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
        """Specs of the outputs with their depths."""
        found = self._observed
        if found is None:
            return tuple(specs)
        rows = zip(specs, found.behind, found.shapes, strict=True)
        made = [self._with(spec, behind, shape) for spec, behind, shape in rows]
        places = [place_of(shape, self._image) for shape in found.shapes]
        return tuple(made if self._even else _stage_by_stage(made, found.behind, places))

    def weights(self) -> tuple[str, ...]:
        """Which parameters each output depends on, as bits of a hexadecimal number."""
        behind = self._observed.behind if self._observed is not None else ()
        return tuple("" if one is None else f"{one.weights:x}" for one in behind)

    def on_inner(self, inner: Iterable[InnerOutput]) -> tuple[InnerOutput, ...]:
        """What inner modules return, with depths and the parameters behind it; of what they read, what has any."""
        found = map(self._one, inner)
        return tuple(output for output in found if not output.is_read or output.behind)

    def _one(self, output: InnerOutput) -> InnerOutput:
        key = (output.module, output.call, output.path)
        node = self._nodes.get(key)
        if node is not None:
            shape, behind, itself = node.shape, node.behind, node.itself
        elif key in self._read:
            shape, behind = self._read[key]
            itself = behind
        else:
            return output
        found = {"spec": self._with(output.spec, itself, shape), "weights": f"{behind.weights:x}"}
        return output.model_copy(update=found)

    def _with(self, spec: TensorSpec, behind: Behind | None, shape: Shape) -> TensorSpec:
        if behind is None or not spec.is_floating:
            return spec
        found = [depth for i, depth in self._depth_of.items() if behind.nodes >> i & 1]
        place = place_of(shape, self._image)
        if place is None and not found:
            return spec
        if not self._even:
            found.append(place.octaves if place else 0.0)
        return spec.model_copy(update={"depth": round(max(found, default=1.0), 2)})

    def _block(self, i: int, behind: Behind) -> float:
        before = [j for j in self._blocks if behind.nodes >> j & 1]
        if self._even:
            return 1 + (WHOLE - 1) * len({*before, i} & self._even) / len(self._even)
        place = self._blocks[i]
        first = next((j for j in before if self._blocks[j].octaves == place.octaves), i)
        wider = place.width / self._blocks[first].width
        dilated = behind.dilation / self._found[first].itself.dilation
        return place.octaves + max(math.floor(math.log2(max(wider, dilated)) + 0.1), 0)


def _channels_last(module: nn.Module, nodes: Iterable[Node]) -> dict[Key, Node]:
    """What inner modules returned, by its key; what layers along one axis list first, as tokens do it."""
    first = {path for path, one in module.named_modules() if isinstance(one, _ALONG_ONE_AXIS)}
    turned = (
        replace(node, shape=(node.shape[0], node.shape[2], node.shape[1]))
        if node.key[0] in first and len(node.shape) == 3
        else node
        for node in nodes
    )
    return {node.key: node for node in turned}


_ALONG_ONE_AXIS = (nn.Conv1d, nn.ConvTranspose1d, nn.BatchNorm1d)


def _stage_by_stage(
    specs: Sequence[TensorSpec], behind: Sequence[Behind | None], places: Sequence[Place | None]
) -> list[TensorSpec]:
    """Outputs at the coarsest stride, each an octave deeper than a narrower one that it is made of."""
    coarsest = max((place.octaves for place in places if place is not None), default=0.0)
    found, last = list(specs), None
    for i, (place, reads) in enumerate(zip(places, behind, strict=True)):
        if place is None or reads is None or place.octaves < coarsest or found[i].depth is None:
            continue
        if last is not None and place.width > last[0].width and not last[1].weights & ~reads.weights:
            depth = max(found[i].depth or 0, min(last[2] + 1, WHOLE))
            found[i] = found[i].model_copy(update={"depth": depth})
        last = place, reads, found[i].depth or 0
    return found


def sizes_for_depths(
    example: Mapping[str, int], base: Mapping[str, int], steps: Mapping[str, int], *, real: bool
) -> list[dict[str, int]]:
    """Sizes to follow what tensors are made of at, the best first.

    That is four times the given size; with values it is no larger than images usually are, and what is no image stays
    as small as it was probed. An image that was probed for real may be too small for the last strides to show.

    Args:
        example: The given sizes.
        base: Those that the module was probed at.
        steps: What may vary, and by how much at least.
        real: Whether the run takes values.

    Example:
        >>> sizes_for_depths({"B": 4, "H": 128, "W": 512}, {"B": 2, "H": 16, "W": 64}, {"H": 1, "W": 1}, real=True)
        [{'B': 2, 'H': 256, 'W': 256}, {'B': 2, 'H': 16, 'W': 64}]
    """
    given = dict(example) | ({"B": base["B"]} if real and "B" in base else {})
    varying = {name: step for name, step in steps.items() if step and (name in ("H", "W") if real else name != "B")}
    wanted = {name: min(4 * given[name], USUAL_IMAGE) if real else 4 * given[name] for name in varying}
    sizes = {name: given[name] - step * ((given[name] - wanted[name]) // step) for name, step in varying.items()}
    large = [given | sizes] if not real or varying.keys() >= {"H", "W"} else []
    return [*large, dict(base) if real else given]


def _even(blocks: Mapping[int, Place], axes: int) -> set[int]:
    """The blocks, where all have one coarse stride and most of them one width; else none.

    Coarse is 8 or more, or 64 voxels, as 8 x 8 pixels of a clip that is cut into patches frame by frame.
    """
    widths = [place.width for place in blocks.values()]
    strides = {place.octaves for place in blocks.values()}
    if len(widths) < 2 or len(strides) > 1:
        return set()
    usual = max(widths, key=widths.count)
    found = {i for i, place in blocks.items() if place.width == usual}
    return found if min(strides) * max(axes, 2) >= 6 and len(found) > max(len(widths) / 2, 1) else set()


def place_of(shape: Shape, image: Shape) -> Place | None:
    """Stride and width of a feature map, with channels first or last, or in tokens; None for what is no map.

    Args:
        shape: Of the tensor.
        image: Size of the input's batch axis, and of its spatial axes.

    Example:
        >>> place_of((2, 64, 56, 56), (2, 224, 224)), place_of((2, 197, 192), (2, 224, 224))
        (Place(octaves=2.0, width=64), Place(octaves=4.0, width=192))
    """
    batch, *sizes = image or (0,)
    if not sizes or not shape or 0 in shape:
        return None
    cells: Sequence[int]
    if len(shape) == len(sizes) + 2 and shape[0] == batch:
        options = [(shape[2:], shape[1]), (shape[1:-1], shape[-1])]
        cells, width = min(options, key=lambda option: _unevenness(option[0], sizes))
    elif len(shape) == 3 and shape[0] % batch == 0:
        cells, width = (shape[0] // batch * shape[1],), shape[2]
    else:
        return None
    return Place(_octaves(math.prod(cells), sizes), width) if math.prod(cells) > 1 else None


def _unevenness(cells: Sequence[int], sizes: Sequence[int]) -> float:
    ratios = [math.log2(size / cell) for size, cell in zip(sizes, cells, strict=True)]
    return round(max(ratios) - min(ratios), 1)


def _octaves(cells: int, sizes: Sequence[int]) -> float:
    return round(2 * math.log2(math.prod(sizes) / cells) / len(sizes)) / 2


def _blocks(module: nn.Module, nodes: Sequence[Node], places: Sequence[Place | None]) -> list[int]:
    """Which nodes are outputs of blocks, in order; for a stride without any those of single layers."""
    layers = {
        path: sum(isinstance(one, _LEARNING) for one in inner.modules()) for path, inner in module.named_modules()
    }
    held: dict[str, set[float]] = {}
    for node, place in zip(nodes, places, strict=True):
        if place is not None and layers.get(node.key[0], 0) >= 2:
            for above in _above(node.key[0]):
                held.setdefault(above, set()).add(place.octaves)
    plain = {path for path, inner in module.named_modules() if type(inner) is nn.Sequential}
    called = {node.key[0] for node in nodes}  # which a list is not: its caller runs what it holds

    def is_block(path: str) -> bool:
        whole = layers[path] * (4 if len(held.get(path, ())) > 1 else 2) >= layers[""]
        return path in called and layers[path] >= 2 and not whole and not (path in held and path in plain)

    blocks = {path for path in layers if path and is_block(path)}
    blocks -= {path for path in blocks if not blocks.isdisjoint(_above(path))}
    found = [(i, place) for i, place in enumerate(places) if place is not None and nodes[i].key[0] in blocks]
    have = {place.octaves for _, place in found}
    single = [
        i
        for i, place in enumerate(places)
        if place is not None
        and layers[nodes[i].key[0]] == 1
        and place.octaves not in have
        and blocks.isdisjoint(_above(nodes[i].key[0]))
    ]
    return sorted([*(i for i, _ in found), *single])


def _above(path: str) -> list[str]:
    parts = path.split(".")
    return [".".join(parts[:i]) for i in range(1, len(parts))]


_LEARNING = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear, nn.ConvTranspose2d)


def argument_that_dilates(module: nn.Module) -> str:
    """Which argument of a module's class takes strides away and dilates instead, as timm's and torchvision's do."""
    known = inspect.signature(type(module).__init__).parameters
    if "output_stride" in known and "output_stride == 32" not in _source(type(module)):  # which some only assert
        return "output_stride"
    has_bottlenecks = any(type(inner).__name__ == "Bottleneck" for inner in module.modules())  # others do not dilate
    return "replace_stride_with_dilation" if "replace_stride_with_dilation" in known and has_bottlenecks else ""


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""
