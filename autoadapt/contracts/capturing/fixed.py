"""Fixed sizes: dims in H and W for the outputs of a module that takes images of one size only."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.capturing.cell_grid import Grid
from autoadapt.contracts.capturing.devices import on_meta_device
from autoadapt.contracts.capturing.given_grids import TokenGrid
from autoadapt.contracts.capturing.graph_axes import InputAxes
from autoadapt.contracts.capturing.grids import GridReader
from autoadapt.contracts.capturing.inner_leaves import InnerKey, InnerLeaf
from autoadapt.contracts.capturing.ordering import is_block, run_on_images
from autoadapt.contracts.capturing.perturbing import CENTRES, axis_of_rows, locate_tokens
from autoadapt.contracts.capturing.probing import Observation
from autoadapt.contracts.capturing.solving import Solution
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.leaves import READ
from autoadapt.contracts.tapping import tap
from autoadapt.contracts.trees import flatten
from autoadapt.contracts.views import eval_copy


@dataclass
class FixedImages:
    """A module of one image size, its example call, and what the caller states about its token axes.

    Grids are read from the shapes of inner outputs. Where these do not explain the tokens of most blocks, the module
    runs once for real, on images with changed patches.
    """

    module: nn.Module
    arguments: Arguments
    axes: InputAxes
    declared: Mapping[str, TokenGrid]
    ran: bool = False
    """Whether it has run the module for real."""

    def read(
        self,
        solution: Solution,
        first: Observation,
        inside: Mapping[InnerKey, InnerLeaf],
        attending: Collection[str] = (),
    ) -> tuple[Solution, tuple[str, ...]]:
        """Replace constant dims that are heights, widths or numbers of tokens by functions of H and W.

        Args:
            solution: What was found so far.
            first: The run at the fixed size.
            inside: The inner outputs in it.
            attending: Paths of attention modules, whose attention weights look like maps and are none.

        Returns:
            The solution, and the outputs of blocks whose tokens could not be read.
        """
        sizes = self.axes.example
        height, width, frames = sizes["H"], sizes["W"], sizes.get("T", 0)
        shapes = [leaf.shape for key, leaf in inside.items() if not self._weighs_tokens(key, attending)]
        reader = GridReader(height, width, frames, shapes=[*shapes, *first.shapes], declared=self.declared)
        unread = self._unread(reader, inside)
        if unread:
            tokens = inside[unread[0]].shape[1]
            answer = self._declared_for(inside, tokens) or self._perturbed(unread[0], tokens)
            if answer is not None:
                reader.locate(tokens, *answer)
                unread = []
        names = first.paths
        outputs = zip(solution.outputs, first.shapes, names, strict=True)
        side = {"H": Dim(height), "W": Dim(width)}

        def filled_in(dims: tuple[Dim, ...], shape: tuple[int, ...], name: str) -> tuple[Dim, ...]:
            return _filled_in(dims, _read(reader, dims, shape, name), side)

        inner = {key: filled_in(dims, first.inner[key].shape, key[0]) for key, dims in solution.inner.items()}
        read = replace(solution, outputs=tuple(filled_in(*row) for row in outputs), inner=inner)
        return read, tuple(key[0] for key in unread)

    def _weighs_tokens(self, key: InnerKey, attending: Collection[str]) -> bool:
        """Whether a tensor holds attention weights: a softmax inside of an attention module returned it, or dropout."""
        above = any(key[0].startswith(f"{path}.") for path in attending)
        return above and isinstance(self.module.get_submodule(key[0]), (nn.Softmax, nn.Dropout, nn.Identity))

    def _unread(self, reader: GridReader, inside: Mapping[InnerKey, InnerLeaf]) -> list[InnerKey]:
        """The outputs of most blocks, in order, if they are tokens whose number no grid explains.

        None where at least half as many blocks before them return explained tokens: those were merged on the way.
        """
        named = dict(self.module.named_modules())
        batch = self.axes.example.get("B")
        blocks = [
            key
            for key, leaf in inside.items()
            if key[2] != READ and _is_tokens(leaf) and leaf.shape[0] == batch and is_block(named[key[0]])
        ]
        counts = Counter(inside[key].shape[1] for key in blocks)
        if not counts:
            return []
        tokens = max(counts, key=lambda count: counts[count])
        found = [key for key in blocks if inside[key].shape[1] == tokens]
        begin = min(inside[key].finished for key in found)
        known = [key for key in blocks if any(dim.axes for dim in reader.read(inside[key].shape, key[0]))]
        merged = 2 * sum(inside[key].finished < begin for key in known) >= len(found)
        return [] if found[0] in known or merged or tokens < 4 else sorted(found, key=lambda key: inside[key].finished)

    def _declared_for(self, inside: Mapping[InnerKey, InnerLeaf], tokens: int) -> tuple[Grid, int] | None:
        """The grid that the caller stated for any tensor of as many tokens."""
        for (path, _, _), leaf in inside.items():
            if path in self.declared and _is_tokens(leaf) and leaf.shape[1] == tokens:
                told = self.declared[path]
                return told.grid, told.extra
        return None

    def _perturbed(self, key: InnerKey, tokens: int) -> tuple[Grid, int] | None:
        """The grid that a run on images with changed patches shows; None where weights have no values."""
        if on_meta_device(self.module):
            return None
        model = eval_copy(self.module)
        tap(model, [key])
        sizes = self.axes.example
        returned = run_on_images(model, self.arguments, self.axes, sizes, tokens, CENTRES)
        self.ran = True
        return None if returned is None else locate_tokens(returned[0], sizes["H"], sizes["W"], sizes.get("T", 1))


def _is_tokens(leaf: InnerLeaf) -> bool:
    return len(leaf.shape) == 3 and leaf.dtype.is_floating_point


def _read(reader: GridReader, dims: tuple[Dim, ...], shape: tuple[int, ...], name: str) -> list[Dim]:
    """The dims that a reader finds, for a batch on any axis."""
    batch = next((axis for axis, dim in enumerate(dims) if "B" in dim.axes), 0)
    read = list(reader.read((*shape[batch : batch + 1], *shape[:batch], *shape[batch + 1 :]), name))
    read[:batch], read[batch : batch + 1] = read[1 : batch + 1], read[:1]
    return read


def _filled_in(dims: tuple[Dim, ...], read: Sequence[Dim], sides: Mapping[str, Dim]) -> tuple[Dim, ...]:
    """The dims, with the grid's in place of constants and of dims that are equal to the grid's at these sides."""
    pairs = zip(dims, read, strict=True)
    return tuple(grid if not dim.axes or grid.substitute(sides) == dim else dim for dim, grid in pairs)


def rows_of_fixed_maps(
    module: nn.Module, arguments: Arguments, axes: InputAxes, outputs: Mapping[int, Sequence[Dim]]
) -> dict[int, int]:
    """The axis that lists rows, of each output that is a map of fixed size; columns are on the next axis.

    Args:
        module: The module; a copy of it is run.
        arguments: Its example call, with an image.
        axes: Its input axes.
        outputs: Dims of its outputs, by number.

    Returns:
        The axes by number of the output, without outputs whose cells do not change where patches did; empty where the
        module does not run.
    """
    maps = {i: dims for i, dims in outputs.items() if _is_fixed_map(dims)}
    if not maps or on_meta_device(module):
        return {}
    model = eval_copy(module)
    cells = min(min(int(dim.constant or 1) for dim in dims[1:]) ** 2 for dims in maps.values())
    returned = run_on_images(model, arguments, axes, axes.example, max(cells, 16), CENTRES)
    if returned is None:
        return {}
    tensors = flatten(returned)[1]
    found = {i: axis_of_rows(tensors[i]) for i in maps if _is_batch(tensors[i])}
    return {i: axis for i, axis in found.items() if axis is not None}


def _is_fixed_map(dims: Sequence[Dim]) -> bool:
    return len(dims) == 4 and dims[0] == Dim.axis("B") and all((dim.constant or 0) > 1 for dim in dims[1:])


def _is_batch(tensor: torch.Tensor) -> bool:
    """Whether a tensor has a sample for each of the images."""
    return tensor.is_floating_point() and len(tensor) == 1 + len(CENTRES)
