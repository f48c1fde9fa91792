"""Depths: how much of a network a tensor depends on, in octaves, as the strides of a usual backbone count them."""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeAlias

from torch import nn

from autoadapt.contracts.capturing.dataflow import Behind, Dataflow, Key, Node
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.instances import paths_above
from autoadapt.contracts.layer_kinds import COUNTED
from autoadapt.contracts.signature import InnerOutput, TensorSpec, Values

if TYPE_CHECKING:
    from autoadapt.contracts.capturing.probing import Observation

WHOLE = 5.0
"""The depth of a whole backbone, whose last stride is 32."""

USUAL_IMAGE = 256
"""Height and width that are large enough for all strides of a usual backbone."""

Shape: TypeAlias = tuple[int, ...]


@dataclass(frozen=True)
class Place:
    """Stride and width of a feature map."""

    octaves: float
    """Binary logarithm of the stride, rounded to a half."""
    width: int
    """Number of channels."""


class Depths:
    """The depth of each tensor of one run.

    A tensor is as deep as the deepest block that it depends on, whenever it is computed: the finest level of a feature
    pyramid, which comes last, is as deep as the deepest map that it is a sum of. The depth of a block is

    - the octaves of its stride, 5 at stride 32. This alone is right for pyramids, and for networks that were cut
      after a stage;
    - plus one for each doubling of width or dilation since the first block of that stride: layer2, layer3 and layer4
      of a ResNet that all have stride 8 count as strides 8, 16 and 32. This distinguishes dilated networks from those
      that were cut at the same stride. Both are needed: some networks drop strides without dilating, some dilate at one
      width.

    Two exceptions:

    - An output that is wider than another one of the same stride, on which it depends, is one octave deeper, since it
      ends another stage; one that is not wider is as deep. This holds only at the coarsest stride among the outputs:
      elsewhere a stage that is less than twice as wide may belong to a dilated network or to one that was cut.
    - Where all blocks have one stride of 8 or more, or cells of 64 voxels, as behind a patch embedding, block `i` of
      `n` has depth `1 + 4 i / n`.

    Blocks are the largest modules that hold two or more convolutions or linear layers, but less than half of all, or
    less than a quarter where they contain several strides; at a stride without blocks, single layers count.

    Args:
        module: The module that ran.
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
        self._rows = _rows(nodes, self._even) if image else _rows_of_sequences(module, nodes)

    def on_outputs(self, specs: Iterable[TensorSpec]) -> tuple[TensorSpec, ...]:
        """Specs of the outputs with their depths."""
        found = self._observed
        if found is None:
            return tuple(specs)
        specs = tuple(specs)
        shapes = list(map(_cells_first, specs, found.shapes))
        made = [self._with(*row) for row in zip(specs, found.behind, shapes, strict=True)]
        places = [place_of(shape, self._image) for shape in shapes]
        return tuple(made if self._even else _stage_by_stage(made, found.behind, places))

    def weights(self) -> tuple[str, ...]:
        """Which parameters each output depends on, in the bits of `InnerOutput.weights`."""
        behind = self._observed.behind if self._observed is not None else ()
        return tuple("" if one is None else f"{one.weights:x}" for one in behind)

    def shallow_first(self, outputs: Values) -> tuple[str, ...]:
        """The outputs in another order than theirs, where that is not from shallow to deep; empty where it is.

        Of outputs of one form, a deeper one depends on all parameters that a shallower one depends on, and on more.
        One that stands in several places counts where it stands last.
        """
        behind = dict(zip(outputs.paths, self._observed.behind if self._observed else (), strict=False))
        last = {spec.same_as or path: path for path, spec in outputs.items()}
        alike: dict[tuple[Dim, ...], list[str]] = {}
        reads = dict[str, int]()
        for place, path in last.items():
            known = behind.get(place)
            if known is not None and known.weights and outputs[path].is_floating:
                alike.setdefault(outputs[path].dims, []).append(path)
                reads[path] = known.weights
        moved = dict[str, str]()
        for paths in alike.values():
            paths.sort(key=outputs.paths.index)
            ordered = sorted(paths, key=lambda path: reads[path].bit_count())
            if not any(reads[one] & ~reads[other] for one, other in itertools.pairwise(ordered)):
                moved |= dict(zip(paths, ordered, strict=True))
        found = tuple(moved.get(path, path) for path in outputs.paths)
        return () if found == outputs.paths else found

    def on_inner(self, inner: Iterable[InnerOutput]) -> tuple[InnerOutput, ...]:
        """Inner outputs with their depths and parameters; inputs of modules only where they depend on parameters."""
        found = map(self._one, inner)
        return tuple(output for output in found if not output.is_read or output.behind)

    def _one(self, output: InnerOutput) -> InnerOutput:
        """An inner output with its depth, and the parameters that it depends on."""
        key = (output.module, output.call, output.path)
        node = self._nodes.get(key)
        if node is not None:
            shape, behind, itself = node.shape, node.behind, node.itself
        elif key in self._read:
            shape, behind = self._read[key]
            itself = behind
        else:
            return output
        shape = _cells_first(output.spec, shape)
        found = {"spec": self._with(output.spec, itself, shape), "weights": f"{behind.weights:x}"}
        return output.model_copy(update=found)

    def _with(self, spec: TensorSpec, behind: Behind | None, shape: Shape) -> TensorSpec:
        """A spec with its depth, which is that of the deepest block that it depends on."""
        if behind is None or not spec.is_floating:
            return spec
        spec = spec.model_copy(update={"share": self._share(behind)})
        found = [depth for i, depth in self._depth_of.items() if behind.nodes >> i & 1]
        place = place_of(shape, self._image)
        if place is None and not found:
            return spec
        if not self._even:
            found.append(place.octaves if place else 0.0)
        return spec.model_copy(update={"depth": round(max(found, default=1.0), 2)})

    def _share(self, behind: Behind) -> float | None:
        """The share of blocks that a tensor depends on, of the last row of which there are any; None without rows."""
        if not self._rows:
            return None
        counts = [((behind.nodes & row).bit_count(), row) for row in self._rows]
        count, row = next((found for found in reversed(counts) if found[0]), counts[0])
        return round(count / row.bit_count(), 4)

    def _block(self, i: int, behind: Behind) -> float:
        """The depth of a block, in octaves of stride, given what it depends on."""
        before = [j for j in self._blocks if behind.nodes >> j & 1]
        if self._even:
            return 1 + (WHOLE - 1) * len({*before, i} & self._even) / len(self._even)
        place = self._blocks[i]
        first = next((j for j in before if self._blocks[j].octaves == place.octaves), i)
        wider = place.width / self._blocks[first].width
        dilated = behind.dilation / self._found[first].itself.dilation
        return place.octaves + max(math.floor(math.log2(max(wider, dilated)) + 0.1), 0)


def _rows(nodes: Sequence[Node], blocks: Iterable[int]) -> list[int]:
    """Blocks by the list that holds them, as those of an encoder and of a decoder, as bits, in the order of runs."""
    found: dict[str, int] = {}
    for i in sorted(blocks):
        parent = ".".join(part for part in nodes[i].key[0].split(".") if not part.isdigit())
        found[parent] = found.get(parent, 0) | 1 << i
    return [row for row in found.values() if row.bit_count() > 1]


def _rows_of_sequences(module: nn.Module, nodes: Sequence[Node]) -> list[int]:
    """The rows of blocks that return tokens of the most usual width, where the input is no image."""
    places = [Place(0.0, node.shape[-1]) if len(node.shape) == 3 and node.key[2] in _FIRST else None for node in nodes]
    blocks = _blocks(module, nodes, places)
    widths = [nodes[i].shape[-1] for i in blocks]
    usual = max(widths, key=widths.count, default=0)
    return _rows(nodes, [i for i in blocks if nodes[i].shape[-1] == usual])


_FIRST = ("", "output", "0")
"""Paths of the only or the first tensor that a module returns."""


def _cells_first(spec: TensorSpec, shape: Shape) -> Shape:
    """The shape `[B, N, C]` of a map with merged axes, as `[B, C, H*W]` and `[B, C*H*W]` are; any other as it is."""
    dims = spec.dims
    if spec.merged is not None:
        width = next(int(part.dim.constant or 1) for part in spec.merged.parts if not part.along)
        return (shape[0], math.prod(shape[1:]) // width, width)
    is_flat = len(dims) == len(shape) == 3 and not dims[1].axes and {"H", "W"} <= dims[2].axes
    return (shape[0], shape[2], shape[1]) if is_flat else shape


def _channels_last(module: nn.Module, nodes: Iterable[Node]) -> dict[Key, Node]:
    """The nodes by key; shapes `[B, C, N]` of one-dimensional layers are turned into `[B, N, C]`, as tokens have."""
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
    """The outputs, where at the coarsest stride each is as deep as one it depends on, or an octave more if wider."""
    coarsest = max((place.octaves for place in places if place is not None), default=0.0)
    found, last = list(specs), None
    for i, (place, reads) in enumerate(zip(places, behind, strict=True)):
        if place is None or reads is None or place.octaves < coarsest or found[i].depth is None:
            continue
        if last is not None and not last[1].weights & ~reads.weights:
            depth = max(found[i].depth or 0, min(last[2] + (place.width > last[0].width), max(WHOLE, last[2])))
            found[i] = found[i].model_copy(update={"depth": depth})
        last = place, reads, found[i].depth or 0
    return found


def sizes_for_depths(
    example: Mapping[str, int], base: Mapping[str, int], steps: Mapping[str, int], *, real: bool
) -> list[dict[str, int]]:
    """Sizes at which to trace dependencies, the best first.

    On the meta device that is four times the example, for all axes but the batch. With values only height and width are
    enlarged, up to `USUAL_IMAGE`, since probes may be too small for the last strides.

    Args:
        example: The sizes of the example.
        base: The sizes of the probes.
        steps: The axes that may vary, and their steps.
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
    """The blocks of the usual width, where all have one coarse stride and more than half one width; else none.

    Coarse is a stride of 8 or more, or cells of 64 voxels, as 8 x 8 pixels of each frame of a clip.
    """
    widths = [place.width for place in blocks.values()]
    strides = {place.octaves for place in blocks.values()}
    if len(widths) < 2 or len(strides) > 1:
        return set()
    usual = max(widths, key=widths.count)
    found = {i for i, place in blocks.items() if place.width == usual}
    return found if min(strides) * max(axes, 2) >= 6 and len(found) > max(len(widths) / 2, 1) else set()


