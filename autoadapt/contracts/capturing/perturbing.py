"""Perturbing: where the cells of an image or clip stand among tokens, told by which tokens move when a patch changes.

At a fixed size 52 tokens may be 6 x 8 cells behind 4 others, in rows or in columns, or something else. Each of these
readings says which tokens lie around a patch; the right one is that whose tokens answer most. An image is a clip of one
frame.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from autoadapt.contracts.capturing.cell_grid import Grid
from autoadapt.contracts.capturing.grids import LARGEST_STRIDE, MOST_PREFIX_TOKENS
from autoadapt.contracts.signature import Cells, in_order

__all__ = [
    "CENTRES",
    "CLIP_CENTRES",
    "CORNERS",
    "ORDER_CENTRES",
    "axes_of_cells",
    "axis_of_rows",
    "locate_tokens",
    "order_of_tokens",
    "patches",
    "responses",
]

Centre: TypeAlias = tuple[float, float, float]
"""A place, in shares of height, width and time."""

CENTRES: tuple[Centre, ...] = (
    (0.0, 0.0, 0.0),
    (0.2, 0.3, 0.6),
    (0.7, 0.15, 0.3),
    (0.35, 0.8, 0.55),
    (0.999, 0.999, 0.999),
)
"""Where patches are changed; no symmetry maps them to each other."""

CLEAR = 1.5
"""How much stronger the tokens of the right reading must answer than of any that explains as many of them."""


@dataclass(frozen=True)
class _Reading:
    """Tokens as the cells of a grid."""

    grid: Grid
    before: int
    """Tokens that stand before the cells."""
    cells: Cells = "rows"

    def answers(self, response_N: torch.Tensor) -> torch.Tensor:
        """The response of each cell, `[frames, rows, columns]`."""
        found = response_N[self.before : self.before + self.grid.cells]
        axes = in_order("THW", self.cells)
        return found.reshape([self.grid.sides[axis] for axis in axes]).permute([axes.index(axis) for axis in "THW"])

    def cell(self, centre: Centre) -> tuple[int, int, int]:
        """The cell that a place lies in."""
        y, x, t = centre
        return int(t * self.grid.frames), int(y * self.grid.height), int(x * self.grid.width)


def _orders(grid: Grid) -> tuple[Cells, ...]:
    """In which orders cells may stand."""
    return ("rows", "columns") if grid.frames == 1 else ("rows", "columns", "HTW", "HWT", "TWH", "WTH")


def patches(
    image_CHW: torch.Tensor, tokens: int, centres: Sequence[Centre] = CENTRES, *, corners: int = 0
) -> torch.Tensor:
    """An image and copies of it with one patch changed, `[1 + P, C, H, W]`; patches are about as big as a token's.

    Of a clip or volume it is not known how long the cells of a token are along each side, so that its patches are a few
    pixels, changed the more.

    Args:
        image_CHW: The image; or a clip, `[C, T, H, W]`.
        tokens: How many patches fill it.
        centres: Where patches are changed, in shares of height and width.
        corners: In how many more copies a corner of twice that size is changed: the first, then the last.
    """
    if image_CHW.dim() == 4:
        return _blocks(image_CHW, tokens, centres, corners)
    height, width = image_CHW.shape[1:]
    side = max(round((height * width / tokens) ** 0.5), 1)
    images = image_CHW.expand(1 + len(centres) + corners, *image_CHW.shape).clone()
    for image, (y, x, _) in zip(images[1:], centres, strict=False):
        top, left = int(y * height) // side * side, int(x * width) // side * side
        image[:, top : top + side, left : left + side] += 3.0
    for image, end in zip(images[1 + len(centres) :], CORNERS, strict=False):
        part = slice(-2 * side, None) if end else slice(2 * side)
        image[:, part, part] += 3.0
    return images


def _blocks(clip_CTHW: torch.Tensor, tokens: int, centres: Sequence[Centre], corners: int) -> torch.Tensor:
    """A clip and copies of it with one block of pixels changed, and then corners."""
    sizes = clip_CTHW.shape[1:]
    of_token = math.prod(sizes) / tokens
    side = max(round(of_token ** (1 / 3) / 4), 1)
    clips = clip_CTHW.expand(1 + len(centres) + corners, *clip_CTHW.shape).clone()
    for clip, (y, x, t) in zip(clips[1:], centres, strict=False):
        starts = (min(int(share * size), size - side) for share, size in zip((t, y, x), sizes, strict=True))
        part = (slice(None), *(slice(start, start + side) for start in starts))
        clip[part] += 1.0 * max(of_token / side**3, 1.0) ** 0.5
    for clip, end in zip(clips[1 + len(centres) :], CORNERS, strict=False):
        corner = slice(-4 * side, None) if end else slice(4 * side)
        clip[:, corner, corner, corner] += 3.0
    return clips


def responses(tokens_BNC: torch.Tensor) -> torch.Tensor:
    """How strongly each token answers to each patch, `[P, N]`, for tokens of the images that `patches` makes."""
    changes_PN: torch.Tensor = (tokens_BNC[1:] - tokens_BNC[:1]).float().norm(dim=2)
    return changes_PN / changes_PN.mean(1, keepdim=True).clamp_min(1e-12)


def locate_tokens(tokens_BNC: torch.Tensor, height: int, width: int, frames: int = 1) -> tuple[Grid, int] | None:
    """The grid that tokens are, and how many others there are; None where no reading is clearly the best.

    Args:
        tokens_BNC: Tokens of the images that `patches` makes.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        frames: How many frames a clip has.
    """
    count = tokens_BNC.shape[1]
    answers = responses(tokens_BNC)
    best = _best({reading: _score(reading, answers, CENTRES) for reading in _readings(count, height, width, frames)})
    return None if best is None else (best.grid, count - best.grid.cells)


ORDER_CENTRES: tuple[Centre, ...] = ((0.15, 0.7, 0.35), (0.75, 0.3, 0.9))
"""Where patches are changed to tell the order of a grid that is known: no two orders of rows and columns have both of
them in one place."""
CLIP_CENTRES: tuple[Centre, ...] = (*ORDER_CENTRES, (0.3, 0.15, 0.9), (0.9, 0.75, 0.35))
"""The same for the six orders of three axes, also where a grid is of two cells along each."""


CORNERS = (0, 1)
"""The first and the last corner of an image: what stands before or behind the cells answers neither as they do."""


def order_of_tokens(
    responses_PN: torch.Tensor, grid: Grid, centres: Sequence[Centre] = ORDER_CENTRES
) -> tuple[Cells, int] | None:
    """In which order cells stand among tokens, and how many others stand behind them.

    Args:
        responses_PN: How strongly the tokens answer to patches at the centres, and then to `CORNERS`, if told.
        grid: The cells; the other tokens stand before them, behind them, or on both sides.
        centres: Where patches were changed.

    Returns:
        The order, `unknown` where each patch moves one place most and these are not those of any order that is read;
        None where all tokens move alike, which tells nothing.
    """
    responses_PN, corners_PN = responses_PN[: len(centres)], responses_PN[len(centres) :]
    extra = responses_PN.shape[1] - grid.cells
    peak = _peak(responses_PN)
    near = False
    for before in (dict.fromkeys([0, extra]), range(extra + 1)):
        readings = [_Reading(grid, count, cells) for count in before for cells in _orders(grid)]
        scores = {reading: _score(reading, responses_PN, centres) for reading in readings}
        near = near or NEAR_PEAK * max(scores.values()) >= peak
        best = _by_corners(scores, corners_PN, extra) or _best(scores)
        if best is not None and NEAR_PEAK * _score(best, responses_PN, centres) >= peak:
            return best.cells, extra - best.before
    apart = len(set(responses_PN.argmax(1).tolist())) == len(responses_PN)
    return ("unknown", 0) if apart and not near and bool((responses_PN.amax(1) >= STRONG).all()) else None


def axes_of_cells(map_BXYZ: torch.Tensor, taken: tuple[int, int], grid: Grid) -> tuple[int, int]:
    """Which axes of a map count rows and columns, where sizes alone allow several.

    Args:
        map_BXYZ: Maps of the images that `patches` makes with `ORDER_CENTRES` first.
        taken: The axes that are taken for rows and columns; these unless others answer clearly more.
        grid: How many rows and columns there are.
    """
    fitting = [pair for pair in itertools.permutations((1, 2, 3), 2) if _sizes_at(map_BXYZ, pair) == grid]
    scores = {pair: _score(_Reading(grid, 0), _cell_responses(map_BXYZ, pair), ORDER_CENTRES) for pair in fitting}
    best = max(scores, key=lambda pair: scores[pair], default=taken)
    if best == taken or scores[best] < CLEAR * max(1.0, scores.get(taken, 0.0)):
        return taken
    return best if AT_PEAK * scores[best] >= _peak(_cell_responses(map_BXYZ, best)) else taken


def axis_of_rows(map_BXYZ: torch.Tensor) -> int | None:
    """Which axis of a map lists rows, before columns: behind the channels, or in front of them.

    Args:
        map_BXYZ: Maps of the images that `patches` makes.

    Returns:
        The axis; None where no cells answer clearly most at the places of the patches.
    """
    scores = dict[int, float]()
    for axis in (1, 2):
        cells_BNC = map_BXYZ.movedim((axis, axis + 1), (1, 2)).flatten(1, 2)
        grid = Grid(*map_BXYZ.shape[axis : axis + 2])
        scores[axis] = _score(_Reading(grid, 0), responses(cells_BNC), CENTRES)
    best = max(scores, key=lambda axis: scores[axis])
    return best if scores[best] >= CLEAR * max(1.0, scores[3 - best]) else None


def _sizes_at(tensor: torch.Tensor, pair: tuple[int, int]) -> Grid:
    return Grid(tensor.shape[pair[0]], tensor.shape[pair[1]])


def _cell_responses(map_BXYZ: torch.Tensor, pair: tuple[int, int]) -> torch.Tensor:
    """How strongly each cell answers to each patch, if cells lie along these axes."""
    return responses(map_BXYZ.movedim(pair, (1, 2)).flatten(1, 2))[: len(ORDER_CENTRES)]


def _by_corners(scores: Mapping[_Reading, float], corners_PN: torch.Tensor, extra: int) -> _Reading | None:
    """The reading that the cells in the corners tell, which see what stands before the cells and what behind.

    Where cells are smooth, as interpolated ones are, a shift by one makes no clear difference elsewhere.
    """
    best = max(scores, key=lambda reading: scores[reading])
    others = [score for one, score in scores.items() if one.cells != best.cells]
    if not len(corners_PN) or scores[best] < CLEAR * max([1.0, *others]):
        return None
    alike = [_Reading(best.grid, before, best.cells) for before in range(extra + 1)]
    return _best({one: min(float(one.answers(corners_PN[end])[-end, -end, -end]) for end in CORNERS) for one in alike})


def _peak(responses_PN: torch.Tensor) -> float:
    """How strongly the tokens answer that answer most."""
    return float(responses_PN.amax(1).log().mean().exp())


NEAR_PEAK = 4.0
"""How much stronger than the cells of a reading any token may answer: next to one that moves all seem to move."""

AT_PEAK = 2.0
"""How much stronger than the cells at the patches any may answer where axes are said to be exchanged."""

STRONG = 3.0
"""How much stronger than the average token one must answer to be the place of a patch."""


def _best(scores: Mapping[_Reading, float]) -> _Reading | None:
    """The reading whose tokens answer clearly most; one that explains fewer of them does not contest that."""
    if not scores:
        return None
    best = max(scores, key=lambda reading: scores[reading])
    plainer = [score for one, score in scores.items() if one != best and one.grid.cells >= best.grid.cells]
    return best if scores[best] >= CLEAR * max([1.0, *plainer]) else None


def _readings(count: int, height: int, width: int, frames: int) -> Iterator[_Reading]:
    """Grids of one stride with up to 16 other tokens before or behind them, in every order."""
    grids = _grids(height, width, frames, count)
    for grid in sorted(grids, key=lambda grid: -grid.cells):
        extra = count - grid.cells
        if min(grid.height, grid.width) >= 2 and 0 <= extra <= MOST_PREFIX_TOKENS:
            for before in sorted({0, extra}):
                for cells in _orders(grid):
                    yield _Reading(grid, before, cells)


def _grids(height: int, width: int, frames: int, most: int) -> set[Grid]:
    """Grids of one stride along height and width, or in clips along any two sides, up to so many cells."""

    def counts(size: int, stride: int) -> set[int]:
        return {size // stride, -(-size // stride)}

    sizes, found = (height, width, frames), set[Grid]()
    for stride in range(2, LARGEST_STRIDE + 1):
        for alone in (2, 1, 0) if frames > 1 else (2,):
            others = range(1, min(sizes[alone], LARGEST_STRIDE) + 1)
            sides = [
                set().union(*(counts(size, one) for one in others)) if axis == alone else counts(size, stride)
                for axis, size in enumerate(sizes)
            ]
            found |= {Grid(*counted) for counted in itertools.product(*sides) if 0 < math.prod(counted) <= most}
    return found


def _score(reading: _Reading, responses_PN: torch.Tensor, centres: Sequence[Centre]) -> float:
    """How much stronger than the average token those at a changed patch answer, and, half as much, around it.

    The geometric mean over patches: a wrong reading misses some of them.
    """
    found = []
    for response_N, centre in zip(responses_PN, centres, strict=True):
        cells, place = reading.answers(response_N), reading.cell(centre)
        around = cells[tuple(slice(max(at - 1, 0), at + 2) for at in place)]
        found.append(float(cells[place] + around.mean() / 2) / 1.5)
    return math.prod(max(one, 1e-3) for one in found) ** (1 / len(found))
