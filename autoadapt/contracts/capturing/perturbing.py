"""Perturbing: where the cells of an image stand among tokens, told by which tokens move when a patch changes.

At a fixed size 52 tokens may be 6 x 8 cells behind 4 others, in rows or in columns, or something else. Each of these
readings says which tokens lie around a patch; the right one is that whose tokens answer most.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from autoadapt.contracts.capturing.grids import LARGEST_STRIDE, MOST_PREFIX_TOKENS, Grid

__all__ = ["locate_tokens", "patches"]

_CENTRES = ((0.0, 0.0), (0.2, 0.3), (0.7, 0.15), (0.35, 0.8), (0.999, 0.999))
"""Where patches are changed, in shares of height and width; no symmetry maps them to each other."""

CLEAR = 1.5
"""How much stronger the tokens of the right reading must answer than of any that explains as many of them."""


@dataclass(frozen=True)
class _Reading:
    """Tokens as the cells of a grid."""

    grid: Grid
    before: int
    """Tokens that stand before the cells."""
    in_rows: bool = True

    def cells(self, response_N: torch.Tensor) -> torch.Tensor:
        """The response of each cell, `[rows, columns]`."""
        found = response_N[self.before : self.before + self.grid.cells]
        if self.in_rows:
            return found.reshape(self.grid.height, self.grid.width)
        return found.reshape(self.grid.width, self.grid.height).T


def patches(image_CHW: torch.Tensor, tokens: int) -> torch.Tensor:
    """An image and five copies of it with one patch changed, `[6, C, H, W]`; patches are about as big as a token's."""
    height, width = image_CHW.shape[1:]
    side = max(round((height * width / tokens) ** 0.5), 1)
    images = image_CHW.expand(1 + len(_CENTRES), *image_CHW.shape).clone()
    for image, (y, x) in zip(images[1:], _CENTRES, strict=True):
        top, left = int(y * height) // side * side, int(x * width) // side * side
        image[:, top : top + side, left : left + side] += 3.0
    return images


def locate_tokens(tokens_BNC: torch.Tensor, height: int, width: int) -> tuple[Grid, int] | None:
    """The grid that tokens are, in rows, and how many stand before it; None where no reading is clearly the best.

    Args:
        tokens_BNC: Tokens of the images that `patches` makes.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
    """
    responses_BN = (tokens_BNC[1:] - tokens_BNC[:1]).float().norm(dim=2)
    responses_BN = responses_BN / responses_BN.mean(1, keepdim=True).clamp_min(1e-12)
    count = tokens_BNC.shape[1]
    scores = {reading: _score(reading, responses_BN) for reading in _readings(count, height, width)}
    if not scores:
        return None
    best = max(scores, key=lambda reading: scores[reading])
    plainer = [score for reading, score in scores.items() if reading != best and reading.before <= best.before]
    leads = best.in_rows and best.before + best.grid.cells == count
    return (best.grid, best.before) if leads and scores[best] >= CLEAR * max([1.0, *plainer]) else None


def _readings(count: int, height: int, width: int) -> Iterator[_Reading]:
    """Grids of one stride with up to 16 other tokens before or behind them, in rows and in columns."""
    grids = {
        Grid(rows, columns)
        for stride in range(2, LARGEST_STRIDE + 1)
        for rows in {height // stride, -(-height // stride)}
        for columns in {width // stride, -(-width // stride)}
    }
    for grid in sorted(grids, key=lambda grid: -grid.cells):
        extra = count - grid.cells
        if min(grid.height, grid.width) >= 2 and 0 <= extra <= MOST_PREFIX_TOKENS:
            for before in sorted({0, extra}):
                yield _Reading(grid, before)
                yield _Reading(grid, before, in_rows=False)


def _score(reading: _Reading, responses_BN: torch.Tensor) -> float:
    """How much stronger than the average token those at a changed patch answer, and, half as much, around it.

    The geometric mean over patches: a wrong reading misses some of them.
    """
    found = []
    for response_N, (y, x) in zip(responses_BN, _CENTRES, strict=True):
        cells = reading.cells(response_N)
        row, column = int(y * reading.grid.height), int(x * reading.grid.width)
        around = cells[max(row - 1, 0) : row + 2, max(column - 1, 0) : column + 2]
        found.append(float(cells[row, column] + around.mean() / 2) / 1.5)
    return math.prod(max(one, 1e-3) for one in found) ** (1 / len(found))
