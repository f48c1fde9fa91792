"""Decoders and detectors: a new backbone under what was trained on the old one, calibrated on unlabelled scenes.

Run as `OMP_NUM_THREADS=1 python -m benchmarks.dense_heads`. A U-Net, an FPN (both of segmentation_models_pytorch) and a
Faster R-CNN (torchvision) are trained on EfficientNet-Lite2 with its ImageNet weights, which stay as they are; then
EfficientNet-Lite0 takes its place. Beside the calibrated adapters stand those that a plan by hand would have: the same
layers with random weights. Both are trained on labelled scenes with the decoder or detector, and evaluated on the way.
"""

from __future__ import annotations

import argparse
import copy
import hashlib
import itertools
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from autoadapt.adapting.building import param_groups
from autoadapt.calibration import calibrate
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.showing.tables import columns
from autoadapt.swapping import swap
from benchmarks.photographs import lite
from benchmarks.scenes import KINDS, SIZE, Objects, Scene, scenes

BATCH = 12
EVALUATED = (0, 8, 16, 32, 50, 100, 200)
RATE = 1e-3
ENOUGH = 0.95
"""Share of the old figure that steps are counted to."""

Features = dict[str, list[torch.Tensor]]


class Remembered(nn.Module):
    """A frozen pyramid that makes the levels of each image once."""

    def __init__(self, pyramid: nn.Module, known: Features | None = None) -> None:
        super().__init__()
        self.pyramid = pyramid.requires_grad_(False)
        self._known: Features = {} if known is None else known

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """Shape: `[B, 3, H, W]` -> levels `[B, C, H/2, W/2]` to `[B, C, H/32, W/32]`."""
        if x.device.type != "cpu" or tuple(x.shape[-2:]) != (SIZE, SIZE):  # probed
            made: list[torch.Tensor] = self.pyramid(x)
            return made
        keys = [hashlib.sha256(image.detach().numpy().tobytes()).hexdigest() for image in x.contiguous()]
        unknown = [index for index, key in enumerate(keys) if key not in self._known]
        if unknown:
            self.pyramid.eval()  # its statistics are those of ImageNet, also while what follows it trains
            with torch.no_grad():
                levels = self.pyramid(x[unknown])
            for row, index in enumerate(unknown):
                self._known[keys[index]] = [level[row].clone() for level in levels]
        return [torch.stack(level) for level in zip(*(self._known[key] for key in keys), strict=True)]

    def __deepcopy__(self, memo: dict[int, object]) -> Remembered:
        return Remembered(copy.deepcopy(self.pyramid, memo), self._known)


class Levels(nn.Module):
    """A pyramid of levels by name and the feature pyramid on them, as torchvision's detectors have it."""

    def __init__(self, body: nn.Module, channels: Sequence[int]) -> None:
        super().__init__()
        from torchvision.ops import FeaturePyramidNetwork

        self.body = body
        self.fpn = FeaturePyramidNetwork(list(channels[1:]), 48)
        self.out_channels = 48

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """Shape: `[B, 3, H, W]` -> `[B, 48, H/s, W/s]` at strides of 4 to 32."""
        made: dict[str, torch.Tensor] = self.fpn(OrderedDict(zip("1234", self.body(x)[1:], strict=True)))
        return made


class Task:
    """A model, where its backbone stands, how it trains and what it is worth."""

    place: str
    figure: str

    def model(self, pyramid: nn.Module, kinds: int) -> nn.Module:
        """The model over a pyramid."""
        raise NotImplementedError

    def loss(self, model: nn.Module, batch: Sequence[Scene]) -> torch.Tensor:
        """What training minimises."""
        raise NotImplementedError

    def batch(self, some: Sequence[Scene]) -> Any:
        """Unlabelled images as the model takes them."""
        return torch.stack([one.image for one in some])

    def worth(self, model: nn.Module, judged: Sequence[Scene], kinds: int) -> float:
        """The figure on scenes that nothing was fitted on."""
        raise NotImplementedError


