"""Distilling: the old model teaches the new backbone and its adapters, on images without labels."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader, RandomSampler, Subset

from autoadapt.adapting.building import AdaptedModule, mark_calibrated
from autoadapt.calibration.asked import check_asked
from autoadapt.calibration.courses import Course, Rates
from autoadapt.calibration.distillations import Distillation
from autoadapt.calibration.honesty import gain_over, on_others
from autoadapt.calibration.judging import Head, Loss, Score, copied_head
from autoadapt.calibration.paired_runs import pair_of
from autoadapt.calibration.projections import all_or_none
from autoadapt.calibration.results import HeadScore
from autoadapt.calibration.workers import together
from autoadapt.contracts.capturing.regions import RegionPath
from autoadapt.contracts.instances import check_module
from autoadapt.contracts.randomness import quiet
from autoadapt.contracts.unfit import off_the_meta_device
from autoadapt.errors import CalibrationError, Mismatch
from autoadapt.files.writing import check_place
from autoadapt.showing.progress import telling

LOOKS = 8
"""How often the images held out are looked at on the way, beside the start."""
EVERY = 8
"""Of the data one batch or image in so many is held out."""
_ALIKE = (
    "batch_size",
    "num_workers",
    "collate_fn",
    "generator",
    "timeout",
    "worker_init_fn",
    "multiprocessing_context",
)


def distil(
    net: nn.Module,
    *,
    like: nn.Module | str,
    data: Iterable[object],
    held_out: Iterable[object] | None = None,
    steps: int = 400,
    lr: float = 1e-4,
    levels: float = 1.0,
    head: Head | None = None,
    at: RegionPath | None = None,
    loss: Loss | None = None,
    device: torch.device | str | None = None,
    state: str | Path | None = None,
) -> Distillation:
    """Teach the new backbone and its adapters what the old model answers, without labels.

    Where `calibrate` solves for the adapters alone, this takes steps of AdamW on all parameters of the adapted module
    that take a gradient: freeze what is to stay. What follows it stays as it is. What is lost is how far the answer is
    from the old one, and the squared error of each level over its variance. Copies learn, in eval mode; the weights of
    the step that was best for images held out are written at the end, and only where they beat those of the start by
    more than a standard error.

    Args:
        net: What `adapt` returned, or a bigger model that has it at `at`; best after `calibrate`.
        like: The old backbone, or the old bigger model; or the name of a backbone, `timm:resnet18`.
        data: Batches of images as the model takes them, as for `calibrate`; passed over again and again.
        held_out: Batches to judge on, none that `calibrate` was fitted on: these flatter the start. If left out, every
            eighth image of a `DataLoader`'s dataset, or batch of a list, which then is not learned from.
        steps: How many, of a batch each.
        lr: The rate of the backbone and of adapters that were calibrated, which rises to this over a tenth of the
            steps and falls to 0 along a cosine; fresh adapters have ten times as much.
        levels: Weight of the levels beside the answer; 0 for the answer alone. Beside an answer a level whose adapter
            was calibrated counts for the share of its variance that it explains of the old one on images held out.
        head: What makes the answer of the backbone's output, as for `calibrate`.
        at: Path of the adapted module in a bigger model, or the region in whose place it stands.
        loss: How far an answer is from the old one, as for `calibrate`.
        device: Where to run; where the model is, if left out.
        state: A `.safetensors` file to go on from if it exists, and to write to now and then.

    Returns:
        What images held out say of the start and of the end.

    Raises:
        CalibrationError: Every weight is bit for bit as it was.

    Example:
        >>> from autoadapt.adapting import adapt
        >>> old, new = nn.Conv2d(3, 4, 2, stride=2), nn.Conv2d(3, 12, 2, stride=2)
        >>> net = adapt(new, like=old, inputs=torch.zeros(1, 3, 8, 8))
        >>> made = distil(net, like=old, data=[torch.randn(8, 3, 8, 8) for _ in range(8)], steps=40, lr=1e-2)
        >>> made.written, made.after.loss < 0.5 * made.before.loss
        (True, True)
    """
    started = time.perf_counter()
    if state is not None:
        check_place(state, "state", CalibrationError)
    check_module(net, "net", CalibrationError)
    check_asked("distil", data, device, 0, steps=(steps, 1))
    taught, judged = _divided(data, held_out)
    with quiet(), off_the_meta_device(), telling("distil", steps) as tell, together():
        pair = pair_of(net, like, at, device, trains=True)
        head = None if head is None else copied_head(head)
        answers = head is not None or bool(pair.at)
        course = Course(pair, head, loss, Rates(steps, lr, levels), answers=answers)
        _take(course, taught, judged, None if state is None else Path(state), tell)
        before, after = course.looks[0][1], _honest(course)
        gain = gain_over(after, before, {})
        if gain.is_sure:
            _write(pair.given, course)
    name = "KL" if loss is None and answers else "loss"
    return Distillation(
        name=pair.plan.source.title,
        written=gain.is_sure,
        verdict="written" if gain.is_sure else "left as they were: no better beyond chance on images held out",
        before=_said(before, name),
        after=_said(after, name),
        loss_name=name if answers else "error of levels",
        steps=course.step,
        best_step=_best(course)[0],
        course=tuple((step, score.loss) for step, score in course.looks),
        parameters=sum(parameter.numel() for parameter in course.learned.values()),
        held_out_images=len(before.losses),
        seconds=time.perf_counter() - started,
    )


def _take(course: Course, taught: Iterable[object], judged: Iterable[object], path: Path | None, tell: Any) -> None:
    """All steps, and a look at the images held out now and then."""
    tell("old model on the images held out")
    judge = course.sits(judged)
    if path is not None and os.path.exists(path):
        course.resume(path)
    if not course.looks:
        course.look(judge)
    batches, every = _again_and_again(taught, course.steps), max(1, course.steps // LOOKS)
    while course.step < course.steps:
        course.learn(batches)
        tell(f"held-out loss {course.looks[-1][1].loss:.3g}", course.step)
        if course.step % every == 0 or course.step == course.steps:
            course.look(judge)
            if path is not None:
                course.save(path)


def _again_and_again(taught: Iterable[object], steps: int) -> Iterator[object]:
    """All batches, and all once more as long as there are any."""
    count, before = 0, -1
    while count > before:
        before = count
        for batch in taught:
            count += 1
            yield batch
    remedy = "data=[images]; a generator can be used up once"
    fault = Mismatch("data", f"batches for {steps} steps", f"none after {count}", remedy)
    raise CalibrationError("there are no images left to learn from", [fault])


def _divided(data: Iterable[Any], held_out: Iterable[object] | None) -> tuple[Iterable[object], Iterable[object]]:
    """What is learned from, and what is held out."""
    if held_out is not None:
        return data, held_out
    if isinstance(data, (list, tuple)) and len(data) > 1:
        return [batch for index, batch in enumerate(data) if index % EVERY], data[::EVERY]
    if isinstance(data, DataLoader) and data.batch_size and hasattr(data.dataset, "__len__") and len(data.dataset) > 1:
        every = range(len(data.dataset))
        return _loader(data, [i for i in every if i % EVERY]), _loader(data, every[::EVERY], shuffled=False)
    expected = "batches that nothing is learned from, since these data cannot be divided"
    fault = Mismatch("held_out", expected, f"none, and data of type {type(data).__name__}", "held_out=other_batches")
    raise CalibrationError("there are no images to judge on", [fault])


def _loader(whole: DataLoader[Any], numbers: Sequence[int], *, shuffled: bool = True) -> DataLoader[Any]:
    """A loader of some of the images, otherwise alike."""
    shuffle = shuffled and isinstance(whole.sampler, RandomSampler)
    return DataLoader(
        Subset(whole.dataset, numbers), shuffle=shuffle, **{name: getattr(whole, name) for name in _ALIKE}
    )


def _best(course: Course) -> tuple[int, Score]:
    return min(course.looks, key=lambda look: look[1].loss if look[1].loss == look[1].loss else float("inf"))


def _honest(course: Course) -> Score:
    """The best score, less what choosing it flatters itself with."""
    return on_others(_best(course)[1], [score for _, score in course.looks], {})


def _said(score: Score, name: str) -> HeadScore:
    return HeadScore(loss=score.loss, agreement=score.agreement if name == "KL" else None)


def _write(adapted: AdaptedModule, course: Course) -> None:
    given = {name: adapted.get_parameter(name) for name in course.best}
    with all_or_none(given.values()), torch.no_grad():
        for name, parameter in given.items():
            parameter.copy_(course.best[name])
    mark_calibrated(adapted, [name.rpartition(".")[0] for name in given if name.startswith("adapters.")])
