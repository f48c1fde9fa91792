"""Judging: how far the head's answer on adapted features is from its answer on the old ones."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean, stdev
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from autoadapt.calibration.detections import are_detections, compared, found_nothing
from autoadapt.calibration.paired_runs import Pair, explained
from autoadapt.calibration.progress import Progress
from autoadapt.calibration.projections import set_weight
from autoadapt.calibration.samples import Cut, Sample, Samples, joined
from autoadapt.calibration.solvers import AffineMap
from autoadapt.calibration.workers import gathered, summed, total
from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.kept_weights import kept_weights
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.contracts.trees import flatten
from autoadapt.contracts.views import clone_buffers, copy_module
from autoadapt.errors import CalibrationError, Mismatch

__all__ = ["Head", "Judge", "Loss", "Score", "copied_head", "divergence"]

Head: TypeAlias = Callable[[Any], Any]
Loss: TypeAlias = Callable[[Any, Any], torch.Tensor]
Maps: TypeAlias = Sequence[AffineMap]
"""One for each projection."""

# Dimension letters: B images, K classes, P places of an image.


@dataclass(frozen=True)
class Score:
    """What the head's answers differ by, on held-out images."""

    losses: tuple[float, ...]
    """Kullback-Leibler divergence from the old answer in nats, for detections the share that does not overlap, or the
    caller's loss; one an image, in their order."""
    agreements: tuple[float, ...]
    """Share of places where the likeliest class is the same; one an image."""

    @property
    def loss(self) -> float:
        """Mean over images."""
        return fmean(self.losses) if self.losses else float("nan")

    @property
    def agreement(self) -> float:
        """Mean over images."""
        return fmean(self.agreements) if self.agreements else float("nan")

    def is_as_good_as(self, best: Score) -> bool:
        """Whether it is no worse than another by more than a standard error, image by image."""
        gaps = [mine - other for mine, other in zip(self.losses, best.losses, strict=True)]
        return len(gaps) > 1 and all(map(isfinite, gaps)) and fmean(gaps) <= stdev(gaps) / len(gaps) ** 0.5


