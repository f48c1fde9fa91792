"""Mixed sounds: new waveforms out of a caller's, by shifts, other speeds, gain, sums and bands of noise."""

from __future__ import annotations

import random
from collections.abc import Sequence

import torch

# Dimension letters: N samples of a waveform.


def mixed_sound(parents: Sequence[torch.Tensor], *, keeps_level: bool) -> torch.Tensor:
    """A waveform made of one or two: shifted, half of them faster or slower, most with a second one, half with noise.

    Draws from the generators of torch and Python.

    Args:
        parents: The waveform itself, and others to add.
        keeps_level: Mean and standard deviation are brought back to those of the waveform; else its gain changes.

    Shape:
        `[..., N]` each and made

    Example:
        >>> torch.manual_seed(0).initial_seed(); random.seed(0)
        0
        >>> wave = torch.sin(torch.arange(600) / 5)[None]
        >>> made = mixed_sound([wave, wave.flip(-1)], keeps_level=True)
        >>> made.shape == wave.shape, bool((made.std() - wave.std()).abs() < 1e-4)
        (True, True)
    """
    first, others = parents[0], parents[1:]
    made = _shifted(first)
    level = first.std().clamp_min(1e-8)
    if others and random.random() < 2 / 3:
        other = random.choice(others)
        made = made + random.uniform(0.1, 1.0) * _shifted(other) * level / other.std().clamp_min(1e-8)
    if random.random() < 0.5:
        made = made + level * 10 ** random.uniform(-1.5, -0.25) * _noise_band(first)
    if keeps_level:
        return (made - made.mean()) * (level / made.std().clamp_min(1e-8)) + first.mean()
    return made * 10 ** random.uniform(-0.5, 0.25)


def _shifted(wave: torch.Tensor) -> torch.Tensor:
    """Begun elsewhere, as often upside down as not; what falls off comes in again."""
    sign = 1 if random.random() < 0.5 else -1
    made = sign * wave.roll(random.randrange(wave.shape[-1]), dims=-1)
    return made if random.random() < 0.5 else _faster(made, 2 ** random.uniform(-0.5, 0.5))


def _faster(wave: torch.Tensor, speed: float) -> torch.Tensor:
    """Played so much faster, up to half an octave either way; where it ends too early it begins again.

    Ko, Peddinti, Povey and Khudanpur, Audio augmentation for speech recognition (2015).
    """
    count = wave.shape[-1]
    places_N = torch.arange(count) * speed
    left_N = places_N.long()
    return torch.lerp(wave[..., left_N % count], wave[..., (left_N + 1) % count], (places_N - left_N).to(wave))


def _noise_band(like: torch.Tensor) -> torch.Tensor:
    """Noise of one band of frequencies, of standard deviation one."""
    count = like.shape[-1]
    spectrum = torch.fft.rfft(torch.randn(like.shape, dtype=like.dtype))
    low, high = sorted(random.uniform(0, 1) ** 2 for _ in range(2))
    along = torch.linspace(0, 1, spectrum.shape[-1])
    band = (along >= low) & (along <= max(high, low + 0.05))
    noise: torch.Tensor = torch.fft.irfft(spectrum * band, n=count)
    return noise / noise.std().clamp_min(1e-8)
