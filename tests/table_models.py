"""Vision transformers as people write them, of one image size by a table of positions that they add in some way."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

PATCH, WIDTH = 8, 16


class Base(nn.Module):
    """Patches, positions, two blocks, and the cells as a map."""

    leading, trailing = 0, 0

    def __init__(self, rows: int, columns: int) -> None:
        super().__init__()
        self.embed = nn.Conv2d(3, WIDTH, PATCH, PATCH)
        layer = nn.TransformerEncoderLayer(WIDTH, 2, 32, 0.0, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.place(rows, columns)

    def place(self, rows: int, columns: int) -> None:
        self.pos = nn.Parameter(torch.randn(1, rows * columns, WIDTH))

    def positioned(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens + self.pos

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        cells = self.embed(x)
        tokens = self.blocks(self.positioned(cells.flatten(2).transpose(1, 2)))
        end = tokens.shape[1] - self.trailing
        return tokens[:, self.leading : end].transpose(1, 2).unflatten(2, cells.shape[2:])

    def resized(self, rows: int, columns: int, grid: tuple[int, int]) -> Base:
        """The same weights, with the table resampled by hand."""
        made = type(self)(rows, columns)
        own = self.state_dict()
        for name, value in made.state_dict().items():
            own[name] = own[name] if own[name].shape == value.shape else self.by_hand(own[name], value, grid)
        made.load_state_dict(own)
        return made

    def by_hand(self, table: torch.Tensor, wanted: torch.Tensor, grid: tuple[int, int]) -> torch.Tensor:
        if not table.is_floating_point():
            return wanted
        rows = table.reshape(-1, WIDTH)
        before, after = rows[: self.leading], rows[self.leading + grid[0] * grid[1] :]
        cells = rows[self.leading : self.leading + grid[0] * grid[1]].T.reshape(1, WIDTH, *grid)
        count = wanted.numel() // WIDTH - len(before) - len(after)
        columns = self.wanted_columns
        moved = F.interpolate(cells, (count // columns, columns), mode="bicubic", antialias=True, align_corners=False)
        return torch.cat([before, moved.flatten(2)[0].T, after]).reshape(wanted.shape)

    wanted_columns = 0


class Flat(Base):
    """A table without a batch axis."""

    def place(self, rows, columns):
        self.pos = nn.Parameter(torch.randn(rows * columns, WIDTH))


class InBuffer(Base):
    def place(self, rows, columns):
        self.register_buffer("pos", torch.randn(1, rows * columns, WIDTH))

    def positioned(self, tokens):
        tokens = tokens * 2
        tokens += self.pos
        return tokens


class ClassToken(Base):
    leading = 1

    def place(self, rows, columns):
        self.cls = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos = nn.Parameter(torch.randn(1, rows * columns + 1, WIDTH))

    def positioned(self, tokens):
        tokens = torch.cat([self.cls.expand(len(tokens), -1, -1), tokens], 1)
        return torch.add(tokens, self.pos[:, : tokens.shape[1]])


class Registers(Base):
    leading, trailing = 3, 2

    def place(self, rows, columns):
        self.first = nn.Parameter(torch.randn(1, 3, WIDTH))
        self.last = nn.Parameter(torch.randn(1, 2, WIDTH))
        self.pos = nn.Parameter(torch.randn(1, rows * columns + 5, WIDTH))

    def positioned(self, tokens):
        count = len(tokens)
        return torch.cat([self.first.expand(count, -1, -1), tokens, self.last.expand(count, -1, -1)], 1) + self.pos


class Uncovered(ClassToken):
    """The class token has no place in the table."""

    def place(self, rows, columns):
        self.cls = nn.Parameter(torch.randn(1, 1, WIDTH))
        self.pos = nn.Parameter(torch.randn(1, rows * columns, WIDTH))

    def positioned(self, tokens):
        return torch.cat([self.cls.expand(len(tokens), -1, -1), tokens + self.pos], 1)

    def by_hand(self, table, wanted, grid):
        kept, self.leading = self.leading, 0
        try:
            return super().by_hand(table, wanted, grid)
        finally:
            self.leading = kept


class LookedUp(Base):
    """An embedding, and a buffer that numbers its rows."""

    def place(self, rows, columns):
        self.pos = nn.Embedding(rows * columns, WIDTH)
        self.register_buffer("numbers", torch.arange(rows * columns)[None])

    def positioned(self, tokens):
        return tokens + self.pos(self.numbers)


class TokensFirst(Base):
    """Tokens, then the batch, as older code lists them."""

    def place(self, rows, columns):
        self.pos = nn.Parameter(torch.randn(rows * columns, 1, WIDTH))

    def positioned(self, tokens):
        return (self.pos + tokens.transpose(0, 1)).transpose(0, 1)


class OnTheMap(Base):
    """A table that is added to the map."""

    def place(self, rows, columns):
        self.pos = nn.Parameter(torch.randn(1, WIDTH, rows, columns))

    def forward(self, x):
        cells = self.embed(x) + self.pos
        return self.blocks(cells.flatten(2).transpose(1, 2)).transpose(1, 2).unflatten(2, cells.shape[2:])

    def by_hand(self, table, wanted, grid):
        return F.interpolate(table, wanted.shape[2:], mode="bicubic", antialias=True, align_corners=False)


class Inside(Base):
    """The table belongs to a part."""

    class Positions(nn.Module):
        def __init__(self, count: int) -> None:
            super().__init__()
            self.table = nn.Parameter(torch.randn(1, count, WIDTH))

        def forward(self, tokens):
            return tokens + self.table

    def place(self, rows, columns):
        self.pos = self.Positions(rows * columns)

    def positioned(self, tokens):
        return self.pos(tokens)


FREED = [Base, Flat, InBuffer, ClassToken, Registers, Uncovered, LookedUp, TokensFirst, OnTheMap, Inside]


class ColumnsFirst(Base):
    """Cells in columns: no table of rows and columns as far as can be told."""

    def forward(self, x):
        cells = self.embed(x).transpose(2, 3)
        tokens = self.blocks(self.positioned(cells.flatten(2).transpose(1, 2)))
        return tokens.transpose(1, 2).unflatten(2, cells.shape[2:]).transpose(2, 3)


class Reshaping(Base):
    """The grid is written into the code."""

    def forward(self, x):
        tokens = self.blocks(self.positioned(self.embed(x).flatten(2).transpose(1, 2)))
        return tokens.transpose(1, 2).reshape(len(x), WIDTH, 4, 4)


LEFT = [ColumnsFirst, Reshaping]
