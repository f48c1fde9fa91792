"""Photograph sets: some three hundred different photographs out of Debian packages, fetched where they are not yet.

Nothing of them is committed. Licences: GPL-2 (tuxpaint), CC-BY, CC-BY-SA and CC0 (lomiri), GPL-2+ and CC-BY-SA-4.0
(plasma), GPL-2+ and CC (mate), LGPL (lxqt), Apache-2.0 (opencv), BSD (scikit-image, scikit-learn).
"""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from benchmarks.photographs import FITTED, HELD_OUT, photograph

__all__ = ["Photograph", "photographs", "read", "split"]

PACKAGES = (
    "tuxpaint-stamps-default", "lomiri-wallpapers-16.04", "lomiri-wallpapers-20.04", "plasma-workspace-wallpapers",
    "mate-backgrounds", "lxqt-themes", "opencv-doc",
)  # fmt: skip
FOLDER = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "autoadapt-benchmarks" / "photographs"

STAMPS = "animals clothes food hobbies household medical military people plants seasonal sports town vehicles space"
NO_PHOTOGRAPH = ("cartoon", "mirror", "flags", "roadsigns", "grave-", "dreydl", "newyears", "symbols", "moonphases")
WALLPAPERS = ["Altai", "Autumn", "BytheWater", "ColorfulCups", "EveningGlow", "FallenLeaf", "Grey", "Kite", "MilkyWay"]
SAMPLES = [
    "aero1",
    "aloeL",
    "apple",
    "baboon",
    "basketball1",
    "board",
    "box",
    "building",
    "butterfly",
    "cards",
    "chicky_512",
    "fruits",
    "graf1",
    "home",
    "leuvenA",
    "messi5",
    "orange",
    "rubberwhale1",
    "smarties",
    "squirrel_cls",
    "starry_night",
    "stuff",
    "left01",
    "HappyFish",
]
OTHER_MEANING = ("horse", "mouse", "saw", "glass", "potato", "rose", "fox", "747", "star", "0_sun")
DRAWN = ["origami", "plasma", "logo", "beam", "simple_blue", "triangles", "waves", "windows", "drop.png", "cloud.png"]


@dataclass(frozen=True)
class Photograph:
    """One photograph: a file, or a name of scikit-image or scikit-learn."""

    name: str
    path: Path | None = None
    classes: tuple[int, ...] = ()
    """Those of ImageNet that its name stands for."""


def photographs(fetch: bool = True) -> list[Photograph]:
    """All different photographs that can be had, in one order.

    Args:
        fetch: Download packages that are not there; says what is left out where that fails.
    """
    root = _fetched() if fetch else FOLDER
    share = root / "usr" / "share"
    names = _imagenet_names()
    found = [Photograph(name) for name in (*FITTED, *HELD_OUT)]
    found += [Photograph(path.stem, path, _classes(path.stem, names)) for path in _stamps(share)]
    found += [Photograph(path.stem, path) for path in _pictures(share)]
    return found


