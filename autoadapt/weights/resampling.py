"""Resampling: tables of tokens and kernels of patches brought to another grid, and axes of time to another length."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from autoadapt.errors import Mismatch, TransferError
from autoadapt.weights.patterns import Pattern, pattern_text
from autoadapt.weights.tensor_specs import shape_text

Grids: TypeAlias = "Mapping[Pattern, tuple[Sequence[int], Sequence[int], int]]"
"""Old grid, new grid and tokens in front of both, by pattern of names."""

_TOKENS = (0, 1, 2, 5)  # class, distillation and register tokens in front of a grid
_POSITIONS = {"pos", "posemb", "posembed", "position", "positions", "positional"}
_QUERIES = {"query", "queries", "tgt", "target", "object"}


@dataclass(frozen=True)
class Grid:
    """How the tokens of a table lie.

    Args:
        old: Rows and columns before.
        new: Rows and columns now.
        tokens: Tokens in front, which are no cells.
    """

    old: tuple[int, int]
    new: tuple[int, int]
    tokens: int = 0

    def __str__(self) -> str:
        kept = f", {self.tokens} token{'s' * (self.tokens > 1)} kept" if self.tokens else ""
        return f"resample: {shape_text(self.old)} -> {shape_text(self.new)} grid{kept}"


def read_grids(grids: Grids) -> dict[Pattern, Grid]:
    """Read the argument `grid`.

    Raises:
        TransferError: If an entry is no pair of grids with a number of tokens.
    """
    found, faults = {}, []
    for pattern, value in grids.items():
        try:
            (a, b), (c, d), tokens = value
            numbers = (a, b, c, d)
            if not all(type(n) is int and n > 0 for n in numbers) or type(tokens) is not int or tokens < 0:
                raise ValueError
            found[pattern] = Grid((a, b), (c, d), tokens)
        except (TypeError, ValueError):
            remedy = f'grid={{"{pattern_text(pattern)}": ((14, 14), (24, 24), 1)}}'
            where = f"grid, {pattern_text(pattern)}"
            faults.append(Mismatch(where, "old grid, new grid, tokens in front", repr(value), remedy))
    if faults:
        raise TransferError("grid is malformed", faults)
    return found


def find_grid(old: tuple[int, ...], new: tuple[int, ...]) -> Grid | None:
    """The grid that shapes tell, if they tell one: square, or with rows and columns as axes of their own.

    Example:
        >>> find_grid((1, 197, 192), (1, 101, 192))
        Grid(old=(14, 14), new=(10, 10), tokens=1)
    """
    if len(old) != len(new):
        return None
    differing = [axis for axis, (a, b) in enumerate(zip(old, new, strict=True)) if a != b]
    if len(old) == 4 and (set(differing) <= {2, 3} or set(differing) <= {1, 2}):
        at = 2 if set(differing) <= {2, 3} else 1
        return Grid((old[at], old[at + 1]), (new[at], new[at + 1]))
    if len(old) not in (2, 3) or differing != [len(old) - 2]:
        return None
    a, b = old[-2], new[-2]
    fits = [t for t in _TOKENS if min(a, b) > t and _is_square(a - t) and _is_square(b - t)]
    if len(fits) != 1:
        return None
    return Grid((math.isqrt(a - fits[0]),) * 2, (math.isqrt(b - fits[0]),) * 2, fits[0])


def names_grid(name: str, shape: tuple[int, ...], grid: Grid) -> bool:
    """Whether a table is one of positions on a grid, by the words of its name.

    A table `[tokens, channels]` without a token in front may as well be one of steps in a text, whose usual counts
    (256, 1024) are squares: it has to be named as one of images, or of relative positions.

    Example:
        >>> names_grid("query_embed.weight", (100, 256), Grid((10, 10), (30, 30)))
        False
        >>> names_grid("layers.0.attn.relative_position_bias_table", (169, 3), Grid((13, 13), (23, 23)))
        True
    """
    words = re.split(r"[._]", name.lower())
    own = words if len(words) < 2 else re.split(r"[._]", name.lower().removesuffix(".weight").rpartition(".")[2])
    if not _POSITIONS & set(own) or _QUERIES & set(own):
        return False
    seen = any(word.startswith(("vis", "image", "img", "patch", "relative")) for word in words)
    return len(shape) > 2 or grid.tokens > 0 or seen


def _is_square(number: int) -> bool:
    return math.isqrt(number) ** 2 == number


def fit_grid(grid: Grid, old: tuple[int, ...], new: tuple[int, ...]) -> str:
    """Why a grid that was told is not that of a table; empty if it is.

    Example:
        >>> fit_grid(Grid((12, 101), (12, 41), 2), (1, 1214, 768), (1, 494, 768))
        ''
        >>> fit_grid(Grid((12, 101), (12, 41)), (1, 1214, 768), (1, 494, 768))
        'the grid told has 1212 -> 492 tokens, the table 1214 -> 494'
    """
    if not 2 <= len(old) == len(new) <= 3 or (*old[:-2], old[-1]) != (*new[:-2], new[-1]):
        return "the grid told is for a table of tokens, [tokens, channels] or [1, tokens, channels]"
    told = [math.prod(cells) + grid.tokens for cells in (grid.old, grid.new)]
    if told == [old[-2], new[-2]]:
        return ""
    return f"the grid told has {told[0]} -> {told[1]} tokens, the table {old[-2]} -> {new[-2]}"


def resampled(tensor: Tensor, shape: tuple[int, ...], grid: Grid) -> Tensor:
    """A table on its new grid: bicubic, with the tokens in front as they are.

    Args:
        tensor: `[N, C]`, `[B, N, C]`, `[B, C, H, W]` or `[B, H, W, C]`.
        shape: That of the result.
        grid: Old and new grid.
    """
    if tensor.ndim == 4:
        last = tuple(tensor.shape[:2]) == shape[:2]
        image_BCHW = tensor if last else tensor.permute(0, 3, 1, 2)
        resized_BCHW = _bicubic(image_BCHW, grid.new)
        return resized_BCHW if last else resized_BCHW.permute(0, 2, 3, 1)
    table_BNC = tensor.reshape(-1, tensor.shape[-2], tensor.shape[-1])
    cells_BNC = table_BNC[:, grid.tokens :]
    image_BCHW = cells_BNC.reshape(len(table_BNC), *grid.old, -1).permute(0, 3, 1, 2)
    resized_BNC = _bicubic(image_BCHW, grid.new).permute(0, 2, 3, 1).flatten(1, 2)
    return torch.cat([table_BNC[:, : grid.tokens], resized_BNC], dim=1).reshape(shape)


def _bicubic(image_BCHW: Tensor, size: tuple[int, int]) -> Tensor:
    resized: Tensor = F.interpolate(image_BCHW.float(), size=size, mode="bicubic", align_corners=False, antialias=True)
    return resized.to(image_BCHW.dtype)


def resized_patches(weight_OIHW: Tensor, size: tuple[int, int]) -> Tensor:
    """A kernel of patches of another size, which answers on resized patches as the old one did on the old.

    Larger patches exactly, smaller ones in the least squares: `pinv(B^T) w`, where B resizes a patch (Beyer et al.,
    FlexiViT, arXiv:2212.08013; timm's `resample_patch_embed`).
    """
    old = tuple(weight_OIHW.shape[2:])
    cells = math.prod(old)
    resize = _bicubic(torch.eye(cells).reshape(cells, 1, *old), size).flatten(1)
    resized: Tensor = weight_OIHW.float().cpu().flatten(2) @ torch.linalg.pinv(resize).T
    return resized.reshape(*weight_OIHW.shape[:2], *size).to(weight_OIHW)


def over_time(tensor: Tensor, length: int, axis: int) -> Tensor:
    """An axis brought to another length, linearly."""
    last = tensor.movedim(axis, -1)
    flat_BCT = last.reshape(1, -1, last.shape[-1])
    resized_BCT = F.interpolate(flat_BCT.float(), size=length, mode="linear", align_corners=False)
    return resized_BCT.to(tensor.dtype).reshape(*last.shape[:-1], length).movedim(-1, axis)
