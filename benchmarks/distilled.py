"""Distilled: EfficientNet-Lite0 under Lite2's head, calibrated on unlabelled photographs, then taught by Lite2.

Run as `OMP_NUM_THREADS=1 python -m benchmarks.distilled`. The seam and the photographs are those of
`benchmarks/few_images.py`: the last level before the head's convolution, or with `--pooled` the vector that the
classifier reads. What learns are the adapters and the last blocks of Lite0, with `--pooled` what makes the vector of
them too; what comes before is frozen and made once for each photograph, which keeps a run to minutes of one core. Each
photograph is there mirrored, too. Every eighth is held out of both stages, with all its renderings: of one that
`calibrate` was fitted on the start looks better than it is. Beside each stage stands what Lite0's own head answers.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean, stdev

import torch
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.calibration import calibrate, distil
from autoadapt.calibration.judging import divergence
from autoadapt.contracts.modes import in_eval_mode
from benchmarks.few_images import BATCH, Features, accuracy, answers, fitted_images, whole
from benchmarks.photograph_sets import Photograph, photographs, read, split
from benchmarks.photographs import lite

BLOCKS = 7
"""Of Lite0."""
EVERY = 8
"""Of the photographs one in so many is held out."""
OWN = "own head"

Agreements = dict[str, float]
"""Whether the class is that of Lite2, by the name of the photograph."""


class Begun(nn.Module):
    """The first blocks of Lite0, frozen and remembered for each image, and the last ones.

    Args:
        learning: How many blocks are the last ones; the pool is with them, but where there are none.
        known: What is remembered.
        pooled: Whether what the head makes of the last level before it classifies comes after the blocks.
    """

    def __init__(self, learning: int, known: Features, *, pooled: bool) -> None:
        super().__init__()
        net = lite(0)
        pyramid = net.backbone
        stages = [nn.Sequential(pyramid.conv_stem, pyramid.bn1), *pyramid.blocks, *([net.head[:-1]] if pooled else [])]
        begun = len(stages) if learning == 0 else 1 + BLOCKS - learning
        self.first = nn.Sequential(*stages[:begun]).requires_grad_(False)
        self.last = nn.Sequential(*stages[begun:])
        self._name = f"begun0, {begun} stages:"
        self._known = known

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape: `[B, 3, H, W] -> [B, 320, H/32, W/32]`, or a vector `[B, 1280]`."""
        if x.device.type != "cpu":  # probed without values
            made: torch.Tensor = self.last(self.first(x))
            return made
        keys = [self._name + hashlib.sha256(image.detach().numpy().tobytes()).hexdigest() for image in x.contiguous()]
        unknown = [index for index, key in enumerate(keys) if key not in self._known]
        if unknown:
            with torch.no_grad():
                for index, begun in zip(unknown, self.first(x[unknown]), strict=True):
                    self._known[keys[index]] = begun.clone()
        learned: torch.Tensor = self.last(torch.stack([self._known[key] for key in keys]))
        return learned

    def __deepcopy__(self, memo: dict[int, object]) -> Begun:
        twin = copy.copy(self)
        twin.__dict__ = {**self.__dict__, "_modules": copy.deepcopy(self._modules, memo), "_known": self._known}
        return twin


class Stages:
    """What is said on the way of one split, and kept of it."""

    def __init__(self, seed: int, judged: Sequence[Photograph], old: nn.Module) -> None:
        self._seed = seed
        self._judged = judged
        self._images = read(judged)
        self._expected = answers(old, self._images)
        self._started = time.process_time()
        self.agreements: dict[str, Agreements] = {}

    def tell(self, stage: str, model: nn.Module) -> None:
        """Print what a stage is worth on photographs that nothing has seen."""
        logits = answers(model, self._images)
        loss, agreement = divergence(logits, self._expected, len(self._judged))
        right, seconds = accuracy(logits, self._judged), time.process_time() - self._started
        names = (str(one.path or one.name) for one in self._judged)
        self.agreements[stage] = dict(zip(names, agreement.tolist(), strict=True))
        figures = f"agreement {float(agreement.mean()):.3f}, KL {float(loss.mean()):.3f}, labels {right:.2f}"
        print(f"seed {self._seed}, {stage}: {figures}, {seconds:.0f} s", flush=True)
        self._started = time.process_time()


