"""Few images: EfficientNet-Lite backbones under one another's heads, calibrated on 8 to 400 different photographs.

Run as `OMP_NUM_THREADS=1 python -m benchmarks.few_images --cache features.pt`; the photographs come from Debian
packages (`benchmarks/photograph_sets.py`), split anew for each seed. The seam is the last level before the head's
convolution, or with `--pooled` the vector that the classifier reads, where the classifiers of both say what the map is
(`own_head`) and no image is needed (count 0). Beside the truth on photographs that calibration never saw stands what
its report said.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, median

import torch
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.calibration import Calibration, calibrate
from autoadapt.calibration.judging import divergence
from autoadapt.calibration.results import HeadScore
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.showing.tables import columns
from benchmarks.photograph_sets import Photograph, photographs, read, split
from benchmarks.photographs import Classifier, lite

PAIRS = ((0, 2), (2, 0))
COUNTS = (8, 32, 128, 400)
BATCH = 8

Features = dict[str, torch.Tensor]


class LastLevel(nn.Module):
    """The last level of a pyramid, remembered for each image: both directions of a pair look at the same ones."""

    def __init__(self, name: str, pyramid: nn.Module, known: Features) -> None:
        super().__init__()
        self.pyramid = pyramid
        self._name = name
        self._known = known

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape: `[B, 3, H, W] -> [B, C, H/32, W/32]`."""
        if x.device.type != "cpu":  # probed without values
            whole: torch.Tensor = self.pyramid(x)[-1]
            return whole
        keys = [self._name + hashlib.sha256(image.numpy().tobytes()).hexdigest() for image in x.contiguous()]
        unknown = [index for index, key in enumerate(keys) if key not in self._known]
        if unknown:
            for index, made in zip(unknown, self.pyramid(x[unknown])[-1].clone(), strict=True):
                self._known[keys[index]] = made.clone()
        return torch.stack([self._known[key] for key in keys])

    def __deepcopy__(self, memo: dict[int, object]) -> LastLevel:
        return LastLevel(self._name, copy.deepcopy(self.pyramid, memo), self._known)


class Pooled(nn.Module):
    """A pyramid, and what a head makes of its last level before it classifies."""

    def __init__(self, net: Classifier) -> None:
        super().__init__()
        self.backbone = net.backbone
        self.pool = net.head[:-1]

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Shape: `[B, 3, H, W]` -> one vector `[B, C]`."""
        return [self.pool(self.backbone(x)[-1])]


class Whole(nn.Module):
    """A last level, and the head on it."""

    def __init__(self, backbone: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape: `[B, 3, H, W] -> [B, 1000]`."""
        logits: torch.Tensor = self.head(self.backbone(x))
        return logits


@dataclass(frozen=True)
class Row:
    """One calibration, and the truth about it."""

    pair: tuple[int, int]
    count: int
    seed: int
    augment: str
    said: HeadScore | None
    """What the report says of what the adapters hold."""
    agreements: tuple[float, ...]
    """On photographs that calibration never saw."""
    weights: tuple[float, ...]
    """Of these photographs, so that those with a name have the share that they have among those that are fitted on."""
    loss: float
    accuracy: float
    solver: str

    @property
    def agreement(self) -> float:
        """Mean over the photographs."""
        return fmean(self.agreements)

    @property
    def alike(self) -> float:
        """Mean over photographs of the kinds that the report is of: those with a name are easier."""
        return sum(w * a for w, a in zip(self.weights, self.agreements, strict=True)) / sum(self.weights)

    @property
    def errors_apart(self) -> float:
        """How far said and real are apart, in standard errors of both."""
        here, whole = self.alike, sum(self.weights)
        error = sum((w * (a - here)) ** 2 for w, a in zip(self.weights, self.agreements, strict=True)) / whole**2
        assert self.said is not None
        assert self.said.agreement is not None
        assert self.said.agreement_error is not None
        return abs(self.said.agreement - here) / (error + self.said.agreement_error**2) ** 0.5


def held(found: Calibration) -> HeadScore | None:
    """What a report says of what the adapters hold: the fit, the mean, or what they were before."""
    if found.written:
        return found.head
    return found.mean_only if found.verdict.startswith("set to the mean") else found.random


def told(said: HeadScore | None) -> str:
    """An agreement and its standard error."""
    return "nothing" if said is None else f"{said.agreement:.2f} ± {said.agreement_error:.2f}"


def whole(size: int, known: Features, *, pooled: bool = False) -> Whole:
    """An EfficientNet-Lite that remembers its features."""
    net: Classifier = lite(size)
    if pooled:
        return in_eval_mode(Whole(LastLevel(f"pooled{size}:", Pooled(net), known), net.head[-1:]))
    return in_eval_mode(Whole(LastLevel(f"lite{size}:", net.backbone, known), net.head))


