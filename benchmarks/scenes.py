"""Scenes: cut-outs or digits pasted on photographs, with their masks and boxes, for decoders and detectors.

Objects and photographs of scenes to judge on are none of those to fit on.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeAlias

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.photograph_sets import photographs, read

__all__ = ["KINDS", "SIZE", "Objects", "Scene", "scenes"]

Objects: TypeAlias = Literal["stamps", "digits"]

KINDS = {"stamps": ("animals", "food", "plants", "household"), "digits": tuple("0123456789")}
"""Classes from 1 on; 0 is the background."""
SIZE = 64
SIDES = (20, 44)
MOST = 3
VISIBLE = 0.4
"""Share of an object that later ones must leave to be seen."""


@dataclass(frozen=True)
class Scene:
    """A picture, `f32[3, SIZE, SIZE]` in -1..1, and what is in it."""

    image: torch.Tensor
    mask: torch.Tensor
    """`i64[SIZE, SIZE]` of classes."""
    boxes: torch.Tensor
    """`f32[N, 4]`, left, top, right, bottom."""
    labels: torch.Tensor


@dataclass(frozen=True)
class _Cutout:
    pixels: torch.Tensor
    """Red, green, blue and how opaque, 0..1."""
    label: int


def scenes(objects: Objects, fitted: int, judged: int, seed: int = 0) -> tuple[list[Scene], list[Scene]]:
    """So many scenes to fit on, and others to judge on."""
    grounds = [one for one in photographs() if one.path is not None and "stamps" not in str(one.path)]
    cutouts = _stamps() if objects == "stamps" else _digits(seed)
    made = []
    for number, count in enumerate((fitted, judged)):
        mine = _part(cutouts, number, seed)
        behind = (read(_part(grounds, number, seed), 2 * SIZE) + 1) / 2
        draw = random.Random(f"{seed}:{number}")
        made.append([_scene(mine, behind, draw) for _ in range(count)])
    return made[0], made[1]


def _part(every: Sequence[Any], number: int, seed: int) -> list[Any]:
    """Two thirds by chance, or the others."""
    order = list(every)
    random.Random(seed).shuffle(order)
    border = 2 * len(order) // 3
    return order[border:] if number else order[:border]


def _stamps() -> list[_Cutout]:
    from PIL import Image

    found = []
    for one in photographs():
        kind = _kind(one.path)
        if one.path is None or kind not in KINDS["stamps"]:
            continue
        with Image.open(one.path) as opened:
            pixels = opened.convert("RGBA")
        pixels.thumbnail((2 * SIDES[1], 2 * SIDES[1]))
        rgba = torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255
        if bool((rgba[3] < 0.5).any()):
            found.append(_Cutout(rgba, KINDS["stamps"].index(kind) + 1))
    return found


def _kind(path: Path | None) -> str:
    parts = () if path is None else path.parts
    return parts[parts.index("stamps") + 1] if "stamps" in parts else ""


def _digits(seed: int) -> list[_Cutout]:
    """Handwritten digits in a colour each."""
    from sklearn.datasets import load_digits

    known, draw, found = load_digits(), random.Random(seed), []
    for picture, label in zip(known.images, known.target, strict=True):
        ink = F.interpolate(torch.from_numpy(picture).float()[None, None] / 16, scale_factor=8, mode="bicubic")[0]
        colour = torch.tensor([draw.random() for _ in range(3)])[:, None, None].expand(3, 64, 64)
        found.append(_Cutout(torch.cat([colour, (2 * ink - 0.5).clamp(0, 1)]), int(label) + 1))
    return found


def _scene(cutouts: Sequence[_Cutout], behind: torch.Tensor, draw: random.Random) -> Scene:
    ground = behind[draw.randrange(len(behind))]
    top, left = draw.randint(0, SIZE), draw.randint(0, SIZE)
    image = ground[:, top : top + SIZE, left : left + SIZE].clone()
    owner = torch.zeros(SIZE, SIZE, dtype=torch.int64)
    whole, labels = [0], [0]
    for number in range(1, draw.randint(1, MOST) + 1):
        label = draw.choice(sorted({each.label for each in cutouts}))
        one = draw.choice([each for each in cutouts if each.label == label])
        alpha = _paste(image, owner, number, one.pixels, draw)
        whole.append(alpha)
        labels.append(one.label)
    seen = [n for n in range(1, len(whole)) if int((owner == n).sum()) > max(VISIBLE * whole[n], 8)]
    boxes = [_box(owner == number) for number in seen]
    mask = torch.tensor(labels)[owner]
    return Scene(
        image * 2 - 1,
        mask,
        torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4),
        torch.tensor([labels[number] for number in seen], dtype=torch.int64),
    )


def _paste(image: torch.Tensor, owner: torch.Tensor, number: int, pixels: torch.Tensor, draw: random.Random) -> int:
    """Paste a cut-out somewhere; how many pixels it covers."""
    longer = draw.randint(*SIDES)
    height, width = (max(8, round(side * longer / max(pixels.shape[1:]))) for side in pixels.shape[1:])
    made = F.interpolate(pixels[None], size=(height, width), mode="bilinear", antialias=True)[0].clamp(0, 1)
    made = made.flip(-1) if draw.random() < 0.5 and pixels.shape[1] != 64 else made  # digits are not mirrored
    top, left = draw.randint(0, SIZE - height), draw.randint(0, SIZE - width)
    place = (slice(top, top + height), slice(left, left + width))
    image[:, place[0], place[1]] = torch.lerp(image[:, place[0], place[1]], made[:3], made[3:])
    owner[place][made[3] > 0.5] = number
    return int((made[3] > 0.5).sum())


def _box(there: torch.Tensor) -> list[int]:
    rows, columns = there.any(1).nonzero()[:, 0], there.any(0).nonzero()[:, 0]
    return [int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1]
