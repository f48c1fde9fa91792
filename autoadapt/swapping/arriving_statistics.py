"""Arriving statistics: what reaches a part of a model, found by running the model on images of one colour.

A model that normalises by itself hands its parts other values than it is given. Images of one colour stay of one
colour through normalising, resizing and padding below and on the right; so one black image, and one of each primary
colour, tell the factor and the offset of every channel, and whether the order of the colours is turned; colours in
between tell whether it is a factor and an offset at all.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autoadapt.adapting.planning import ToldChannels, ToldStatistics
from autoadapt.contracts.capturing.told_statistics import told_statistics
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.signature import Statistics, channel_names
from autoadapt.contracts.trees import flatten, rebuild
from autoadapt.contracts.views import eval_copy
from autoadapt.errors import AdaptError, Mismatch, SwapError
from autoadapt.swapping.watching import Example

# Dimension letters: B batch, C channels that arrive, K channels of the images, H W pixels.

_FLAT = 1e-3
"""How far values of one colour may lie apart, of the largest."""

_NEAR = 1e-2
"""How far values may lie from a factor and an offset, of black to white: models may compute in 16 bits."""

_BETWEEN = (37, 101, 166, 220)
"""Colours between black and white, as bytes; few steps that values could be rounded to meet all of them."""


def statistics_at(
    model: nn.Module, example: Example, path: str, new: nn.Module | str, told: ToldStatistics | None
) -> ToldStatistics | None:
    """What a new module's images are like at a place, and what it expects, as far as anybody tells.

    Args:
        model: The whole model; a copy of it runs, up to the place.
        example: How to run it.
        path: Where the new module is to stand.
        new: It; a generated layer expects nothing.
        told: What the caller tells: `old` is what the whole model is given.

    Raises:
        SwapError: The caller tells what the model is given, and that cannot be followed to the place.
        PlanError: What the caller tells is of another type.
    """
    by_side = {"old": told} if isinstance(told, Statistics) else dict(told) if isinstance(told, dict) else told
    if by_side is not None and not isinstance(by_side, dict):
        return told  # refused where both signatures are known
    sides = by_side or {}
    if isinstance(new, str) or ("new" not in sides and told_statistics(new) is None and "old" not in sides):
        return told
    given = sides.get("old") or told_statistics(model)
    if not isinstance(given, Statistics) or not path:
        return told
    arriving = _arriving(_Place.of(model, example, path, given.channels), given)
    if arriving is not None:
        return {**sides, "old": arriving}
    if "old" in sides:
        expected = "channels of the images, each times a factor plus an offset"
        fault = Mismatch(f"{path}, input_statistics", expected, "something else, or no image", _REMEDY)
        raise SwapError(f"what reaches `{path}` does not follow from the statistics of the model's images", [fault])
    return told


_REMEDY = "leave input_statistics out, and convert in front of the new module"


class _ArrivedError(BaseException):
    """Ends a run where all is seen; no `Exception`, which models catch."""


def channels_at(
    model: nn.Module, example: Example, path: str, new: nn.Module | str, told: ToldChannels | None
) -> ToldChannels | None:
    """What is in the channels that arrive at a place, where the caller tells what the whole model is given.

    Raises:
        SwapError: It does not follow, or a generated layer stands there, which reads no colours.
    """
    by_side: Any = told if isinstance(told, Mapping) else {} if told is None else {"old": told}
    if "old" not in by_side or not path:
        return told
    names = channel_names(by_side["old"])
    place = _Place.of(model, example, path, len(names))
    seen = None if isinstance(new, str) else _colours_at(place, Statistics(), len(names))
    places = None if seen is None else _alone(seen[0])
    if places is None or len(names) != (0 if seen is None else seen[0].shape[1]):
        expected = f"an image of {len(names)} channels, each at a place of its own"
        fault = Mismatch(f"{path}, channels", expected, "something else, or no image", "leave channels out")
        raise SwapError(f"what reaches `{path}` does not follow from the channels of the model's images", [fault])
    return {**by_side, "old": [names[at] for at in places]}


@dataclass(frozen=True)
class _Place:
    """A module inside a copy of a model, and how many channels images may have."""

    copied: nn.Module
    example: Example
    path: str
    counts: frozenset[int]

    @classmethod
    def of(cls, model: nn.Module, example: Example, path: str, channels: int | None) -> _Place:
        return cls(eval_copy(model), example, path, frozenset({1, 3, 4, channels or 3}))


def _arriving(place: _Place, given: Statistics) -> Statistics | None:
    """What images of these statistics become; None where that is no factor and offset for each channel."""
    seen = _colours_at(place, given, given.channels)
    return _pushed(given, *seen) if seen is not None and _is_affine(place, given, *seen) else None


def _colours_at(place: _Place, given: Statistics, channels: int | None) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Factors `[C, K]` and offsets `[C]` of what arrives where images of one colour are given; None for no image."""
    try:
        dark = _seen(place, _mixed(given, [0.0] * (channels or 1)))
        if not dark:
            return None
        black = dark[0]
        count = channels or len(black)
        colours = [_mixed(given, [float(at == i) for i in range(count)]) for at in range(count)]
        seen = [_seen(place, colour) for colour in colours]
    except AdaptError:
        return None
    if any(not one or len(one[0]) != len(black) for one in seen):
        return None
    low, high = (black.new_tensor(_mixed(given, [share] * count)) for share in (0.0, 1.0))
    factors_CK = (torch.stack([one[0] for one in seen if one], 1) - black[:, None]) / (high - low)
    return factors_CK, black - factors_CK @ low