def answers(net: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits of all images."""
    with torch.no_grad():
        return torch.cat([net(batch) for batch in images.split(BATCH)])


def accuracy(logits: torch.Tensor, judged: Sequence[Photograph]) -> float:
    """Share of the photographs with a name that are given a class of that name."""
    right = [int(one.argmax()) in photo.classes for one, photo in zip(logits, judged, strict=True) if photo.classes]
    return fmean(right) if right else float("nan")


def weights_like(fitted: Sequence[Photograph], judged: Sequence[Photograph]) -> tuple[float, ...]:
    """Weights of the judged photographs under which as many have a name as among the fitted."""
    shares = [fmean(bool(one.classes) for one in some) for some in (fitted, judged)]
    ratios = {True: shares[0] / shares[1], False: (1 - shares[0]) / (1 - shares[1])}
    return tuple(ratios[bool(one.classes)] for one in judged)


def fitted_images(found: Sequence[Photograph], count: int) -> torch.Tensor:
    """So many photographs; where there are fewer, second renderings of the first: mirrored and closer."""
    images = read(found[:count])
    if len(images) < count:
        closer = images[: count - len(images), :, 28:-28, 28:-28].flip(-1)
        closer = nn.functional.interpolate(closer, size=images.shape[-2:], mode="bilinear", antialias=True)
        images = torch.cat([images, closer])
    return images


def measured(
    nets: dict[int, Whole],
    pair: tuple[int, int],
    count: int,
    seed: int,
    sets: tuple[list[Photograph], ...],
    *,
    pooled: bool,
) -> list[Row]:
    """One pair, count and seed: without made images and with them."""
    new, old = pair
    fitted, judged = fitted_images(sets[0], max(count, 1)), read(sets[1])
    expected = answers(nets[old], judged)
    rows = []
    for augment in (0, "auto"):
        model = copy.deepcopy(nets[old])
        torch.manual_seed(seed)
        example = torch.zeros(1, 3, 224, 224)
        model.backbone = adapt(nets[new].backbone, like=nets[old].backbone, inputs=example, project="always")
        started = time.perf_counter()
        found = calibrate(
            model.backbone,
            like=nets[old].backbone,
            head=nets[old].head,
            own_head=nets[new].head if pooled else None,
            data=fitted.split(BATCH) if count else None,
            images=max(count, 1),
            augment=augment,  # type: ignore[arg-type]
            seed=seed,
        )
        logits = answers(model, judged)
        loss, agreement = divergence(logits, expected, len(judged))
        said = held(found)
        shown = Row(
            pair, count, seed, str(augment), said, tuple(agreement.tolist()), weights_like(*sets),
            float(loss.mean()), accuracy(logits, sets[1]), found.solver,
        )  # fmt: skip
        rows.append(shown)
        seconds = time.perf_counter() - started
        print(
            f"Lite{new} -> Lite{old}, {count:3d} images, seed {seed}, augment {augment}: said {told(said)}, agreement "
            f"{shown.agreement:.3f} ({shown.alike:.3f} of photographs like the fitted), KL {shown.loss:.2f}, "
            f"labels {shown.accuracy:.2f}, {found.solver}, {seconds:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    return rows


def table(rows: Sequence[Row]) -> list[str]:
    """Medians over the seeds."""
    shown: list[tuple[str, ...]] = [("agreement / KL / labels right", "alone", "with made images")]
    for pair in dict.fromkeys(row.pair for row in rows):
        for count in sorted({row.count for row in rows}):
            cells = []
            for augment in ("0", "auto"):
                mine = [row for row in rows if (row.pair, row.count, row.augment) == (pair, count, augment)]
                figures = (median(getattr(row, name) for row in mine) for name in ("agreement", "loss", "accuracy"))
                cells.append(" ".join(f"{figure:.2f}" for figure in figures))
            shown.append((f"Lite{pair[0]} -> Lite{pair[1]}, {count}", *cells))
    judged = [row for row in rows if row.said is not None]
    near = sum(row.errors_apart <= 2 for row in judged)
    truth = "(of the difference) of the truth about photographs of the same kinds"
    return [*columns(shown, align="lrr"), f"said within two standard errors {truth}: {near} of {len(judged)}"]


def main() -> None:
    """Print the table; progress goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--counts", type=int, nargs="+", default=list(COUNTS))
    parser.add_argument("--pooled", action="store_true", help="the seam before the classifier")
    parser.add_argument("--by-chance", action="store_true", help="split by chance alone, as reports take it")
    parser.add_argument("--cache", type=Path, help="a file that features are kept in, for another run")
    arguments = parser.parse_args()
    known: Features = {}
    if arguments.cache is not None and arguments.cache.exists():
        known.update(torch.load(arguments.cache, weights_only=True))
    nets = {size: whole(size, known, pooled=arguments.pooled) for size in (0, 2)}
    found, rows = photographs(), []
    for seed in arguments.seeds:
        sets = split(found, seed, by_chance=arguments.by_chance)
        logits = {size: answers(net, read(sets[1])) for size, net in nets.items()}
        same = float((logits[0].argmax(1) == logits[2].argmax(1)).double().mean())
        right = ", ".join(f"Lite{size} {accuracy(made, sets[1]):.2f}" for size, made in logits.items())
        print(f"seed {seed}: own heads agree on {same:.2f}; labels right: {right}", flush=True)
        for count in arguments.counts:
            for pair in PAIRS:
                rows += measured(nets, pair, count, seed, sets, pooled=arguments.pooled)
                if arguments.cache is not None:
                    torch.save(known, arguments.cache)
    print("\n".join(table(rows)))


if __name__ == "__main__":
    main()
