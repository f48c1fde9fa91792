"""Perturbing: where the cells of an image or clip are among tokens, from the tokens that change when a patch does.

At a fixed size 52 tokens may be 6 x 8 cells behind 4 others, in rows or in columns, or something else. Each such
reading says which tokens lie around a patch; in the right one these tokens change most. An image is a clip of one
frame.

The response of a token to a patch is how far it changes, relative to the mean over all tokens.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch

from autoadapt.contracts.capturing.cell_grid import Grid
from autoadapt.contracts.capturing.grids import LARGEST_STRIDE, MOST_PREFIX_TOKENS
from autoadapt.contracts.signature import Cells, in_order

Centre: TypeAlias = tuple[float, float, float]
"""A place, as fractions of height, width and time."""

Responses: TypeAlias = npt.NDArray[np.float32]
"""Responses of tokens or cells; NumPy looks at so few values in a fifth of the time that PyTorch takes."""

CENTRES: tuple[Centre, ...] = (
    (0.0, 0.0, 0.0),
    (0.2, 0.3, 0.6),
    (0.7, 0.15, 0.3),
    (0.35, 0.8, 0.55),
    (0.999, 0.999, 0.999),
)
"""Where patches are changed; no symmetry maps them to each other."""

CLEAR = 1.5
"""The factor by which the best reading's score must exceed that of any other with as many cells."""


@dataclass(frozen=True)
class _Reading:
    """A hypothesis: which tokens are the cells of which grid, in which order."""

    grid: Grid
    before: int
    """Tokens before the cells."""
    cells: Cells = "rows"

    def answers(self, response_N: Responses) -> Responses:
        """The response of each cell, `[frames, rows, columns]`."""
        found = response_N[self.before : self.before + self.grid.cells]
        axes = in_order("THW", self.cells)
        sides, order = [self.grid.sides[axis] for axis in axes], [axes.index(axis) for axis in "THW"]
        cells: Responses = found.reshape(sides).transpose(order)
        return cells

    def cell(self, centre: Centre) -> tuple[int, int, int]:
        """The cell that a place lies in."""
        y, x, t = centre
        return int(t * self.grid.frames), int(y * self.grid.height), int(x * self.grid.width)


def _orders(grid: Grid) -> tuple[Cells, ...]:
    """The possible orders of the cells of a grid."""
    return ("rows", "columns") if grid.frames == 1 else ("rows", "columns", "HTW", "HWT", "TWH", "WTH")


def patches(
    image_CHW: torch.Tensor, tokens: int, centres: Sequence[Centre] = CENTRES, *, corners: int = 0
) -> torch.Tensor:
    """An image and copies of it with one patch changed, `[1 + P, C, H, W]`; a patch is about as large as a cell.

    In a clip or volume the sides of a cell are not known, so patches are a few pixels wide there and changed more.

    Args:
        image_CHW: The image; or a clip, `[C, T, H, W]`.
        tokens: How many patches fill it.
        centres: Where patches are changed, as fractions of height, width and time.
        corners: In how many further copies a corner of twice that size is changed: the first, then the last.
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
    """As `patches`, for a clip `[C, T, H, W]`."""
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


def responses(tokens_BNC: torch.Tensor) -> Responses:
    """The response of each token to each patch, `[P, N]`, from the tokens of the images that `patches` makes."""
    values_BNC: Responses = tokens_BNC.detach().float().cpu().numpy()
    with np.errstate(all="ignore"):  # they may be infinite
        changes_PN = np.linalg.norm(values_BNC[1:] - values_BNC[:1], axis=2)
        found: Responses = changes_PN / np.maximum(changes_PN.mean(1, keepdims=True), 1e-12)
    return found


def locate_tokens(tokens_BNC: torch.Tensor, height: int, width: int, frames: int = 1) -> tuple[Grid, int] | None:
    """The grid of some tokens, and the number of tokens that are no cells; None where no reading is clearly the best.

    Args:
        tokens_BNC: Tokens of the images that `patches` makes.
        height: Height of the images in pixels.
        width: Width of the images in pixels.
        frames: Frames of a clip; 1 for images.
    """
    count = tokens_BNC.shape[1]
    answers = responses(tokens_BNC)
    best = _best({reading: _score(reading, answers, CENTRES) for reading in _readings(count, height, width, frames)})
    return None if best is None else (best.grid, count - best.grid.cells)


ORDER_CENTRES: tuple[Centre, ...] = ((0.15, 0.7, 0.35), (0.75, 0.3, 0.9))
"""Where patches are changed to measure the order of a known grid: no two orders put both of them at the same tokens."""
CLIP_CENTRES: tuple[Centre, ...] = (*ORDER_CENTRES, (0.3, 0.15, 0.9), (0.9, 0.75, 0.35))
"""The same for the six orders of three axes, even where a grid has only two cells along each."""


CORNERS = (0, 1)
"""The first and the last corner of an image; the tokens before and behind the cells respond to neither as cells do."""


def order_of_tokens(
    responses_PN: Responses, grid: Grid, centres: Sequence[Centre] = ORDER_CENTRES
) -> tuple[Cells, int] | None:
    """The order of the cells among tokens, and the number of other tokens behind them.

    Args:
        responses_PN: Responses of the tokens to patches at the centres, then to `CORNERS`, where these were changed.
        grid: The cells; the other tokens are before them, behind them, or on both sides.
        centres: Where patches were changed.

    Returns:
        The order; `unknown` where each patch clearly has a token of its own and no order explains which; None where
        all tokens change alike.
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
    return ("unknown", 0) if apart and not near and bool((responses_PN.max(1) >= STRONG).all()) else None