class Segmentation(Task):
    """A decoder of segmentation_models_pytorch."""

    place, figure = "encoder", "mIoU"

    def __init__(self, name: str) -> None:
        self._name = name

    def model(self, pyramid: nn.Module, kinds: int) -> nn.Module:
        """An smp model with the pyramid in its encoder."""
        import segmentation_models_pytorch as smp

        narrow = {"decoder_channels": (48, 32, 24, 16, 12)} if self._name == "Unet" else {
            "decoder_pyramid_channels": 48, "decoder_segmentation_channels": 32, "decoder_dropout": 0.0,
        }  # fmt: skip
        options = {"encoder_weights": None, "classes": kinds + 1, **narrow}
        made: nn.Module = getattr(smp, self._name)("tu-tf_efficientnet_lite2", **options)
        made.encoder.model = pyramid
        return made

    def loss(self, model: nn.Module, batch: Sequence[Scene]) -> torch.Tensor:
        """Cross-entropy, the background counting for less, and one minus Dice's coefficient of the objects' classes."""
        logits, wanted = model(self.batch(batch)), torch.stack([one.mask for one in batch])
        weights = torch.ones(logits.shape[1])
        weights[0] = 0.25
        found = logits.softmax(1)[:, 1:]
        there = F.one_hot(wanted, logits.shape[1]).movedim(-1, 1)[:, 1:]
        dice = 2 * (found * there).sum((0, 2, 3)) / (found.sum((0, 2, 3)) + there.sum((0, 2, 3))).clamp(min=1)
        return F.cross_entropy(logits, wanted, weights) + (1 - dice).mean()

    def worth(self, model: nn.Module, judged: Sequence[Scene], kinds: int) -> float:
        """Mean over classes of intersection over union, of all scenes together."""
        counts = torch.zeros(kinds + 1, kinds + 1, dtype=torch.int64)
        with torch.no_grad():
            for part in _batches(judged):
                found, wanted = model(self.batch(part)).argmax(1), torch.stack([one.mask for one in part])
                counts += torch.bincount((wanted * (kinds + 1) + found).flatten(), minlength=counts.numel()).view_as(
                    counts
                )
        both = counts.diagonal()
        return float((both / (counts.sum(0) + counts.sum(1) - both).clamp(min=1)).mean())


class Detection(Task):
    """Faster R-CNN of torchvision."""

    place, figure = "backbone.body", "AP50"

    def model(self, pyramid: nn.Module, kinds: int) -> nn.Module:
        """A small detector over a feature pyramid."""
        from torchvision.models.detection import FasterRCNN
        from torchvision.models.detection.anchor_utils import AnchorGenerator
        from torchvision.models.detection.faster_rcnn import FastRCNNPredictor, TwoMLPHead
        from torchvision.ops import MultiScaleRoIAlign

        return FasterRCNN(
            Levels(pyramid, lite_channels(2)),
            rpn_anchor_generator=AnchorGenerator(((14,), (22,), (32,), (46,)), ((0.5, 1.0, 2.0),) * 4),
            box_roi_pool=MultiScaleRoIAlign(["1", "2", "3", "4"], 5, 2),
            box_head=TwoMLPHead(48 * 25, 128),
            box_predictor=FastRCNNPredictor(128, kinds + 1),
            min_size=SIZE,
            max_size=SIZE,
            image_mean=[0.0] * 3,
            image_std=[1.0] * 3,
            rpn_pre_nms_top_n_train=400,
            rpn_post_nms_top_n_train=200,
            rpn_pre_nms_top_n_test=200,
            rpn_post_nms_top_n_test=60,
            box_batch_size_per_image=64,
            box_detections_per_img=20,
        )

    def batch(self, some: Sequence[Scene]) -> Any:
        """A list of images."""
        return [one.image for one in some]

    def loss(self, model: nn.Module, batch: Sequence[Scene]) -> torch.Tensor:
        """The sum of the detector's own four."""
        losses = model(self.batch(batch), [{"boxes": one.boxes, "labels": one.labels} for one in batch])
        return torch.stack(list(losses.values())).sum()

    def worth(self, model: nn.Module, judged: Sequence[Scene], kinds: int) -> float:
        """Mean over classes of the average precision at an overlap of one half."""
        with torch.no_grad():
            found = [one for part in _batches(judged) for one in model(self.batch(part))]
        return float(np.mean([average_precision(found, judged, label) for label in range(1, kinds + 1)]))


