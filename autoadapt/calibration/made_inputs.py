"""Made inputs: how a model's input is read as pictures or sounds, made anew, and put back as it was given."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from autoadapt.calibration.mixed_pictures import Layers, mixed
from autoadapt.calibration.mixed_sounds import mixed_sound
from autoadapt.calibration.samples import Cut
from autoadapt.calibration.synthetic_pictures import synthetic

MOST_CHANNELS = 16
LEAST_PIXELS = 8
"""Along an axis."""
LEAST_SAMPLES = 256
"""Of a waveform."""
SYNTHETIC_MEAN, SYNTHETIC_STD = 0.5, 0.25
"""Of the values of synthetic pictures."""
_LEVEL_TOLERANCE = 0.05

# Dimension letters: C channels, H and W pixels, N samples of a waveform.


@dataclass(frozen=True)
class Kind:
    """What the input of one call is, by the places of its tensors."""

    role: Literal["picture", "sound"]
    main: int
    """Which tensor it is."""
    over: tuple[int, ...] = ()
    """Which tensors lie over the picture, pixel by pixel."""
    channels_last: bool = False


def kind_of(arguments: Cut) -> Kind | None:
    """Pictures with nothing or masks of their size beside them, one waveform, or None: tokens, points, two pictures.

    Of several the picture is the one with most colours, then the first with more than two values.
    """
    own = [index for index, mine in enumerate(arguments.by_image) if mine]
    tensors = {index: _one(arguments, index) for index in own}
    for channels_last in (False, True):
        pictures = [i for i in own if _is_picture(tensors[i], channels_last=channels_last)]
        if pictures:
            colours = {i: _as_chw(tensors[i], channels_last=channels_last).shape[0] for i in pictures}
            main = max(pictures, key=lambda i: (colours[i], _is_shaded(tensors[i]), -i))
            size = _as_chw(tensors[main], channels_last=channels_last).shape[-2:]
            over = tuple(i for i in own if i != main)
            lie_over = all(
                tensors[i].dim() >= 2 and tensors[i].shape[-2:] == size and colours.get(i, 1) == 1 for i in over
            )
            return Kind("picture", main, over, channels_last) if lie_over else None
    if len(own) == 1 and _is_sound(tensors[own[0]]):
        return Kind("sound", own[0])
    return None


def _one(arguments: Cut, index: int) -> torch.Tensor:
    """A tensor of one image without the axis of images."""
    tensor = arguments.tensors[index]
    return tensor if arguments.lists else tensor[0]


def _is_picture(one: torch.Tensor, *, channels_last: bool) -> bool:
    if one.dim() != 3 or not (one.is_floating_point() or one.dtype == torch.uint8):
        return False
    channels, *size = _as_chw(one, channels_last=channels_last).shape
    return channels <= (4 if channels_last else MOST_CHANNELS) and min(size) >= LEAST_PIXELS


def _is_shaded(one: torch.Tensor) -> bool:
    """Whether it has more than the two values of a mask."""
    return bool(((one != one.min()) & (one != one.max())).any())


def _as_chw(one: torch.Tensor, *, channels_last: bool) -> torch.Tensor:
    return one.movedim(-1, 0) if channels_last else one


def _is_sound(one: torch.Tensor) -> bool:
    """Values around zero, each near the one before, or silence: neither tables nor white noise."""
    if not one.is_floating_point() or one.dim() not in (1, 2) or one.shape[-1] < LEAST_SAMPLES:
        return False
    if one.dim() == 2 and one.shape[0] > 2:
        return False
    wave = one.double()
    middle, spread = wave.mean(), wave.std()
    if not bool(wave.any()):
        return True
    if not bool(spread > 0) or bool(middle.abs() > spread):
        return False
    centred = wave - middle
    return bool((centred[..., 1:] * centred[..., :-1]).mean() > 0.3 * centred.square().mean())


class Inputs:
    """The inputs of some images, and others like them: in the same containers, of the same dtypes, range and level."""

    def __init__(self, kind: Kind, cuts: Sequence[Cut]) -> None:
        self.kind = kind
        mains = [self._main(cut) for cut in cuts]
        if kind.role == "sound":
            self._low, self._high = torch.stack([one.min() for one in mains]).min(), max(one.max() for one in mains)
            levels = torch.stack([one.std() for one in mains if one.any()] or [mains[0].std()])
            self._keeps_level = bool(levels.std(correction=0) <= _LEVEL_TOLERANCE * levels.mean())
            return
        values = [one.flatten(1) for one in mains]
        self._low = torch.stack([one.amin(1) for one in values]).amin(0)[:, None, None]
        self._high = torch.stack([one.amax(1) for one in values]).amax(0)[:, None, None]
        if cuts[0].tensors[kind.main].dtype == torch.uint8:
            self._low, self._high = torch.zeros_like(self._low), torch.full_like(self._high, 255.0)
        self._span = (self._high - self._low).clamp_min(1e-12)
        spreads = [((one - self._low[:, 0]) / self._span[:, 0]) for one in values]
        self._mean = torch.stack([one.mean(1) for one in spreads]).mean(0)[:, None, None]
        self._std = torch.stack([one.var(1) for one in spreads]).mean(0).sqrt()[:, None, None]

    def mixed(self, number: int, parents: Sequence[Cut]) -> Cut:
        """An input made of others, in the place of the first."""
        if self.kind.role == "sound":
            waves = [self._main(cut) for cut in parents]
            waves = [wave for wave in waves if wave.shape == waves[0].shape]
            made = mixed_sound(waves, keeps_level=self._keeps_level)
            return self._with_main(parents[0], made.clamp(self._low, self._high))
        layers = mixed(number, [self._layers(cut) for cut in parents])
        cut = self._with_main(parents[0], layers.picture_CHW * self._span + self._low)
        tensors = list(cut.tensors)
        for index, over in zip(self.kind.over, layers.over, strict=True):
            tensors[index] = (over if cut.lists else over[None]).to(tensors[index])
        return replace(cut, tensors=tuple(tensors))

    @property
    def can_be_synthetic(self) -> bool:
        """Whether a picture is all that there is to an input."""
        return self.kind.role == "picture" and not self.kind.over

    def synthetic(self, number: int, like: Cut) -> Cut:
        """A picture out of nothing, of the size of another and of the colours of all."""
        channels, *size = self._main(like).shape
        made = synthetic(number, channels, (size[0], size[1]))
        made = (self._mean + (made - SYNTHETIC_MEAN) * (self._std / SYNTHETIC_STD)).clamp(0, 1)
        return self._with_main(like, made * self._span + self._low)

    def _main(self, cut: Cut) -> torch.Tensor:
        one = _one(cut, self.kind.main).float().cpu()
        return _as_chw(one, channels_last=True) if self.kind.channels_last else one

    def _layers(self, cut: Cut) -> Layers:
        over = tuple(_one(cut, index).float().cpu() for index in self.kind.over)
        return Layers((self._main(cut) - self._low) / self._span, over)

    def _with_main(self, cut: Cut, made: torch.Tensor) -> Cut:
        given = cut.tensors[self.kind.main]
        made = made.movedim(0, -1) if self.kind.channels_last else made
        made = made if given.is_floating_point() else made.round()
        tensors = list(cut.tensors)
        tensors[self.kind.main] = (made if cut.lists else made[None]).to(given)
        return replace(cut, tensors=tuple(tensors))