class Judge:
    """Tries maps on the images that were kept, through the very modules that will run.

    The images are taken out of `samples`, so that there is one copy of them.

    Attributes:
        is_of_detections: Whether the answers are boxes.
        says_nothing: Whether they are boxes, and there is none on any image.
    """

    def __init__(self, pair: Pair, samples: Samples, head: Head | None, loss: Loss | None, report: Progress) -> None:
        self._pair = pair
        self._head = head
        self._loss = loss
        self._replay = _Replay()
        pair.adapted.backbone = self._replay
        answers = [sample.answer.value for sample in samples.all]
        self.is_of_detections = loss is None and not summed(not all(map(are_detections, answers)))
        self.says_nothing = self.is_of_detections and not summed(not all(map(found_nothing, answers)))
        self._samples = samples
        self._report = report
        self._tried = 0
        self._batches: dict[int, list[_Batch]] = {}

    def score(self, maps: Mapping[int, Maps]) -> Score:
        """Try maps on the images of the folds that they are given for."""
        self._tried += 1
        self._report.does(f"fitting, {self._tried} tried on the head")
        found: dict[int, tuple[float, float]] = {}
        with torch.no_grad():
            for fold, fitted in maps.items():
                self._set(fitted)
                for batch in self._batches_of(fold):
                    losses, agreements = (values.tolist() for values in self._compare(batch))
                    found |= dict(zip(batch.numbers, zip(losses, agreements, strict=True), strict=True))
        ordered = [pair for _, pair in sorted(gathered(found).items())]
        return Score(tuple(loss for loss, _ in ordered), tuple(agreement for _, agreement in ordered))

    def refine(self, maps: Maps, folds: Sequence[int], steps: Sequence[int]) -> dict[int, list[AffineMap]]:
        """Take steps on the head's loss, from given maps, on the images of some folds; maps after so many steps."""
        layers = [self._pair.layer(projection) for projection in self._pair.projections]
        self._set(maps)
        parameters = [parameter for layer in layers for parameter in layer.parameters()]
        optimiser = torch.optim.Adam(parameters, lr=1e-3)
        batches = [batch for fold in folds for batch in self._batches_of(fold)]
        images = float(total(torch.tensor([sum(len(batch.numbers) for batch in batches)], dtype=torch.float64)))
        found = {}
        for step in range(1, max(steps) + 1):
            self._report.does(f"refining, step {step} of {max(steps)}")
            with torch.enable_grad():
                gradients = [self._gradients(batch, parameters, images) for batch in batches]
            for parameter, *parts in zip(parameters, *gradients, strict=True):
                parameter.grad = total(torch.stack(parts).sum(0) if parts else torch.zeros_like(parameter))
            optimiser.step()
            if step in steps:
                found[step] = [_read(layer) for layer in layers]
        return found

    def _gradients(self, batch: _Batch, parameters: Sequence[nn.Parameter], images: float) -> tuple[torch.Tensor, ...]:
        """Of the adapters alone: nothing is left in the `grad` of a caller's module."""
        loss = self._compare(batch)[0].sum() / images
        return torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)

    def _batches_of(self, fold: int) -> list[_Batch]:
        if fold not in self._batches:
            self._batches[fold] = _batches(self._samples.take(fold))
        return self._batches[fold]

    def _set(self, maps: Maps) -> None:
        for projection, fitted in zip(self._pair.projections, maps, strict=True):
            set_weight(self._pair.layer(projection), fitted.weight_CD, fitted.bias_D)

    def _compare(self, batch: _Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and agreement of each image."""
        self._replay.returns([features.value for features in batch.features])
        with explained("head", "an answer on adapted features"):
            found = Arguments(batch.arguments.value, batch.positional).call(self._pair.new)
            found = found if self._head is None else self._head(found)
        if self._loss is None and are_detections(found) and are_detections(batch.answer.value):
            return compared(found, batch.answer.value)
        if self._loss is None:
            return divergence(found, batch.answer.value, len(batch.numbers))
        with explained("loss", "one number"):
            given = self._loss(found, batch.answer.value).double().reshape(1)
            return given.expand(len(batch.numbers)), torch.zeros(len(batch.numbers))


class _Replay(nn.Module):
    """Stands for a backbone and returns what it returned before, call after call."""

    def __init__(self) -> None:
        super().__init__()
        self._values: itertools.cycle[Any] = itertools.cycle([None])

    def returns(self, values: Sequence[Any]) -> None:
        self._values = itertools.cycle(values)

    def forward(self, *_args: Any, **_kwargs: Any) -> Any:
        return next(self._values)


@dataclass(frozen=True)
class _Batch:
    """Some images of one fold, put together."""

    numbers: tuple[int, ...]
    positional: int
    arguments: Cut
    features: tuple[Cut, ...]
    answer: Cut


def _batches(samples: Sequence[Sample]) -> list[_Batch]:
    """All images of a fold as one batch where they fit together, else one by one."""
    if not samples:
        return []
    first = samples[0]
    parts = [
        joined([sample.arguments for sample in samples]),
        joined([sample.answer for sample in samples], shapes_differ=True),
        *(joined(list(column)) for column in zip(*(sample.features for sample in samples), strict=True)),
    ]
    if len(samples) > 1 and any(part is None for part in parts):
        return [batch for sample in samples for batch in _batches([sample])]
    arguments, answer, *features = [part for part in parts if part is not None]
    numbers = tuple(sample.number for sample in samples)
    return [_Batch(numbers, first.positional, arguments, tuple(features), answer)]


def divergence(found: object, expected: object, images: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Kullback-Leibler divergence of two answers and their agreement, for each image.

    Every floating tensor counts as logits: over the last axis of `[B, K]` and `[B, P, K]`, over axis 1 of
    `[B, K, *spatial]`; a single logit is one of two classes. Several tensors, and places, are averaged.

    Raises:
        CalibrationError: There are no logits, or the shapes differ.

    Example:
        >>> kl, agreement = divergence(torch.tensor([[2.0, 0.0]]), torch.tensor([[1.0, 0.0]]), 1)
        >>> round(kl.item(), 4), agreement.item()
        (0.0826, 1.0)
    """
    pairs = list(zip(flatten(found)[1], flatten(expected)[1], strict=False))
    pairs = [(left, right) for left, right in pairs if right.is_floating_point() and right.dim() >= 2 and right.numel()]
    if not pairs or any(left.shape != right.shape for left, right in pairs):
        shapes = ", ".join(f"{list(left.shape)} and {list(right.shape)}" for left, right in pairs) or "none"
        fault = Mismatch(
            "head", "logits of one shape, [B, K] or [B, K, ...]", shapes, "loss=lambda found, expected: ..."
        )
        raise CalibrationError("the head's answers cannot be compared", [fault])
    losses, agreements = zip(*(_divergence(left, right, images) for left, right in pairs), strict=True)
    return torch.stack(losses).mean(0), torch.stack(agreements).mean(0)


def _divergence(found: torch.Tensor, expected: torch.Tensor, images: int) -> tuple[torch.Tensor, torch.Tensor]:
    axis = -1 if expected.dim() <= 3 else 1
    logs, wanted = (_log_probabilities(logits.movedim(axis, -1)) for logits in (found, expected))
    loss_BP = (wanted.exp() * (wanted - logs)).sum(-1).reshape(images, -1)
    agreement_BP = (logs.argmax(-1) == wanted.argmax(-1)).double().reshape(images, -1)
    return loss_BP.mean(1), agreement_BP.mean(1)


def _log_probabilities(logits: torch.Tensor) -> torch.Tensor:
    if logits.shape[-1] == 1:
        logits = torch.cat([logits, torch.zeros_like(logits)], dim=-1)
    return F.log_softmax(logits.double(), dim=-1)


def copied_head(head: Head) -> Head:
    """A head in eval mode: modules and their methods as copies, any other function as it is.

    What it writes to its own parameters is put back after each call.
    """
    owner = head if isinstance(head, nn.Module) else getattr(head, "__self__", None)
    if not isinstance(owner, nn.Module):
        return head
    copied = in_eval_mode(copy_module(owner, clone_buffers))
    method: Head = copied if head is owner else getattr(copied, head.__name__)

    def answer(features: Any) -> Any:
        with kept_weights(copied):
            return method(features)

    return answer


def _read(layer: nn.Module) -> AffineMap:
    weight, bias = layer.weight, layer.bias
    assert isinstance(weight, torch.Tensor), "a projection has a weight"
    assert isinstance(bias, torch.Tensor), "a projection has an offset"
    return AffineMap(weight.detach().double().flatten(1).T.clone(), bias.detach().double().clone())
