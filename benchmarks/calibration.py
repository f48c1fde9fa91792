"""Calibration on real weights and real photographs, beside the float32 recipe of SN-Net.

Run as `python -m benchmarks.calibration`. Cost runs each in a process of its own, so that the peak of resident memory
is its own. Held-out crops come from photographs that were not fitted on.
"""

from __future__ import annotations

import argparse
import copy
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import torch
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.calibration import Calibration, Recipe, calibrate
from autoadapt.calibration.judging import divergence
from autoadapt.calibration.projections import find_projections, set_weight
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.showing.tables import columns
from benchmarks.photographs import FITTED, HELD_OUT, Classifier, crops, lite
from examples import digits

PAIRS = ((0, 2), (1, 2), (2, 0), (0, 1))
COUNTS = (8, 32, 128)
BATCH = 8

Row = tuple[str, ...]


def swapped(old: Classifier, new: Classifier) -> Classifier:
    """The old classifier with the new one's backbone, every level with a projection."""
    model = copy.deepcopy(old)
    model.backbone = adapt(new.backbone, like=old.backbone, inputs=torch.zeros(1, 3, 224, 224), project="always")
    return model


def fit(kind: str, model: Classifier, old: Classifier, images: torch.Tensor) -> Calibration | None:
    """Fit the adapters by one recipe."""
    if kind == "pinv":
        float32_pinv(model, old, images)
    elif kind == "mean":
        only_mean(model, old, images)
    elif kind == "calibrate":
        batches = images.split(BATCH)
        return calibrate(model, at="backbone", like=old, data=batches, images=len(images))
    return None


def float32_pinv(model: Classifier, old: Classifier, images: torch.Tensor) -> None:
    """What SN-Net (Pan et al., 2023) does: all tokens kept, one pseudo-inverse in float32, here with an offset."""
    kept: dict[str, tuple[list[torch.Tensor], list[torch.Tensor]]] = {}
    projections = find_projections(model.backbone)
    with torch.no_grad():
        for batch in images.split(BATCH):
            wanted, found = old.backbone(batch), model.backbone.backbone(batch)
            for projection in projections:
                x, y = found[int(projection.route.source)], wanted[int(projection.route.target)]
                pair = kept.setdefault(projection.module, ([], []))
                for side, level in zip(pair, (x, y), strict=True):
                    side.append(level.movedim(1, -1).flatten(0, -2))
        for name, (sources, targets) in kept.items():
            x = torch.cat(sources)
            weight = torch.linalg.pinv(torch.cat([x, torch.ones(len(x), 1)], 1)) @ torch.cat(targets)
            set_weight(model.backbone.get_submodule(name), weight[:-1], weight[-1])


def only_mean(model: Classifier, old: Classifier, images: torch.Tensor) -> None:
    """Adapters that give the mean of the old features, whatever they see."""
    with torch.no_grad():
        levels = [old.backbone(batch) for batch in images.split(BATCH)]
        for projection in find_projections(model.backbone):
            number = int(projection.route.target)
            mean = torch.cat([level[number] for level in levels]).mean((0, 2, 3))
            layer = model.backbone.get_submodule(projection.module)
            set_weight(layer, torch.zeros(projection.step.source, projection.step.target), mean)