def of_split(asked: argparse.Namespace, seed: int, found: Sequence[Photograph], known: Features) -> Stages:
    """All stages of one split."""
    sets = split(found, seed)
    own, held = [one for index, one in enumerate(sets[0]) if index % EVERY], read(sets[0][::EVERY])
    fitted = fitted_images(own, asked.count - len(held))
    old, own_net = (whole(size, known, pooled=asked.pooled) for size in (2, 0))
    stages, model = Stages(seed, sets[1], old), copy.deepcopy(old)
    stages.tell(OWN, own_net)
    new = in_eval_mode(Begun(asked.blocks, known, pooled=asked.pooled))
    model.backbone = adapt(new, like=old.backbone, inputs=torch.zeros(1, 3, 224, 224), project="always")
    options = {"like": old.backbone, "head": old.head}
    own_head = {"own_head": own_net.head} if asked.pooled else {}
    if asked.pooled:
        calibrate(model.backbone, data=None, **own_head, **options)  # type: ignore[arg-type]
        stages.tell("calibrated without images", model)
    made = calibrate(
        model.backbone, data=fitted.split(BATCH), images=len(fitted), augment="auto" if asked.made else 0,
        seed=seed, **own_head, **options,  # type: ignore[arg-type]
    )  # fmt: skip
    print(made.solver, file=sys.stderr)
    stages.tell("calibrated", model)
    for rate in asked.lr:
        taught, generator = copy.deepcopy(model), torch.Generator().manual_seed(seed)
        loader = torch.utils.data.DataLoader(
            torch.cat([fitted, fitted.flip(-1)]), batch_size=16, shuffle=True, generator=generator, drop_last=True
        )  # type: ignore[var-annotated]
        learned = distil(
            taught.backbone, data=loader, held_out=held.split(BATCH), steps=asked.steps, lr=rate,
            levels=asked.levels, **options,  # type: ignore[arg-type]
        )  # fmt: skip
        print(learned, file=sys.stderr, flush=True)
        stages.tell(f"distilled, {asked.steps} steps at {rate:g}", taught)
    return stages


def differences(some: Sequence[Mapping[str, Agreements]]) -> list[str]:
    """Agreement of each stage and what it is above the own head's, photograph by photograph, over all splits.

    A photograph that several splits judge counts once, with its mean: standard errors are those of different ones.
    """
    lines = []
    for stage in some[0]:
        above, here = defaultdict(list), []
        for agreements in some:
            for name, agreement in agreements[stage].items():
                above[name].append(agreement - agreements[OWN][name])
                here.append(agreement)
        apart = [fmean(each) for each in above.values()]
        error = stdev(apart) / len(apart) ** 0.5
        lines.append(f"{stage}: {fmean(here):.3f}, above the own head {fmean(apart):+.3f} ± {error:.3f}")
    return lines


def main() -> None:
    """Print what each stage is worth on photographs that nothing has seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, nargs="+", default=[3e-4], help="each from the calibrated model on")
    parser.add_argument("--blocks", type=int, default=3, help=f"how many of Lite0's {BLOCKS} learn, from the last on")
    parser.add_argument("--pooled", action="store_true", help="the seam before the classifier")
    parser.add_argument("--made", action="store_true", help="calibrate on images that it makes as well")
    parser.add_argument("--levels", type=float, default=1.0)
    parser.add_argument("--cache", type=Path, help="a file that features are kept in, for another run")
    asked = parser.parse_args()
    known: Features = {}
    if asked.cache is not None and asked.cache.exists():
        known.update(torch.load(asked.cache, weights_only=True))
    found, all_stages = photographs(), []
    for seed in asked.seeds:
        all_stages.append(of_split(asked, seed, found, known).agreements)
        if asked.cache is not None:
            torch.save(known, asked.cache)
    print("\n".join(differences(all_stages)))


if __name__ == "__main__":
    main()
