"""Usual sizes: common image sizes that a module takes, where a pass at one is affordable."""

from __future__ import annotations

import math
from collections.abc import Mapping

from autoadapt.contracts.allocations import MOST_INVENTED
from autoadapt.contracts.capturing.devices import MOST_MULTIPLY_ADDS
from autoadapt.contracts.capturing.graph_axes import InputAxes
from autoadapt.contracts.capturing.probing import Work
from autoadapt.contracts.capturing.sizing import Steps

USUAL_SIZES = (224, 256, 384, 512, 640)
"""Common heights and widths of images, in pixels."""


def usual_images(axes: InputAxes, steps: Steps, work: Work, images: int) -> dict[str, int] | None:
    """The smallest usual size that is legal, if the example has none and a pass of `images` images is affordable."""
    example = axes.example
    if work.multiply_adds == 0 or (example.get("H") == example.get("W") and example.get("H") in USUAL_SIZES):
        return None
    sizes = next(iter(usual_sizes(axes, steps)), None)
    if sizes is None:
        return None
    share = math.prod(cells_of(sizes | {"B": images})) / max(math.prod(cells_of(example)), 1)
    if work.multiply_adds * share > MOST_MULTIPLY_ADDS["cpu"] or 4 * work.widest * share > MOST_INVENTED:
        return None
    return {name: sizes[name] for name in "HW"}


def cells_of(sizes: Mapping[str, int]) -> list[int]:
    """The sizes of all axes but channels, whose product the work of a pass grows with."""
    return [size for name, size in sizes.items() if name[0] != "C"]


def usual_sizes(axes: InputAxes, steps: Steps) -> list[dict[str, int]]:
    """The example with images of usual sizes, as far as these are legal."""
    example = axes.example
    if "H" not in steps or "W" not in steps:
        return []
    legal = [n for n in USUAL_SIZES if all((n - example[name]) % steps[name] == 0 for name in "HW")]
    return [{**example, "H": size, "W": size} for size in legal]