def _is_affine(place: _Place, given: Statistics, factors_CK: torch.Tensor, offsets_C: torch.Tensor) -> bool:
    """Whether values in between follow the same factors and offsets, whatever else is in the image, at every call.

    Powers and logarithms agree with a factor at black and white alone. What is divided by its own deviation is seen by
    another colour at the right and at the bottom.
    """
    count = factors_CK.shape[1]
    low, high = (factors_CK.new_tensor(_mixed(given, [share] * count)) for share in (0.0, 1.0))
    span = (factors_CK.abs() @ (high - low)).max()
    shares = [_BETWEEN[at % 4] / 255 for at in range(count)]
    for mixed, beside, is_whole in ((shares, 1.0, True), ([1 - one for one in shares], 0.0, False)):
        colour = _mixed(given, mixed)
        seen = _seen(place, colour, _mixed(given, [beside] * count), is_whole=is_whole)
        expected_C = factors_CK @ factors_CK.new_tensor(colour) + offsets_C
        if not seen or any(len(one) != len(expected_C) for one in seen):
            return False
        if any(((one - expected_C).abs() > _NEAR * span).any() for one in seen):
            return False
    return True


def _mixed(given: Statistics, shares: Sequence[float]) -> list[float]:
    """A colour as a model is given it, from the share of white in each channel."""
    rows = zip(shares, *given.of(len(shares)), strict=True)
    return [(given.range * share - mean) / std for share, mean, std in rows]


def _alone(factors_CK: torch.Tensor) -> list[int] | None:
    """For each channel that arrives the one that it is made of; None where channels are mixed or turned over."""
    places = factors_CK.abs().argmax(1)
    alone = factors_CK.gather(1, places[:, None])[:, 0]
    rest = factors_CK.abs().sum(1) - alone.abs()
    return None if (alone <= 0).any() or (rest > _FLAT * alone).any() else places.tolist()


