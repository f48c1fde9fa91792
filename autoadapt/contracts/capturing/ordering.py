"""Ordering: in which order a token axis lists the cells of an image, measured in one small real run.

Dims say how many tokens there are, `floor(H/16)*floor(W/16) + 1`, and not which is which: class tokens may come last,
cells column by column or in windows. Patches of an image are changed, and the tokens that change show their places.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import torch
from torch import nn

from autoadapt.contracts.allocations import MOST_INVENTED
from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.capturing.by_tensor import ByTensor
from autoadapt.contracts.capturing.cell_grid import Grid
from autoadapt.contracts.capturing.devices import device_of, on_meta_device
from autoadapt.contracts.capturing.given_grids import TokenGrid
from autoadapt.contracts.capturing.graph_axes import InputAxes
from autoadapt.contracts.capturing.inner_calls import times_written
from autoadapt.contracts.capturing.inner_leaves import InnerKey
from autoadapt.contracts.capturing.map_axes import MapAxes, map_axes
from autoadapt.contracts.capturing.perturbing import (
    CLIP_CENTRES,
    CORNERS,
    ORDER_CENTRES,
    Centre,
    Responses,
    order_of_tokens,
    patches,
    responses,
)
from autoadapt.contracts.dims import Dim, leading_and_product
from autoadapt.contracts.layer_kinds import PROJECTING
from autoadapt.contracts.leaves import READ
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.signature import AxisSizes, Cells
from autoadapt.contracts.trees import Tree, flatten, path_text, paths, rebuild
from autoadapt.contracts.views import eval_copy

Order: TypeAlias = tuple[Cells, int]
"""The order of the cells, and the number of other tokens behind them."""
Key: TypeAlias = InnerKey | int
"""An inner output, or the number of an output of the whole."""

FEWEST = (4, 5)
"""Rows and columns that a grid should have at least in the run that measures the order."""
LARGEST_SIZE = 640


@dataclass(frozen=True)
class TokenAxis:
    """The token axis of a tensor, which lists cells of an image or clip."""

    axis: int
    batch: int
    """The axis of samples."""
    sides: tuple[tuple[str, Dim], ...]
    """The number of cells along each input axis."""
    extra: int
    """Tokens that are no cells."""

    def grid(self, sizes: Mapping[str, int]) -> Grid:
        """The cells at given sizes of the input axes."""
        counts = {name: int(dim.evaluate(sizes)) for name, dim in self.sides}
        return Grid(counts["H"], counts["W"], counts.get("T", 1))

    def count(self, sizes: Mapping[str, int]) -> int:
        """The number of tokens at given sizes of the input axes."""
        return self.grid(sizes).cells + self.extra


def token_axis(dims: Sequence[Dim], batch: Dim) -> TokenAxis | None:
    """The token axis of a tensor of three axes, if one of the others is the batch and none depends on H or W as well.

    A tensor may have a fourth axis, of frames.
    """
    found = [axis for axis, dim in enumerate(dims) if dim.axes & {"H", "W"}]
    frames = [axis for axis, dim in enumerate(dims) if dim.axes == {"T"}]
    if len(dims) != 3 + len(frames) or len(found) != 1 or batch not in dims:
        return None
    extra, product = leading_and_product(dims[found[0]])
    sides = {"".join(sorted(factor.axes)): factor for factor in product if factor != 1}
    if {*sides} not in ({"H", "W"}, {"T", "H", "W"}) or len(sides) != len(product) or extra < 0:
        return None
    return TokenAxis(found[0], list(dims).index(batch), tuple(sorted(sides.items())), extra)


@dataclass(frozen=True)
class ImagePass:
    """The outputs of a real run on images."""

    sizes: Mapping[str, int]
    """The sizes of all input axes."""
    tree: Tree
    shapes: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Measured:
    """What a real run on images or clouds showed; empty where there was none."""

    orders: Mapping[Key, Order] = field(default_factory=dict)
    """Of token axes."""
    maps: Mapping[Key, tuple[Dim, ...]] = field(default_factory=dict)
    """Dims of maps whose sizes do not tell rows from columns or channels."""
    points: Mapping[Key, int] = field(default_factory=dict)
    """The axis of points, of tensors of clouds."""
    rows: Mapping[int, int] = field(default_factory=dict)
    """The axis of rows, of maps of fixed sizes."""
    ran: ImagePass | None = None

    def told(self, key: Key) -> dict[str, object]:
        """The fields of a tensor's spec that were measured."""
        order = dict(zip(("cells", "trailing"), self.orders[key], strict=True)) if key in self.orders else {}
        rows = self.rows.get(key) if isinstance(key, int) else None
        return {"point_axis": self.points.get(key), "map_axis": rows, **order}


