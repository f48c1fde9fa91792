"""Cell grids: how many cells a feature map has along height, width, and frames or slices."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Grid:
    """Cells along height and width, and along the frames of a clip or the slices of a volume."""

    height: int
    width: int
    frames: int = 1

    @property
    def cells(self) -> int:
        """How many cells there are."""
        return self.frames * self.height * self.width

    @property
    def sides(self) -> dict[str, int]:
        """The number of cells along each axis."""
        return {"T": self.frames, "H": self.height, "W": self.width}
