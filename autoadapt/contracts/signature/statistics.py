"""Statistics: how images are normalised for a module: range, mean, standard deviation, order of colours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import BaseModel, BeforeValidator, Field, ValidationError, model_validator

from autoadapt.contracts.facts import MadeByHand
from autoadapt.contracts.signature.values import Values
from autoadapt.errors import Mismatch, SignatureError
from autoadapt.errors.printable import visible

ColourOrder: TypeAlias = Literal["rgb", "bgr"]

_CLOSE = 1e-3
"""In standard deviations: two conventions that differ by less are the same one, rounded."""


def _no_text(value: object) -> object:
    if isinstance(value, (str, bytes, bool)):
        raise ValueError("a number")
    return value


_Number: TypeAlias = Annotated[float, BeforeValidator(_no_text)]


class Statistics(MadeByHand):
    """The normalisation of a module's images: `(pixel - mean)/std`, for pixels from 0 to `range`.

    A single mean or standard deviation goes for all channels.

    Example:
        >>> imagenet = Statistics(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))
        >>> caffe = Statistics(mean=(103.53, 116.28, 123.675), order="bgr", range=255)
        >>> print(imagenet)
        mean 0.485, 0.456, 0.406, std 0.229, 0.224, 0.225
        >>> print(caffe)
        0 to 255, mean 103.53, 116.28, 123.675, bgr

    Raises:
        SignatureError: Numbers are missing or not finite, or a range or standard deviation is not above zero.
    """

    mean: tuple[_Number, ...] = (0.0,)
    std: tuple[_Number, ...] = (1.0,)
    order: ColourOrder = "rgb"
    range: _Number = Field(default=1.0)
    """The value of a white pixel before the mean is subtracted: 1 or 255."""

    def __init__(self, **told: Any) -> None:
        """Take single numbers for all channels."""
        single = {name: (told[name],) for name in ("mean", "std") if isinstance(told.get(name), (int, float))}
        try:
            BaseModel.__init__(self, **(told | single))
        except ValidationError as error:
            raise SignatureError("these are no statistics of images", _faults(error)) from None

    @model_validator(mode="after")
    def _sound(self) -> Statistics:
        """Refuse numbers that are not finite or positive, and unequal numbers of channels."""
        counts = {len(self.mean), len(self.std)} - {1}
        wrong = {
            "mean": not self.mean or not all(map(math.isfinite, self.mean)),
            "std": not self.std or not all(math.isfinite(std) and std > 0 for std in self.std),
            "range": not (math.isfinite(self.range) and self.range > 0),
        }
        faults = [
            Mismatch(f"statistics.{name}", _EXPECTED[name], str(getattr(self, name)), _REMEDY)
            for name, is_wrong in wrong.items()
            if is_wrong
        ]
        if len(counts) > 1:
            found = f"{len(self.mean)} and {len(self.std)}"
            faults.append(Mismatch("statistics", "as many numbers in mean as in std, or one", found, _REMEDY))
        if faults:
            raise SignatureError("these are no statistics of images", faults)
        return self

    @property
    def channels(self) -> int | None:
        """How many channels it has numbers for; None where single numbers go for all."""
        count = max(len(self.mean), len(self.std))
        return count if count > 1 else None

    def of(self, channels: int) -> tuple[list[float], list[float]]:
        """Mean and standard deviation of each channel."""
        return [*_each(self.mean, channels)], [*_each(self.std, channels)]

    def turned(self, order: ColourOrder) -> Statistics:
        """The same statistics with the channels in another order of colours.

        Example:
            >>> print(Statistics(mean=(1, 2, 3), range=255).turned("bgr"))
            0 to 255, mean 3, 2, 1, bgr
        """
        if order == self.order:
            return self
        return self.model_copy(update={"mean": self.mean[::-1], "std": self.std[::-1], "order": order})

    def __str__(self) -> str:
        parts = [f"0 to {self.range:g}"] if self.range != 1 else []
        parts += [f"mean {_shown(self.mean)}"] if any(self.mean) or self.range == 1 else []
        parts += [f"std {_shown(self.std)}"] if set(self.std) != {1} or self.range == 1 else []
        return ", ".join([*parts, self.order] if self.order != "rgb" else parts)


_EXPECTED = {
    "mean": "a finite number for each channel, or one",
    "std": "a number above 0 for each channel, or one",
    "range": "the value of a white pixel, above 0",
    "order": "'rgb' or 'bgr'; channels=(...) of adapt and swap tells of others",
}
_REMEDY = "aa.Statistics(mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225), order='rgb', range=1)"


def _faults(error: ValidationError) -> list[Mismatch]:
    """One mismatch for each argument of a wrong type or an unknown name."""
    names = dict.fromkeys(str(one["loc"][0]) if one["loc"] else "" for one in error.errors())
    found = {str(one["loc"][0]) if one["loc"] else "": visible(repr(one["input"]))[:60] for one in error.errors()}
    other = f"one of {', '.join(_EXPECTED)}"
    return [Mismatch(f"statistics.{name}", _EXPECTED.get(name, other), found[name], _REMEDY) for name in names]


def _each(told: Sequence[float], channels: int) -> Sequence[float]:
    return told if len(told) > 1 else [*told] * channels


def _shown(numbers: Sequence[float]) -> str:
    """The numbers as text, a single one where all are equal."""
    texts = [f"{number:.6g}" for number in numbers]
    return texts[0] if len(set(texts)) == 1 else ", ".join(texts)


def conversion(given: Statistics, wanted: Statistics, channels: int) -> tuple[list[float], list[float]]:
    """Factor and offset of each channel that convert images of one convention to another.

    Channels are in the order of `wanted`.

    Example:
        >>> conversion(Statistics(), Statistics(mean=0.5, std=0.5), 1)
        ([2.0], [-1.0])
    """
    mean, std = given.turned(wanted.order).of(channels)
    to_mean, to_std = wanted.of(channels)
    ratio = wanted.range / given.range
    scale = [_short(ratio * have / want) for have, want in zip(std, to_std, strict=True)]
    shift = [_short((ratio * have - want) / by) for have, want, by in zip(mean, to_mean, to_std, strict=True)]
    return scale, shift


def _short(number: float) -> float:
    """Rounded to 12 digits, since more only lengthen generated code: float32 has 7."""
    return float(f"{number:.12g}")


def agree(given: Statistics, wanted: Statistics, channels: int) -> bool:
    """Whether two conventions give the same values, but for rounding.

    Example:
        >>> agree(Statistics(mean=0.5, std=0.5), Statistics(mean=127.5, std=127.5, range=255), 3)
        True
    """
    scale, shift = conversion(given, wanted, channels)
    turned = given.order != wanted.order and channels > 1
    return not turned and all(abs(one - 1) < _CLOSE for one in scale) and all(abs(one) < _CLOSE for one in shift)


def image_of(inputs: Values) -> tuple[str, int] | None:
    """Path and number of channels of the one image or clip among inputs; None where there is none, or several.

    Example:
        >>> image_of(Values.parse({"x": "f32[B, 3, H, W]", "size": "f32[2]"}))
        ('x', 3)
    """
    images = [(path, spec.dims) for path, spec in inputs.items() if spec.is_floating and len(spec.dims) in (4, 5)]
    if len(images) != 1:
        return None
    ((path, dims),) = images
    fixed = [dim.constant for dim in dims[1:] if dim.constant is not None]
    channels = fixed[0] if len(fixed) == 1 else dims[1].constant
    return None if channels is None else (path, channels)