def average_precision(found: Sequence[Mapping[str, torch.Tensor]], judged: Sequence[Scene], label: int) -> float:
    """Area under precision by recall, precision made to fall (as in PASCAL VOC since 2010), of one class."""
    from torchvision.ops import box_iou

    hits: list[tuple[float, bool]] = []
    total = 0
    for one, scene in zip(found, judged, strict=True):
        wanted, mine = scene.boxes[scene.labels == label], one["labels"] == label
        total += len(wanted)
        free = torch.ones(len(wanted), dtype=torch.bool)
        order = one["scores"][mine].argsort(descending=True)
        for box, score in zip(one["boxes"][mine][order], one["scores"][mine][order], strict=True):
            overlap = box_iou(box[None], wanted)[0] * free if len(wanted) else torch.zeros(1)
            best = int(overlap.argmax())
            hits.append((float(score), bool(overlap[best] >= 0.5)))
            if hits[-1][1]:
                free[best] = False
    right = np.array([hit for _, hit in sorted(hits, key=lambda each: -each[0])], dtype=float)
    if not total or not len(right):
        return 0.0
    precision = right.cumsum() / np.arange(1, len(right) + 1)
    return float((np.maximum.accumulate(precision[::-1])[::-1] * right).sum() / total)


def lite_channels(size: int) -> list[int]:
    """Channels of the levels."""
    channels: list[int] = lite(size).backbone.feature_info.channels()
    return channels


def _batches(some: Sequence[Scene]) -> list[Sequence[Scene]]:
    return [some[first : first + BATCH] for first in range(0, len(some), BATCH)]


def trained(
    task: Task, model: nn.Module, fitted: Sequence[Scene], steps: int, groups: list[dict[str, Any]],
    after: Callable[[int], None] = lambda _step: None, seed: int = 0,
) -> None:  # fmt: skip
    """So many steps of AdamW, the rate falling along a cosine."""
    optimiser = torch.optim.AdamW(groups, weight_decay=1e-4)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    generator = torch.Generator().manual_seed(seed)
    after(0)
    for step in range(1, steps + 1):
        model.train()
        chosen = torch.randint(len(fitted), (BATCH,), generator=generator).tolist()
        loss = task.loss(model, [fitted[index] for index in chosen])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if step % 25 == 0:
            say(f"step {step}: loss {loss.item():.3f}")
        model.eval()
        after(step)


def curve(
    task: Task, model: nn.Module, sets: tuple[list[Scene], list[Scene]], kinds: int, fresh: float
) -> dict[int, float]:
    """The figure after so many steps of training adapters and what follows them; the backbone stays as it is."""
    worths: dict[int, float] = {}

    def after(step: int) -> None:
        if step in EVALUATED:
            worths[step] = task.worth(model, sets[1], kinds)

    groups = [dict(group) for group in param_groups(model, lr=RATE / 2, fresh=fresh) if group["name"] != "backbone"]
    trained(task, model, sets[0], EVALUATED[-1], groups, after)
    return worths


def steps_to(worths: Mapping[int, float], wanted: float) -> float:
    """After how many steps the figure is reached, between evaluations along a line; infinite if it never is."""
    for (step, low), (later, high) in itertools.pairwise(worths.items()):
        if low >= wanted:
            return step
        if high >= wanted:
            return step + (later - step) * (wanted - low) / (high - low)
    return float("inf")