def place_of(shape: Shape, image: Shape) -> Place | None:
    """Stride and width of a feature map with channels first or last, or of tokens; None for other tensors.

    Args:
        shape: The shape of the tensor.
        image: Sizes of the input's batch axis and of its spatial axes.

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
    """The indices of nodes that blocks return, in order; at strides without blocks those of single layers."""
    layers = {path: sum(isinstance(one, COUNTED) for one in inner.modules()) for path, inner in module.named_modules()}
    held: dict[str, set[float]] = {}
    for node, place in zip(nodes, places, strict=True):
        if place is not None and layers.get(node.key[0], 0) >= 2:
            for above in paths_above(node.key[0]):
                held.setdefault(above, set()).add(place.octaves)
    plain = {path for path, inner in module.named_modules() if type(inner) is nn.Sequential}
    called = {node.key[0] for node in nodes}  # a ModuleList is never called itself

    def is_block(path: str) -> bool:
        whole = layers[path] * (4 if len(held.get(path, ())) > 1 else 2) >= layers[""]
        return path in called and layers[path] >= 2 and not whole and not (path in held and path in plain)

    blocks = {path for path in layers if path and is_block(path)}
    blocks -= {path for path in blocks if not blocks.isdisjoint(paths_above(path))}
    found = [(i, place) for i, place in enumerate(places) if place is not None and nodes[i].key[0] in blocks]
    have = {place.octaves for _, place in found}
    single = [
        i
        for i, place in enumerate(places)
        if place is not None
        and layers[nodes[i].key[0]] == 1
        and place.octaves not in have
        and blocks.isdisjoint(paths_above(nodes[i].key[0]))
    ]
    return sorted([*(i for i, _ in found), *single])


def argument_that_dilates(module: nn.Module) -> str:
    """The constructor argument that replaces strides with dilation, as in timm and torchvision; empty without one."""
    known = inspect.signature(type(module).__init__).parameters
    if "output_stride" in known and "output_stride == 32" not in _source(type(module)):  # some only assert that
        return "output_stride"
    has_bottlenecks = any(type(inner).__name__ == "Bottleneck" for inner in module.modules())  # others do not dilate
    return "replace_stride_with_dilation" if "replace_stride_with_dilation" in known and has_bottlenecks else ""


def _source(kind: type) -> str:
    try:
        return inspect.getsource(kind)
    except (OSError, TypeError):
        return ""