def _seen(
    place: _Place, colour: Sequence[float], beside: Sequence[float] = (), *, is_whole: bool = False
) -> list[torch.Tensor] | None:
    """The colour that arrives where images of one colour are given, `[C]`; None where it is none, or no image.

    Args:
        place: Where.
        colour: The colour; one number goes for all channels.
        beside: The colour of the last quarter at the right and at the bottom.
        is_whole: The model runs to its end, and each call of the place is seen, not the first alone.
    """
    calls: list[list[torch.Tensor]] = []

    def paint(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        tree, tensors = flatten((args, kwargs))
        return rebuild(tree, _painted(tensors, colour, beside, place.counts))  # type: ignore[no-any-return]

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        tensors = flatten((args, kwargs))[1]
        calls.append([one.clone() for one in tensors if one.is_floating_point() and one.dim() in (4, 5)])
        if not is_whole:
            raise _ArrivedError

    hooks = [
        place.copied.register_forward_pre_hook(paint, with_kwargs=True),
        place.copied.get_submodule(place.path).register_forward_pre_hook(note, with_kwargs=True),
    ]
    try:
        with undisturbed(), torch.no_grad():
            place.example.run(place.copied)
    except _ArrivedError:
        pass
    except Exception:  # whatever a model raises on images of one colour, behind the place too
        calls = calls if is_whole else []
    finally:
        for hook in hooks:
            hook.remove()
    found = [_colour_of(call, place.counts, 4 if beside else 2) for call in calls]
    kept = [one for one in found if one is not None]
    return kept if kept and len(kept) == len(found) else None


def _channel_axis(tensors: Sequence[torch.Tensor], counts: Collection[int]) -> int | None:
    """Where the channels of images stand, first or last; None where there is no image."""
    images = [one for one in tensors if (one.is_floating_point() or one.dtype is torch.uint8) and one.dim() in (3, 4)]
    return next((axis for axis in (-3, -1) if any(one.shape[axis] in counts for one in images)), None)


def _painted(
    tensors: Sequence[torch.Tensor], colour: Sequence[float], beside: Sequence[float], counts: Collection[int]
) -> list[torch.Tensor]:
    """Images of one colour, and of another at the right and at the bottom; what is no image stays."""
    axis = _channel_axis(tensors, counts)
    return [
        _coloured(one, axis, colour, beside or colour)
        if axis is not None and _channel_axis([one], counts) == axis and len(colour) in (1, one.shape[axis])
        else one
        for one in tensors
    ]


def _coloured(image: torch.Tensor, axis: int, colour: Sequence[float], beside: Sequence[float]) -> torch.Tensor:
    values = torch.tensor([colour, beside], device=image.device, dtype=torch.float64)
    if not image.is_floating_point():
        if ((values < 0) | (values > 255) | (values.round() - values).abs().gt(1e-6)).any():
            return image  # bytes cannot be of this colour
        values = values.round()
    main_C, beside_C = values.to(image.dtype)
    painted = torch.empty_like(image)
    seen = painted.movedim(axis, -3)
    seen[:] = beside_C[:, None, None]
    seen[..., : seen.shape[-2] * 3 // 4 or 1, : seen.shape[-1] * 3 // 4 or 1] = main_C[:, None, None]
    return painted


def _colour_of(images: Sequence[torch.Tensor], counts: Collection[int], part: int) -> torch.Tensor | None:
    """The colour of the upper left part of the one image, a half or a quarter of each side, where it is one."""
    axis = _channel_axis(images, counts)
    if len(images) != 1 or axis is None or images[0].dim() == 5:
        return None
    image = images[0].movedim(axis, -3)[0]
    flat = image[:, : image.shape[1] // part + 1, : image.shape[2] // part + 1].flatten(1).double()
    spread = (flat.amax(1) - flat.amin(1)).max()
    return flat.mean(1) if spread <= _FLAT * flat.abs().max().clamp(min=1) else None


def _pushed(given: Statistics, factors_CK: torch.Tensor, offsets_C: torch.Tensor) -> Statistics | None:
    """Statistics behind a factor and an offset for each channel; None where channels are mixed or reordered freely."""
    count, order = len(offsets_C), _alone(factors_CK)
    turned = order == [*reversed(range(count))] and count == 3
    if order is None or not (turned or order == [*range(count)]):
        return None
    alone = factors_CK.amax(1)
    base = given.turned("bgr" if given.order == "rgb" else "rgb") if turned else given
    means, stds = base.of(count)
    std = [_short(one / float(factor)) for one, factor in zip(stds, alone, strict=True)]
    rows = zip(means, stds, alone.tolist(), offsets_C.tolist(), strict=True)
    mean = [_short(mean - offset * one / factor) for mean, one, factor, offset in rows]
    return Statistics(mean=mean, std=std, order=base.order, range=given.range)


def _short(number: float) -> float:
    """What was measured in 32 bits, without the digits that these do not hold."""
    return float(f"{round(number, 7):.6g}")
