"""Arriving statistics: what reaches a part of a model, found by running the model on images of one colour.

A model that normalises by itself hands its parts other values than it is given. Images of one colour stay of one
colour through normalising, resizing and padding below and on the right; so one black image, and one of each primary
colour, tell the factor and the offset of every channel, and whether the order of the colours is turned.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autoadapt.adapting.planning import ToldChannels, ToldStatistics
from autoadapt.contracts.capturing.told_statistics import told_statistics
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.signature import Statistics, channel_names
from autoadapt.contracts.trees import flatten, rebuild
from autoadapt.contracts.views import clone_buffers, copy_module
from autoadapt.errors import AdaptError, Mismatch, SwapError
from autoadapt.swapping.watching import Example

__all__ = ["channels_at", "statistics_at"]

# Dimension letters: B batch, C channels that arrive, K channels of the images, H W pixels.

_FLAT = 1e-3
"""How far values of one colour may lie apart, of the largest."""


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
    seen = _colours_at(model, example, path, given.range / min(given.std), given.channels)  # about a white pixel's
    arriving = None if seen is None else _pushed(given, *seen)
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
    seen = _colours_at(model, example, path, 1.0, len(names)) if not isinstance(new, str) else None
    places = None if seen is None else _alone(seen[0])
    if places is None or len(names) != (0 if seen is None else seen[0].shape[1]):
        expected = f"an image of {len(names)} channels, each at a place of its own"
        fault = Mismatch(f"{path}, channels", expected, "something else, or no image", "leave channels out")
        raise SwapError(f"what reaches `{path}` does not follow from the channels of the model's images", [fault])
    return {**by_side, "old": [names[at] for at in places]}


def _colours_at(
    model: nn.Module, example: Example, path: str, step: float, channels: int | None
) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Factors `[C, K]` and offsets `[C]` of what arrives where images of one colour are given; None for no image."""
    copied = in_eval_mode(copy_module(model, clone_buffers))
    counts = {1, 3, 4, channels or 3}
    try:
        black = _seen(copied, example, path, [], counts)
        count = 0 if black is None else channels or len(black)
        one_hot = ([step * (i == at) for i in range(count)] for at in range(count))
        colours = [_seen(copied, example, path, colour, counts) for colour in one_hot]
    except AdaptError:
        return None
    if black is None or not colours or any(one is None or len(one) != len(black) for one in colours):
        return None
    return (torch.stack([one for one in colours if one is not None], 1) - black[:, None]) / step, black


def _alone(factors_CK: torch.Tensor) -> list[int] | None:
    """For each channel that arrives the one that it is made of; None where channels are mixed or turned over."""
    places = factors_CK.abs().argmax(1)
    alone = factors_CK.gather(1, places[:, None])[:, 0]
    rest = factors_CK.abs().sum(1) - alone.abs()
    return None if (alone <= 0).any() or (rest > _FLAT * alone).any() else places.tolist()


def _seen(
    copied: nn.Module, example: Example, path: str, colour: Sequence[float], counts: Collection[int]
) -> torch.Tensor | None:
    """The colour that arrives where images of one colour are given, `[C]`; None where it is none, or no image."""
    found: list[Any] = []

    def paint(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
        tree, tensors = flatten((args, kwargs))
        return rebuild(tree, [_painted(tensor, colour, counts) for tensor in tensors])  # type: ignore[no-any-return]

    def note(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        found.extend(one for one in flatten((args, kwargs))[1] if one.is_floating_point() and one.dim() in (4, 5))
        raise _ArrivedError

    hooks = [
        copied.register_forward_pre_hook(paint, with_kwargs=True),
        copied.get_submodule(path).register_forward_pre_hook(note, with_kwargs=True),
    ]
    try:
        with undisturbed(), torch.no_grad():
            example.run(copied)
    except _ArrivedError:
        pass
    except Exception:  # whatever a model raises on images of one colour
        return None
    finally:
        for hook in hooks:
            hook.remove()
    return _colour_of(found[0]) if len(found) == 1 and _is_image(found[0], counts) else None


def _is_image(tensor: torch.Tensor, counts: Collection[int]) -> bool:
    return tensor.is_floating_point() and tensor.dim() in (3, 4) and tensor.shape[-3] in counts


def _painted(tensor: torch.Tensor, colour: Sequence[float], counts: Collection[int]) -> torch.Tensor:
    """An image of one colour, black where none is given; what is no image stays."""
    if not _is_image(tensor, counts) or len(colour) not in (0, tensor.shape[-3]):
        return tensor
    values_C = tensor.new_tensor(colour or [0.0] * tensor.shape[-3])
    return values_C[:, None, None].expand_as(tensor).clone()


def _colour_of(image: torch.Tensor) -> torch.Tensor | None:
    """The colour of the upper left quarter, where it is one."""
    image = image[0]
    flat = image[:, : image.shape[1] // 2 + 1, : image.shape[2] // 2 + 1].flatten(1).double()
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
