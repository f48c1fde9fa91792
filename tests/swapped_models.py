"""A small model with a backbone, and another backbone for it."""

from __future__ import annotations

import torch
from torch import nn


class Body(nn.Module):
    """Two levels, and a few things that its consumers read off it."""

    def __init__(self, width: int = 8, *, extra: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.widths = [width, 2 * width]
        self.extra = extra

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        c1 = self.norm(self.conv1(x))
        return {"c1": c1, "c2": self.conv2(c1)}

    def deepest(self, x: torch.Tensor) -> torch.Tensor:
        """Only what is deepest."""
        return self(x)[f"c{len(self.widths)}"]

    def first_weight(self) -> torch.Tensor:
        """The weight of a part of its own."""
        return self.conv1.weight


class Whole(nn.Module):
    """A body and a head; `reads` says what else the head does with the body."""

    def __init__(self, reads: str = "") -> None:
        super().__init__()
        self.body = Body()
        self.head = nn.Conv2d(16, 2, 1)
        self.reads = reads

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        match self.reads:
            case "method":
                deep = self.body.deepest(x)
            case "attribute":
                deep = self.body(x)["c2"] * self.body.extra
            case "part":
                deep = self.body(x)["c2"] + self.body.conv1.weight.sum()
            case "weight by method":
                deep = self.body(x)["c2"] + self.body.first_weight().sum()
            case "both levels":
                levels = self.body(x)
                deep = levels["c2"] + levels["c1"].mean()
            case "twice":
                deep = self.body(x)["c2"] + self.body(x.flip(-1))["c2"]
            case "keys":
                deep = list(self.body(x).values())[-1]
                return {"out": self.head(deep), "seen": deep}
            case "all":
                levels = self.body(x)
                return {"out": self.head(levels["c2"]), "levels": levels}
            case _:
                deep = self.body(x)["c2"]
        return {"out": self.head(deep)}


class New(nn.Module):
    """Two levels of other widths, as a list."""

    def __init__(self, width: int = 5, *, strides: tuple[int, int] = (2, 2)) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, stride=strides[0], padding=1)
        self.second = nn.Conv2d(width, 3 * width, 3, stride=strides[1], padding=1)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        shallow = self.first(image)
        return [shallow, self.second(shallow)]


X = torch.rand(2, 3, 24, 32)