def measured(
    name: str, task: Task, objects: Objects, asked: argparse.Namespace, known: dict[int, Features]
) -> list[str]:
    """One task: old, swapped, calibrated, and both trained on."""
    kinds = len(KINDS[objects])
    sets = scenes(objects, asked.fitted, asked.judged, asked.seed)
    torch.manual_seed(asked.seed)
    old = task.model(Remembered(in_eval_mode(lite(2).backbone), known[2]), kinds)
    started = time.perf_counter()
    kept = None if asked.cache is None else asked.cache / f"{name}-{objects}-{asked.seed}-{asked.steps}.pt"
    if kept is not None and kept.exists():
        old.load_state_dict(torch.load(kept, weights_only=True))
    else:
        parameters = [one for one in old.parameters() if one.requires_grad]
        trained(task, old, sets[0], asked.steps, [{"params": parameters, "lr": 2 * RATE}])
    if kept is not None:
        torch.save(old.state_dict(), kept)
    old.eval()
    full = task.worth(old, sets[1], kinds)
    say(f"{name}: old {task.figure} {full:.3f}, {time.perf_counter() - started:.0f} s")
    model = copy.deepcopy(old)
    new = Remembered(in_eval_mode(lite(0).backbone), known[0])
    torch.manual_seed(asked.seed)
    swap(model, task.place, new, inputs=(task.batch(sets[0][:2]),), project="always")
    model.eval()
    by_hand = copy.deepcopy(model)
    started = time.perf_counter()
    some = sets[0][: asked.images]
    found = calibrate(
        model, like=old, at=task.place, data=[(task.batch(part),) for part in _batches(some)], images=asked.images,
        refine=asked.refine, augment=asked.augment,
    )  # fmt: skip
    calibrated = task.worth(model, sets[1], kinds)
    say(f"{name}: calibrated {calibrated:.3f} in {time.perf_counter() - started:.0f} s\n{found}")
    if not asked.train:
        return [name, f"{full:.3f}", f"{task.worth(by_hand, sets[1], kinds):.3f}", f"{calibrated:.3f}"]
    curves = {"calibrated": curve(task, model, sets, kinds, 10.0)}
    say(f"{name}: calibrated {curves['calibrated']}")
    for fresh in (1.0, 10.0):
        curves[f"by hand, {fresh:g}x"] = curve(task, copy.deepcopy(by_hand), sets, kinds, fresh)
        say(f"{name}: by hand, {fresh:g}x {curves[f'by hand, {fresh:g}x']}")
    steps = {kind: steps_to(each, ENOUGH * full) for kind, each in curves.items()}
    best = min((kind for kind in curves if kind != "calibrated"), key=lambda kind: steps[kind])
    return [
        name, f"{full:.3f}", *(f"{curves[best][n]:.3f}" for n in (0, 50, 200)),
        *(f"{curves['calibrated'][n]:.3f}" for n in (0, 50, 200)), f"{calibrated / full:.2f}",
        f"{steps['calibrated']:.0f}", f"{steps[best]:.0f}", best,
    ]  # fmt: skip


def say(text: str) -> None:
    """Progress."""
    print(text, file=sys.stderr, flush=True)


TASKS: Mapping[str, Task] = {"Unet": Segmentation("Unet"), "FPN": Segmentation("FPN"), "Faster R-CNN": Detection()}


def main() -> None:
    """Print the table; progress goes to standard error."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", nargs="+", default=list(TASKS), choices=list(TASKS))
    parser.add_argument("--objects", choices=list(KINDS), default="stamps")
    parser.add_argument("--images", type=int, default=128, help="unlabelled scenes to calibrate on")
    parser.add_argument("--fitted", type=int, default=800, help="labelled scenes to train on")
    parser.add_argument("--judged", type=int, default=120)
    parser.add_argument("--steps", type=int, default=300, help="of the old model's training")
    parser.add_argument("--cache", type=Path, help="a folder that old models are kept in, for another run")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--refine", default="0", type=lambda text: text if text == "auto" else int(text))
    parser.add_argument("--augment", default="auto", type=lambda text: text if text == "auto" else int(text))
    parser.add_argument("--train", action=argparse.BooleanOptionalAction, default=True)
    asked = parser.parse_args()
    known: dict[int, Features] = {0: {}, 2: {}}
    titles = ["", "old", "by hand, 0 steps", "50", "200", "calibrated, 0 steps", "50", "200", "of old", "steps to 95 %"]
    titles = [*titles, "by hand", "its rate"] if asked.train else ["", "old", "swapped", "calibrated"]
    rows = [tuple(titles)]
    for name in asked.tasks:
        rows.append(tuple(measured(name, TASKS[name], asked.objects, asked, known)))
        say("\n".join(columns(rows, align="l" + "r" * (len(titles) - 1))))
    print("\n".join(columns(rows, align="l" + "r" * (len(titles) - 1))))


if __name__ == "__main__":
    main()
