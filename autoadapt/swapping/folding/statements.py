"""Statements: what the channels of a tensor are, as a matrix times channels that need no projection."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate

import torch

STALE = "it was added to in place, and is read by its old name; `a = a.add_(b)` in place of `a.add_(b)` folds"
"""Why a tensor cannot be read that is another one in the folded model, where sums are made anew."""

_MOST = 2**26
"""The largest matrix that is made."""

# Dimension letters: D channels that the model reads, M channels that are handed on in their place.


class NotLinearError(Exception):
    """What is done with a tensor is not the same linear map of its channels at every place."""


@dataclass(frozen=True)
class Piece:
    """Channels that are handed on together."""

    level: str
    """The output of the adapted module that they are, without its projection; empty for any other tensor."""
    channels: int
    is_constant: bool = True
    """Whether a channel of ones comes out as ones at every place: no padding on the way, no factor."""

    merged: int = 1
    """How many places stand after each of its channels, on the same axis."""

    @property
    def columns(self) -> int:
        """How many columns of the matrix are its own: a level has one more, for the offset of its projection."""
        return (self.channels + bool(self.level)) * self.merged


@dataclass(frozen=True, eq=False)
class Shuffle:
    """Channels that are spread over several axes: where each value of a tensor stood before."""

    shape: tuple[int, ...]
    """Of that tensor."""
    numbers: torch.Tensor
    """Of its places, in the order of the tensor that there is now."""


@dataclass(frozen=True, eq=False)
class Statement:
    """A tensor as the model has it is `matrix` times the pieces, one after the other on the same axis."""

    axis: int
    """Which axis of the tensor holds channels."""
    pieces: tuple[Piece, ...]
    matrix: torch.Tensor
    """`[D, M]`."""
    outer: int = 1
    """How many places stand before the channels on that axis, where it is merged with others."""
    inner: int = 1
    """How many stand after them."""
    shuffle: Shuffle | None = None
    """Where channels stand until they are on one axis again; the axis and the matrix are those of before."""
    is_stale: bool = False
    """Whether the tensor was changed in place to what a folded model makes anew; see `STALE`."""

    @property
    def levels(self) -> list[str]:
        """The outputs that it is made of."""
        return [piece.level for piece in self.pieces if piece.level]

    @property
    def channels(self) -> int:
        """How many channels the model has there."""
        return self.matrix.shape[0]

    def and_also(self, other: Statement) -> Statement | None:
        """What holds where both do, as at several sizes: ones are constant if they are in both; None if they differ."""
        if not self.without_constants().is_like(other.without_constants()):
            return None
        both = zip(self.pieces, other.pieces, strict=True)
        pieces = tuple(replace(one, is_constant=one.is_constant and two.is_constant) for one, two in both)
        return replace(self, pieces=pieces)

    def is_like(self, other: Statement) -> bool:
        """Whether both say the same."""
        mine, others = ((one.axis, one.outer, one.inner, one.pieces) for one in (self, other))
        if mine != others or (self.shuffle is None) != (other.shuffle is None):
            return False
        return torch.equal(self.matrix, other.matrix) and (
            self.shuffle is None or other.shuffle is None or torch.equal(self.shuffle.numbers, other.shuffle.numbers)
        )

    def flat(self) -> Statement:
        """The same where places that are merged with channels count as channels of their own.

        Raises:
            NotLinearError: That would be too many.
        """
        times = self.outer * self.inner
        if self.matrix.numel() * times**2 > _MOST:
            raise NotLinearError("channels merged with too many places")
        outer, inner = (torch.eye(size, dtype=self.matrix.dtype) for size in (self.outer, self.inner))
        pieces = tuple(replace(piece, merged=piece.merged * self.inner) for piece in self.pieces)
        matrix = torch.kron(outer, torch.kron(self.matrix, inner))
        return replace(self, pieces=pieces * self.outer, matrix=matrix, outer=1, inner=1)

    def of_rows(self, rows: Sequence[int]) -> Statement:
        """Of some of its channels; the same are handed on."""
        return replace(self, matrix=self.matrix[list(rows)])

    def without_constants(self) -> Statement:
        """After something that changes ones."""
        return replace(self, pieces=tuple(replace(piece, is_constant=False) for piece in self.pieces))

    def offsets(self) -> dict[str, tuple[torch.Tensor, bool]]:
        """For each output that it is made of its offset, `[D]`, and whether that is the same at every place."""
        found: dict[str, tuple[torch.Tensor, bool]] = {}
        for piece, column in self._offset_columns():
            before, was_constant = found.get(piece.level, (torch.zeros(()), True))
            offset_D = before + self.matrix[:, column].abs()
            found[piece.level] = offset_D, was_constant and piece.is_constant
        return found

    def split(self, ones: Collection[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """The matrix of what is handed on, `[D, M]`, and an offset, `[D]`.

        Args:
            ones: The outputs that are handed on with a channel of ones, whose column stays in the matrix.
        """
        gone = [column for piece, column in self._offset_columns() if piece.level not in ones]
        kept = [column for column in range(self.matrix.shape[1]) if column not in gone]
        return self.matrix[:, kept], self.matrix[:, gone].sum(1)

    def _offset_columns(self) -> list[tuple[Piece, int]]:
        found = zip(self.pieces, accumulate(piece.columns for piece in self.pieces), strict=True)
        return [(piece, column) for piece, end in found if piece.level for column in range(end - piece.merged, end)]


def level_statement(level: str, axis: int, weight_DC: torch.Tensor, offset_D: torch.Tensor) -> Statement:
    """An output of the adapted module, whose projection has a weight and an offset."""
    matrix = torch.cat([weight_DC.double(), offset_D.double()[:, None]], 1)
    return Statement(axis, (Piece(level, weight_DC.shape[1]),), matrix)


def plain_statement(axis: int, channels: int, size: int) -> Statement:
    """A tensor that comes from no adapter; one of a single channel stands for all that it is added to.

    Raises:
        NotLinearError: It has neither one channel nor as many.
    """
    if size not in (1, channels):
        raise NotLinearError(f"{size} channels where there are {channels}")
    matrix = torch.ones(channels, 1) if size < channels else torch.eye(channels)
    return Statement(axis, (Piece("", size),), matrix.double())


def joined(parts: Sequence[Statement]) -> Statement:
    """Tensors one after the other along their channels.

    Raises:
        NotLinearError: Their channels do not stand alike.
    """
    parts = _alike(parts)
    matrix = torch.block_diag(*(one.matrix for one in parts))  # type: ignore[no-untyped-call]
    return replace(parts[0], pieces=tuple(piece for one in parts for piece in one.pieces), matrix=matrix)


def summed(parts: Sequence[Statement], signs: Sequence[float]) -> Statement:
    """The sum of tensors, for which they are handed on one after the other.

    Raises:
        NotLinearError: Their channels do not stand alike.
    """
    parts = _alike(parts)
    matrix = torch.cat([sign * one.matrix for sign, one in zip(signs, parts, strict=True)], 1)
    return replace(parts[0], pieces=tuple(piece for one in parts for piece in one.pieces), matrix=matrix)


def _alike(parts: Sequence[Statement]) -> Sequence[Statement]:
    if len({one.axis for one in parts}) > 1:
        raise NotLinearError("channels stand on different axes")
    is_alike = {(one.outer, one.inner) for one in parts} == {(1, parts[0].inner)}
    return parts if is_alike else [one.flat() for one in parts]
