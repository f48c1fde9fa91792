"""Distilled: EfficientNet-Lite0 under Lite2's head, calibrated on unlabelled photographs, then taught by Lite2.

Run as `OMP_NUM_THREADS=1 python -m benchmarks.distilled`. The seam and the photographs are those of
`benchmarks/few_images.py`. What learns are the adapters and the last blocks of Lite0; what comes before is frozen and
made once for each photograph, which keeps a run to minutes of one core. Each photograph is there mirrored, too. Every
eighth is held out of both stages, with all its renderings: of one that `calibrate` was fitted on the start looks better
than it is.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import sys
import time
from pathlib import Path

import torch
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.calibration import calibrate, distil
from autoadapt.calibration.judging import divergence
from autoadapt.contracts.modes import in_eval_mode
from benchmarks.few_images import BATCH, Features, Whole, accuracy, answers, fitted_images, whole
from benchmarks.photograph_sets import photographs, read, split
from benchmarks.photographs import lite

BLOCKS = 7
"""Of Lite0."""
EVERY = 8
"""Of the photographs one in so many is held out."""


class Begun(nn.Module):
    """The first blocks, frozen and remembered for each image, and the last ones."""

    def __init__(self, pyramid: nn.Module, learning: int, known: Features) -> None:
        super().__init__()
        begun = BLOCKS - learning
        self.first = nn.Sequential(pyramid.conv_stem, pyramid.bn1, *pyramid.blocks[:begun]).requires_grad_(False)
        self.last = nn.Sequential(*pyramid.blocks[begun:])
        self._name = f"begun0, {begun} blocks:"
        self._known = known

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape: `[B, 3, H, W] -> [B, 320, H/32, W/32]`."""
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


def main() -> None:
    """Print what each stage is worth on photographs that nothing has seen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=400)
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--blocks", type=int, default=3, help=f"how many of Lite0's {BLOCKS} learn, from the last on")
    parser.add_argument("--made", action="store_true", help="calibrate on images that it makes as well")
    parser.add_argument("--levels", type=float, default=1.0)
    parser.add_argument("--cache", type=Path, help="a file that features are kept in, for another run")
    asked = parser.parse_args()
    known: Features = {}
    if asked.cache is not None and asked.cache.exists():
        known.update(torch.load(asked.cache, weights_only=True))
    sets = split(photographs(), asked.seed)
    own, held = [one for index, one in enumerate(sets[0]) if index % EVERY], read(sets[0][::EVERY])
    fitted, judged = fitted_images(own, asked.count - len(held)), read(sets[1])
    old: Whole = whole(2, known)
    new = in_eval_mode(Begun(lite(0).backbone, asked.blocks, known))
    expected = answers(old, judged)
    model = copy.deepcopy(old)
    model.backbone = adapt(new, like=old.backbone, inputs=torch.zeros(1, 3, 224, 224), project="always")

    def tell(stage: str, started: float) -> None:
        logits = answers(model, judged)
        loss, agreement = (float(each.mean()) for each in divergence(logits, expected, len(judged)))
        right = accuracy(logits, sets[1])
        seconds = time.process_time() - started
        print(f"{stage}: agreement {agreement:.3f}, KL {loss:.2f}, labels {right:.2f}, {seconds:.0f} s", flush=True)

    options = {"like": old.backbone, "head": old.head}
    started = time.process_time()
    calibrate(
        model.backbone, data=fitted.split(BATCH), images=len(fitted), augment="auto" if asked.made else 0,
        seed=asked.seed, **options,  # type: ignore[arg-type]
    )  # fmt: skip
    tell("calibrated", started)
    if asked.cache is not None:
        torch.save(known, asked.cache)
    generator = torch.Generator().manual_seed(asked.seed)
    loader = torch.utils.data.DataLoader(
        torch.cat([fitted, fitted.flip(-1)]), batch_size=16, shuffle=True, generator=generator, drop_last=True
    )  # type: ignore[var-annotated]
    started = time.process_time()
    made = distil(
        model.backbone, data=loader, held_out=held.split(BATCH), steps=asked.steps, lr=asked.lr, levels=asked.levels,
        **options,  # type: ignore[arg-type]
    )  # fmt: skip
    print(made, file=sys.stderr)
    tell(f"distilled, {asked.steps} steps", started)


if __name__ == "__main__":
    main()