def axes_of_cells(map_BXYZ: torch.Tensor, taken: tuple[int, int], grid: Grid) -> tuple[int, int]:
    """The axes of rows and columns of a map, where several axes have these sizes.

    Args:
        map_BXYZ: The maps of the images that `patches` makes with `ORDER_CENTRES` first.
        taken: The axes taken for rows and columns so far, which are kept unless others fit clearly better.
        grid: The numbers of rows and columns.
    """
    fitting = [pair for pair in itertools.permutations((1, 2, 3), 2) if _sizes_at(map_BXYZ, pair) == grid]
    scores = {pair: _score(_Reading(grid, 0), _cell_responses(map_BXYZ, pair), ORDER_CENTRES) for pair in fitting}
    best = max(scores, key=lambda pair: scores[pair], default=taken)
    if best == taken or scores[best] < CLEAR * max(1.0, scores.get(taken, 0.0)):
        return taken
    return best if AT_PEAK * scores[best] >= _peak(_cell_responses(map_BXYZ, best)) else taken


def axis_of_rows(map_BXYZ: torch.Tensor) -> int | None:
    """The axis of rows of a map: 2 with channels first, 1 with channels last.

    Args:
        map_BXYZ: The maps of the images that `patches` makes.

    Returns:
        The axis; None where the cells at the patches do not clearly respond most.
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


def _cell_responses(map_BXYZ: torch.Tensor, pair: tuple[int, int]) -> Responses:
    """The response of each cell to each patch, if rows and columns are on these axes."""
    return responses(map_BXYZ.movedim(pair, (1, 2)).flatten(1, 2))[: len(ORDER_CENTRES)]


def _by_corners(scores: Mapping[_Reading, float], corners_PN: Responses, extra: int) -> _Reading | None:
    """The reading by the responses to the corners, which distinguish tokens before the cells from those behind.

    Where neighbouring cells are alike, as after interpolation, a shift by one token makes no clear difference
    elsewhere.
    """
    best = max(scores, key=lambda reading: scores[reading])
    others = [score for one, score in scores.items() if one.cells != best.cells]
    if not len(corners_PN) or scores[best] < CLEAR * max([1.0, *others]):
        return None
    alike = [_Reading(best.grid, before, best.cells) for before in range(extra + 1)]
    return _best({one: min(float(one.answers(corners_PN[end])[-end, -end, -end]) for end in CORNERS) for one in alike})


def _peak(responses_PN: Responses) -> float:
    """The strongest response to each patch, as a geometric mean over the patches."""
    with np.errstate(divide="ignore"):  # there may be none
        return float(np.exp(np.log(responses_PN.max(1)).mean()))


NEAR_PEAK = 4.0
"""The factor by which the strongest response of any token may exceed the score of a reading."""

AT_PEAK = 2.0
"""The same, where the axes of a map are found to be others than those taken so far."""

STRONG = 3.0
"""The least response of the token of a patch: 1 is the mean of all tokens."""


def _best(scores: Mapping[_Reading, float]) -> _Reading | None:
    """The reading of the highest score, if it is clearly above 1 and above those of readings with as many cells."""
    if not scores:
        return None
    best = max(scores, key=lambda reading: scores[reading])
    plainer = [score for one, score in scores.items() if one != best and one.grid.cells >= best.grid.cells]
    return best if scores[best] >= CLEAR * max([1.0, *plainer]) else None


def _readings(count: int, height: int, width: int, frames: int) -> Iterator[_Reading]:
    """Readings of tokens as a grid of one stride, in every order, with up to 16 other tokens before or behind it."""
    grids = _grids(height, width, frames, count)
    for grid in sorted(grids, key=lambda grid: -grid.cells):
        extra = count - grid.cells
        if min(grid.height, grid.width) >= 2 and 0 <= extra <= MOST_PREFIX_TOKENS:
            for before in sorted({0, extra}):
                for cells in _orders(grid):
                    yield _Reading(grid, before, cells)


def _grids(height: int, width: int, frames: int, most: int) -> set[Grid]:
    """Grids of at most `most` cells with one stride along height and width, or in clips along any two sides."""

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


def _score(reading: _Reading, responses_PN: Responses, centres: Sequence[Centre]) -> float:
    """The response of the cells at the patches, and with half the weight around them; the geometric mean over patches.

    1 is the mean of all tokens. A wrong reading misses some of the patches.
    """
    found = []
    for response_N, centre in zip(responses_PN, centres, strict=True):
        cells, place = reading.answers(response_N), reading.cell(centre)
        around = cells[tuple(slice(max(at - 1, 0), at + 2) for at in place)]
        found.append(float(cells[place] + around.mean() / 2) / 1.5)
    return math.prod(max(one, 1e-3) for one in found) ** (1 / len(found))