def split(
    found: Sequence[Photograph], seed: int, held_out: int = 120, *, by_chance: bool = False
) -> tuple[list[Photograph], list[Photograph]]:
    """Photographs to fit on and others to judge on; of those that have a class half are always judged on.

    These are easier than others. By chance alone both are of one kind, as a report takes them to be.
    """
    order = list(found)
    random.Random(seed).shuffle(order)
    if by_chance:
        return order[held_out:], order[:held_out]
    labelled = [one for one in order if one.classes]
    judged = labelled[: len(labelled) // 2]
    judged += [one for one in order if not one.classes][: max(held_out - len(judged), 0)]
    return [one for one in order if one not in judged], judged


def read(found: Sequence[Photograph], size: int = 224) -> torch.Tensor:
    """The photographs whole but for their borders, `[N, 3, size, size]`, scaled as EfficientNet-Lite wants them."""
    return torch.stack([_square(one, size) for one in found]) * 2 - 1


def _square(one: Photograph, size: int) -> torch.Tensor:
    from PIL import Image

    if one.path is None:
        image = photograph(one.name)
    else:
        with Image.open(one.path) as opened:
            opened.draft("RGB", (2 * size, 2 * size))
            pixels = opened.convert("RGBA" if one.path.suffix == ".png" else "RGB")
        pixels.thumbnail((4 * size, 4 * size))
        image = _on_grey(torch.from_numpy(np.array(pixels)).permute(2, 0, 1).float() / 255, one.name)
    height, width = image.shape[1:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    image = image[:, top : top + side, left : left + side]
    return F.interpolate(image[None], size=(size, size), mode="bilinear", antialias=True)[0].clamp(0, 1)


def _on_grey(image: torch.Tensor, name: str) -> torch.Tensor:
    """A cut-out whole, in the middle of a bright square; a picture without alpha as it is."""
    if image.shape[0] == 3 or bool((image[3] > 0.99).all()):
        return image[:3]
    side = int(max(image.shape[1:]) * 1.15)
    grey = 0.6 + 0.35 * random.Random(name).random()
    canvas = torch.full((3, side, side), grey)
    top, left = (side - image.shape[1]) // 2, (side - image.shape[2]) // 2
    part = canvas[:, top : top + image.shape[1], left : left + image.shape[2]]
    part.copy_(torch.lerp(part, image[:3], image[3:]))
    return canvas


def _stamps(share: Path) -> Iterator[Path]:
    for kind in STAMPS.split():
        for path in sorted((share / "tuxpaint" / "stamps" / kind).rglob("*.png")):
            if not any(word in str(path) for word in NO_PHOTOGRAPH):
                yield path


def _pictures(share: Path) -> Iterator[Path]:
    """Wallpapers and samples, each in one size."""
    for name in WALLPAPERS:
        sizes = sorted((share / "wallpapers" / name / "contents" / "images").glob("1[26]*"))
        yield from sizes[:1]
    yield from sorted((share / "backgrounds").glob("*.jpg"))
    yield from sorted((share / "backgrounds" / "mate" / "nature").glob("*.jpg"))
    for path in sorted((share / "lxqt" / "wallpapers").glob("*.*")):
        if not any(word in path.name for word in DRAWN):
            yield path
    samples = {path.stem: path for path in (share / "doc" / "opencv-doc" / "examples" / "data").glob("*.*")}
    yield from (samples[name] for name in SAMPLES if name in samples)


def _fetched() -> Path:
    """Where the packages lie unpacked; what cannot be had is named on standard error."""
    for package in PACKAGES:
        mark = FOLDER / f".{package}"
        if mark.exists():
            continue
        debs = FOLDER / "debs"
        debs.mkdir(parents=True, exist_ok=True)
        if shutil.which("apt-get") is None:
            print(f"left out: {package} (there is no apt-get)", file=sys.stderr)
            continue
        done = subprocess.run(["apt-get", "download", package], cwd=debs, capture_output=True, text=True, check=False)
        for deb in debs.glob(f"{package}_*.deb"):
            subprocess.run(["dpkg", "-x", str(deb), str(FOLDER)], check=True)
            deb.unlink()
            mark.touch()
        if not mark.exists():
            said = (done.stderr.strip().splitlines() or ["nothing came"])[-1]
            print(f"left out: {package} ({said})", file=sys.stderr)
    return FOLDER


def _imagenet_names() -> list[list[list[str]]]:
    """For each class of ImageNet its names, as words."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    told = [info.index_to_description(index, detailed=False).lower() for index in range(1000)]
    return [[name.split() for name in each.split(", ")] for each in told]


def _classes(stem: str, names: Sequence[Sequence[Sequence[str]]]) -> tuple[int, ...]:
    """Classes that are called so, or where there is none those whose name ends so: `owl` for a great grey owl."""
    words = [word for word in re.split(r"[-_0-9]+", stem.lower()) if word]
    if not words or stem in OTHER_MEANING:
        return ()
    if words[0] == "guitar":
        words.reverse()
    exact = tuple(index for index, each in enumerate(names) if words in each)
    ends = (index for index, each in enumerate(names) if any(name[-len(words) :] == words for name in each))
    return exact or tuple(ends)