def answers(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Logits of all images."""
    with torch.no_grad():
        return torch.cat([model(batch) for batch in images.split(BATCH)])


def compared(found: torch.Tensor, expected: torch.Tensor) -> tuple[float, float]:
    """Divergence and agreement."""
    loss, agreement = divergence(found, expected, len(found))
    return float(loss.mean()), float(agreement.mean())


def quality(counts: Sequence[int], pairs: Sequence[tuple[int, int]]) -> list[Row]:
    """KL and agreement with the old model on other photographs, by recipe."""
    fitted, held_out = crops(FITTED, max(counts)), crops(HELD_OUT, 60, seed=1)
    nets = {size: lite(size) for size in sorted({size for pair in pairs for size in pair})}
    expected = {size: answers(net, held_out) for size, net in nets.items()}
    rows: list[Row] = [("pair, images", "random", "mean only", "float32 pinv", "calibrate", "own head", "chosen")]
    for new, old in pairs:
        own = compared(expected[new], expected[old])
        for count in counts:
            scores, chosen = [], ""
            for kind in ("random", "mean", "pinv", "calibrate"):
                torch.manual_seed(0)
                model = swapped(nets[old], nets[new])
                result = fit(kind, model, nets[old], fitted[:count])
                chosen = chosen if result is None else result.solver
                scores.append(compared(answers(model, held_out), expected[old]))
            cells = [f"{loss:.2f} {agreement:.2f}" for loss, agreement in (*scores, own)]
            rows.append((f"Lite{new} -> Lite{old}, {count}", *cells, chosen))
            print("\n".join(columns(rows[-1:], align="lrrrrrl")), file=sys.stderr, flush=True)
    return rows


class Deep(nn.Module):
    """An EfficientNet-Lite up to its 1,280 channels."""

    def __init__(self, whole: Classifier) -> None:
        super().__init__()
        self.backbone = whole.backbone
        self.last = whole.head[:2]

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape: `[B, 3, H, W] -> [B, 1280, H/32, W/32]`."""
        made: torch.Tensor = self.last(self.backbone(x)[-1])
        return made


WIDE = {"512": ("resnet34", "resnet18"), "2048": ("resnext50_32x4d", "resnet50")}
"""Old and new network by the channels of their last level."""


class LastLevel(nn.Module):
    """The last level of a timm network with random weights."""

    def __init__(self, name: str) -> None:
        super().__init__()
        import timm

        self.pyramid = in_eval_mode(timm.create_model(name, features_only=True, out_indices=(-1,)))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Shape: `[B, 3, H, W] -> [B, C, H/32, W/32]`."""
        made: torch.Tensor = self.pyramid(x)[0]
        return made


def prepared(kind: str) -> tuple[nn.Module, nn.Module, torch.Tensor, Callable[[], Calibration | None]]:
    """Two networks, 128 images, and what is to be measured."""
    torch.manual_seed(0)
    kind, _, wide = kind.partition("-")
    if wide in WIDE:
        old, new = (LastLevel(name) for name in WIDE[wide])
        images, head = crops(FITTED, 128)[..., 64:-64, 64:-64], nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())
        options = {"head": head, "augment": 0}
    else:
        images, (old, new) = crops(FITTED, 128), (lite(2), lite(0))  # type: ignore[assignment]
        if not wide:
            model = swapped(old, new)  # type: ignore[arg-type]
            return old, new, images, lambda: fit(kind, model, old, images)  # type: ignore[arg-type]
        options = {"head": nn.Sequential(old.head[2:])}  # type: ignore[index]
        old, new = in_eval_mode(Deep(old)), in_eval_mode(Deep(new))  # type: ignore[arg-type]
    net = adapt(new, like=old, inputs=images[:1], project="always")
    return old, new, images, lambda: calibrate(net, like=old, data=images.split(BATCH), **options)  # type: ignore[arg-type]


def child(kind: str) -> None:
    """Calibrate once and print what it took, in this process, beside what the networks alone take."""
    old, new, images, run = prepared(kind)
    started = time.process_time()
    for net in (old, new):
        answers(net, images)
    bare, started, before = time.process_time() - started, time.process_time(), peak()
    result = run()
    seconds = time.process_time() - started
    solver = result.solver_seconds if result is not None else float("nan")
    print(json.dumps({"seconds": seconds, "bare": bare, "solver": solver, "peak": peak() - before}))


def peak() -> float:
    """Largest resident memory of this process so far, MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmHWM"))


def cost(rounds: int) -> list[Row]:
    """Time of the processor and memory for 128 images, Lite0 as Lite2 at 224x224 and others at 96x96."""
    rows: list[Row] = [("128 images", "seconds", "of bare passes", "solver, wall", "peak MiB over the models")]
    names = {
        "calibrate": "calibrate, 5 levels",
        "pinv": "float32 pinv, 5 levels",
        "calibrate-deep": "calibrate, 1280 -> 1280 channels",
        "calibrate-512": "calibrate, ResNet-18 as 34 at 96x96, 512 channels",
        "calibrate-2048": "calibrate, ResNet-50 as ResNeXt-50 at 96x96, 2048 channels",
    }
    for kind, name in names.items():
        command = [sys.executable, "-m", "benchmarks.calibration", "--child", kind]
        runs = [json.loads(subprocess.check_output(command, text=True).splitlines()[-1]) for _ in range(rounds)]
        middle = {key: median(run[key] for run in runs) for key in ("seconds", "bare", "solver", "peak")}
        solver = "" if middle["solver"] != middle["solver"] else f"{middle['solver']:.1f}"
        times = f"{middle['seconds'] / middle['bare']:.1f}x"
        rows.append((name, f"{middle['seconds']:.1f}", times, solver, f"{middle['peak']:.0f}"))
    return rows


def digit_rows(seeds: int) -> list[Row]:
    """Accuracy on digits: before, swapped, calibrated, and the best fixed ridge penalty chosen by hindsight."""
    names = (
        "before",
        "swapped",
        "8 images",
        "8, best ridge by hindsight",
        "32 images",
        "8, steps",
        "32, steps",
        "own head",
    )
    found: list[dict[str, float]] = []
    for seed in range(seeds):
        images, labels = digits.digits(seed)
        held_out = images[digits.TRAINED :], labels[digits.TRAINED :]
        old, new = digits.networks(seed)

        def accuracy(count: int, **options: object) -> float:
            net = digits.swapped(old, new)  # noqa: B023
            batches = images[:count].split(16)  # noqa: B023
            calibrate(net, at="backbone", like=old, data=batches, images=count, **options)  # type: ignore[arg-type]  # noqa: B023
            return digits.accuracy(net, *held_out)  # noqa: B023

        torch.manual_seed(seed)
        row = {"before": digits.accuracy(old, *held_out)}
        row["swapped"] = digits.accuracy(digits.swapped(old, new), *held_out)
        row["8 images"], row["32 images"] = accuracy(8), accuracy(32)
        penalties = [10.0 ** (exponent / 2) for exponent in range(-8, 3)]
        row["8, best ridge by hindsight"] = max(accuracy(8, solver=Recipe(penalty)) for penalty in penalties)
        row["8, steps"], row["32, steps"] = (accuracy(count, refine="auto") for count in (8, 32))
        row["own head"] = digits.accuracy(new, *held_out)
        found.append(row)
    rows: list[Row] = [("digits, seed", *names)]
    rows += [(str(seed), *(f"{row[name]:.3f}" for name in names)) for seed, row in enumerate(found)]
    rows.append(("median", *(f"{median(row[name] for row in found):.3f}" for name in names)))
    for name in ("8 images", "8, steps", "32 images", "32, steps"):
        shares = [row[name] / row["before"] for row in found]
        rows.append((f"{name} over before: median {median(shares):.3f}, worst {min(shares):.3f}",))
    return rows


def said_rows(seeds: int) -> list[Row]:
    """What reports on digits say of the agreement with the old network, beside that on digits not looked at.

    How far they are apart is counted in standard errors of their difference.
    """
    rows: list[Row] = [("digits, seed", "images", "said", "real", "standard errors apart")]
    for seed in range(seeds):
        images = digits.digits(seed)[0]
        held_out = images[digits.TRAINED :]
        old, new = digits.networks(seed)
        for count in (8, 32):
            net = digits.swapped(old, new)
            found = calibrate(net, at="backbone", like=old, data=images[:count].split(16), images=count)
            told = found.head if found.written else found.random
            assert told is not None
            assert told.agreement is not None
            assert told.agreement_error is not None
            real = compared(answers(net, held_out), answers(old, held_out))[1]
            error = (told.agreement_error**2 + real * (1 - real) / len(held_out)) ** 0.5
            apart = abs(told.agreement - real) / error
            said = f"{told.agreement:.3f} ± {told.agreement_error:.3f}"
            rows.append((str(seed), str(count), said, f"{real:.3f}", f"{apart:.1f}"))
    near = sum(float(row[-1]) <= 2 for row in rows[1:])
    return [*rows, (f"within two standard errors: {near} of {len(rows) - 1}", "", "", "", "")]


def main() -> None:
    """Print all tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seeds", type=int, default=12)
    parser.add_argument("--only", choices=("cost", "quality", "digits", "said"))
    arguments = parser.parse_args()
    if arguments.child:
        child(arguments.child)
        return
    if arguments.only in (None, "cost"):
        print("\n".join(columns(cost(arguments.rounds), align="lrrrr")), "\n", flush=True)
    if arguments.only in (None, "digits"):
        print("\n".join(columns(digit_rows(arguments.seeds), align="l" + "r" * 8)), "\n", flush=True)
    if arguments.only in (None, "said"):
        print("\n".join(columns(said_rows(arguments.seeds), align="lrrrr")), "\n", flush=True)
    if arguments.only in (None, "quality"):
        print("KL (nats) and agreement with the old model on photographs that were not fitted on")
        print("\n".join(columns(quality(COUNTS, PAIRS), align="lrrrrrl")))


if __name__ == "__main__":
    main()