@dataclass(frozen=True)
class _Seen:
    """What tensors showed in one run."""

    orders: dict[Key, Order | None]
    maps: dict[Key, tuple[Dim, ...]]
    ran: ImagePass | None = None


class _KnownResponses:
    """The responses of tensors, found once of a tensor that several modules return, as layers without effect do."""

    def __init__(self) -> None:
        self._known = ByTensor[tuple[tuple[int, int, int], Responses]]()

    def of(self, tensor: torch.Tensor, token: TokenAxis) -> Responses:
        known, form = self._known.get(tensor), (token.batch, token.axis, times_written(tensor))
        if known is not None and known[0] == form and not tensor.is_inference():  # which does not tell what is written
            return known[1]
        found = responses(tensor.movedim((token.batch, token.axis), (0, 1)).flatten(2))
        self._known.put(tensor, (form, found))
        return found


@dataclass(frozen=True)
class Ordering:
    """A module, its example call, and the sizes that it takes, to measure orders of cells."""

    module: nn.Module
    arguments: Arguments
    axes: InputAxes
    legal: Mapping[str, AxisSizes]
    declared: Mapping[str, TokenGrid]
    """Grids that the caller states, by output path or module path."""
    usual: Mapping[str, int] | None = None
    """The size to run at first; None for the smallest that shows the order."""

    def measure(self, dims: Mapping[Key, Sequence[Dim]], batch: Dim) -> Measured:
        """The order of each token axis; empty where weights have no values or the module does not run.

        Where all tokens of a tensor change by the same amount, it gets the commonest order of earlier tensors with as
        many cells, or as many other tokens: the blocks of a transformer work on one residual stream.

        Args:
            dims: The dims of all tensors, in the order in which they are computed.
            batch: The dim of samples.

        Returns:
            What was found, and the run that showed it.
        """
        tokens = {key: token for key, leaf in dims.items() if (token := token_axis(leaf, batch)) is not None}
        maps = self._ambiguous(dims, batch)
        if not (tokens or maps) or on_meta_device(self.module):
            return Measured()
        seen = self._seen(tokens, maps)
        return Measured(self._orders(tokens, seen.orders), seen.maps, ran=seen.ran)

    def _ambiguous(self, dims: Mapping[Key, Sequence[Dim]], batch: Dim) -> dict[Key, MapAxes]:
        """Maps of modules of one image size, where other axes have the sizes of rows and columns as well.

        Only outputs and blocks, since no other maps are taken as sources.
        """
        if any(name not in self.legal or self.legal[name].step for name in "HW"):
            return {}
        named = dict(self.module.named_modules())
        wanted = (key for key in dims if isinstance(key, int) or (key[2] != READ and is_block(named[key[0]])))
        found = {key: map_axes(dims[key], batch, self.axes.example) for key in wanted}
        return {key: axes for key, axes in found.items() if axes is not None}

    def _orders(self, tokens: Mapping[Key, TokenAxis], found: Mapping[Key, Order | None]) -> dict[Key, Order]:
        """The order of each token axis, if the run showed any."""
        if not found:
            return {}
        orders: dict[Key, Order] = {}
        seen: dict[Key, Order] = {}
        for key, token in tokens.items():
            told = found.get(key)
            orders[key] = told or self._usual(token, tokens, seen)
            if told is not None:
                seen[key] = told
        stated = tokens if self.declared else ()
        return orders | {key: told for key in stated if (told := self._declared(key, tokens)) is not None}

    def _usual(self, token: TokenAxis, tokens: Mapping[Key, TokenAxis], seen: Mapping[Key, Order]) -> Order:
        """The commonest order of earlier tensors with as many other tokens, and as many cells if there are such."""
        alike = {key: order for key, order in seen.items() if tokens[key].extra == token.extra}
        same = [order for key, order in alike.items() if self._stream(tokens[key]) == self._stream(token)]
        counted = Counter(same or alike.values()).most_common(1)
        return counted[0][0] if counted else ("unknown", 0)

    def _stream(self, token: TokenAxis) -> tuple[object, int]:
        return token.sides, token.extra

    def _declared(self, key: Key, tokens: Mapping[Key, TokenAxis]) -> Order | None:
        """The order from the grid that the caller stated for a tensor, or for another one of the same cells."""
        for other, token in tokens.items():
            alike = self._stream(token) == self._stream(tokens[key])
            if alike and isinstance(other, tuple) and other[0] in self.declared and len(token.sides) == 2:
                return "rows", max(token.extra - self.declared[other[0]].leading, 0)
        return None

    def _seen(self, tokens: Mapping[Key, TokenAxis], maps: Mapping[Key, MapAxes]) -> _Seen:
        """What each tensor shows in one run; empty where the module does not run."""
        small, example = self._sizes(list(tokens.values())), dict(self.axes.example)
        options = [{**example, **self.usual}] if self.usual else []
        seen = _Seen({}, {})
        for sizes in (*options, small, *([example] if example != small else [])):
            seen = self._seen_at(sizes, tokens, maps)
            if seen.orders or seen.maps:
                break
        return seen

    def _seen_at(self, sizes: Mapping[str, int], tokens: Mapping[Key, TokenAxis], maps: Mapping[Key, MapAxes]) -> _Seen:
        """Token orders and map axes, from one run on test images at given sizes."""
        seen, images, centres = _Seen({}, {}), images_for(self.axes), _centres(self.axes)
        answers: dict[Key, Responses] = {}  # evaluated after the run, since function modes slow down what runs in it
        known = _KnownResponses()

        def note(key: Key, tensor: torch.Tensor) -> None:
            if key in maps:
                seen.maps[key] = maps[key].as_seen(tensor, images)
                return
            token = tokens[key]
            if (tensor.shape[token.batch], tensor.shape[token.axis]) == (images, token.count(sizes)):
                answers[key] = known.of(tensor, token)

        model = eval_copy(self.module)
        keys = [*tokens, *maps]
        listen(model, [key for key in keys if not isinstance(key, int)], note)
        cells = _cells_of_a_patch(tokens.values(), sizes) if tokens else min(one.grid.cells for one in maps.values())
        returned = run_on_images(model, self.arguments, self.axes, sizes, cells, centres, corners=len(CORNERS))
        if returned is None:
            return _Seen({}, {})
        tree, outputs = flatten(returned)
        for key in keys:
            if isinstance(key, int):
                note(key, outputs[key])
        orders: dict[tuple[int, Grid], Order | None] = {}
        for key, answer in answers.items():
            grid = tokens[key].grid(sizes)
            small = min(grid.height, grid.width) < 2
            alone = small and not tokens[key].extra
            if (id(answer), grid) not in orders:
                orders[id(answer), grid] = None if alone else order_of_tokens(answer, grid, centres)
            seen.orders[key] = ("rows", 0) if alone else orders[id(answer), grid]
        shapes = tuple(tuple(output.shape) for output in outputs)
        return _Seen(seen.orders, seen.maps, ImagePass({**sizes, "B": images}, tree, shapes))

    def _sizes(self, tokens: Sequence[TokenAxis]) -> dict[str, int]:
        """The smallest legal sizes at which the coarsest grid has enough cells; the example's where there are none."""
        sizes = dict(self.axes.example)
        for name, fewest in zip(("H", "W"), FEWEST, strict=True):
            legal = self.legal[name]
            if legal.step == 0:
                continue
            dims = {dict(token.sides)[name] for token in tokens}
            stride = max(1 / (dim.slope(name) or 1) for dim in dims)
            cells = max(fewest, -(-legal.smallest // stride))
            size = legal.near(int(cells * stride))  # whole cells, so that each patch lies in one of them
            while size < LARGEST_SIZE and any(dim.evaluate({**sizes, name: size}) < fewest for dim in dims):
                size = legal.near(size + 1)
            sizes[name] = size
        return sizes


def _centres(axes: InputAxes) -> Sequence[Centre]:
    return CLIP_CENTRES if "T" in axes.example else ORDER_CENTRES


def images_for(axes: InputAxes) -> int:
    """The batch size of the run that measures the order: one image, and one for each changed patch or corner."""
    return 1 + len(_centres(axes)) + len(CORNERS)


def disordered(module: nn.Module, orders: Mapping[Key, Order]) -> tuple[str, ...]:
    """The paths of blocks with an unknown order of cells, where most blocks have one; else empty."""
    named = dict(module.named_modules())
    blocks = {
        key: order[0]
        for key, order in orders.items()
        if isinstance(key, tuple) and key[2] != READ and is_block(named[key[0]])
    }
    unknown = tuple(key[0] for key, cells in blocks.items() if cells == "unknown")
    return unknown if 2 * len(unknown) > len(blocks) else ()


def is_block(module: nn.Module) -> bool:
    """Whether a module holds two or more linear layers or convolutions."""
    return sum(isinstance(inner, PROJECTING) for inner in module.modules()) >= 2


def _cells_of_a_patch(tokens: Iterable[TokenAxis], sizes: Mapping[str, int]) -> int:
    """How many patches fill the image: the cells of the coarsest grid, or of the finest one with other tokens."""
    cells = [(token.grid(sizes).cells, bool(token.extra)) for token in tokens]
    beside = [count for count, extra in cells if extra]
    return max(beside) if beside else min(count for count, _ in cells)


def listen(model: nn.Module, keys: Sequence[InnerKey], note: Any) -> None:
    """Call `note(key, tensor)` for the wanted tensors that inner modules return or read, by hooks on a copy."""
    wanted, calls, begun = set(keys), dict[str, int](), dict[str, int]()
    named = dict(model.named_modules())

    def hear(name: str, output: object) -> None:
        call = calls[name] = calls.get(name, -1) + 1
        tree, tensors = flatten(output)
        for path, tensor in zip(paths(tree), tensors, strict=True):
            key = (name, call, path_text(path))
            if key in wanted and key[2] != READ:
                note(key, tensor)

    def hear_read(name: str, args: Any) -> None:
        call = begun[name] = begun.get(name, -1) + 1
        if (name, call, READ) in wanted:
            note((name, call, READ), args[0])

    for name in dict.fromkeys(path for path, _, _ in keys):
        named[name].register_forward_hook(lambda _module, _args, output, name=name: hear(name, output))
    for name in dict.fromkeys(path for path, _, leaf in keys if leaf == READ):
        named[name].register_forward_pre_hook(lambda _module, args, name=name: hear_read(name, args))


def run_on_images(
    model: nn.Module,
    arguments: Arguments,
    axes: InputAxes,
    sizes: Mapping[str, int],
    cells: int,
    centres: Sequence[Centre],
    *,
    corners: int = 0,
) -> Any:
    """The outputs of a copy of a module for a batch of an image of noise and copies of it with one patch changed.

    None where it raises, or where images of that size take too much memory.

    Args:
        model: The copy, in eval mode.
        arguments: The example call, in which these images replace the first ones.
        axes: Its input axes.
        sizes: Height and width of the images, and the number of frames of clips.
        cells: How many patches fill an image.
        centres: Where patches are changed, as fractions of height, width and time.
        corners: In how many further images a corner is changed.
    """
    tree, tensors = flatten(arguments.values)
    position = next(i for i, names in enumerate(axes.names) if {"H", "W"} <= set(names))
    names, example = axes.names[position], tensors[position]
    channels = next((i for i, name in enumerate(names) if name[0] == "C"), 1)
    shape = (example.shape[channels], *(sizes[name] for name in ("T", "H", "W") if name in names))
    if 4 * math.prod(shape) * (1 + len(centres) + corners) > MOST_INVENTED:
        return None
    with undisturbed():
        noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
        images = patches(noise, cells, centres, corners=corners).to(device=device_of(model), dtype=example.dtype)
        given = [_repeated(tensor, len(images)) for tensor in tensors]
        given[position] = images.movedim(1, channels)
        try:
            return Arguments(rebuild(tree, given), arguments.positional).call(model)
        except Exception:  # a model of one batch size, or one that needs meaningful values, tells nothing
            return None


def _repeated(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    return tensor[:1].expand(batch, *tensor.shape[1:]) if tensor.dim() and tensor.device.type != "meta" else tensor
