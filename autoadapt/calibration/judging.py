"""Judging: how far the head's answer on adapted features is from its answer on the old ones."""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isfinite
from statistics import fmean, stdev
from types import CellType, FunctionType
from typing import Any, TypeAlias

import torch
import torch.nn.functional as F
from torch import nn

from autoadapt.calibration.detections import are_detections, compared, found_nothing
from autoadapt.calibration.paired_runs import Pair, explained
from autoadapt.calibration.progress_bars import Progress
from autoadapt.calibration.projections import set_weight, weight_and_offset
from autoadapt.calibration.samples import IMAGES, Cut, Sample, Samples, joined
from autoadapt.calibration.sharded import copied as copied_module
from autoadapt.calibration.solvers import AffineMap
from autoadapt.calibration.workers import gathered, summed, together, totals
from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.kept_weights import kept_weights
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.contracts.trees import flatten
from autoadapt.errors import CalibrationError, Mismatch

Head: TypeAlias = Callable[[Any], Any]
Loss: TypeAlias = Callable[[Any, Any], torch.Tensor]
Maps: TypeAlias = Sequence[AffineMap]
"""One for each projection."""

FEWEST_UNSEEN = 8
"""With fewer images without near copies in other folds, those that have some are judged on as well."""
TOGETHER = 32
"""Images that run at once."""

# Dimension letters: B images, K classes, P places of an image.


@dataclass(frozen=True)
class Score:
    """What the head's answers differ by, on held-out images."""

    losses: tuple[float, ...]
    """Kullback-Leibler divergence from the old answer in nats, for detections the share that does not overlap, or the
    caller's loss; one an image, in their order."""
    agreements: tuple[float, ...]
    """Share of places where the likeliest class is the same; one an image."""
    numbers: tuple[int, ...] = ()
    """Of the images."""

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

    Recipes are many and are tried on at most 64 images; what is reported, and steps, are judged on all that were kept.

    Attributes:
        is_of_detections: Whether the answers are boxes.
        says_nothing: Whether they are boxes, and there is none on any image.
        judges_seen: Whether images are judged on that have a near copy among those fitted on, for want of others.
    """

    def __init__(
        self,
        pair: Pair,
        samples: Samples,
        head: Head | None,
        loss: Loss | None,
        report: Progress,
        *,
        replays: bool = True,
        seen: Collection[int] = (),
    ) -> None:
        self._pair = pair
        self._head = head
        self._loss = loss
        self._replay = _Replay()
        if replays:  # the backbone stays as it is
            pair.adapted.backbone = self._replay
        answers = [sample.answer.value for sample in samples.all]
        self.is_of_detections = loss is None and not summed(not all(map(are_detections, answers)))
        self.says_nothing = self.is_of_detections and not summed(not all(map(found_nothing, answers)))
        self._samples = samples
        self._report = report
        self._tried = 0
        self._folds = dict(sorted(gathered(samples.numbers).items()))
        unseen = {number: fold for number, fold in self._folds.items() if number not in seen}
        self.judges_seen = len(unseen) < FEWEST_UNSEEN and len(unseen) < len(self._folds)
        self._judged = self._folds if self.judges_seen else unseen
        self._few = set(samples.chosen(self._judged, IMAGES))

    def says(self, doing: str) -> None:
        """Tell the user what is going on."""
        self._report.does(doing)

    def numbers(self, folds: Sequence[int]) -> list[int]:
        """The images of some folds that any worker has kept."""
        return [number for number, fold in self._folds.items() if fold in folds]

    def score(self, maps: Mapping[int, Maps], *, on_all: bool = False) -> Score:
        """Try maps on the images of the folds that they are given for; on at most 64 of them, or on all."""
        self._tried += 1
        self._report.does(f"fitting, {self._tried} tried on the head")
        found: dict[int, tuple[float, float]] = {}
        with together(), torch.no_grad():
            for fold, fitted in maps.items():
                self._set(fitted)
                mine = [number for number in self.numbers([fold]) if number in self._judged]
                found |= self._looked_at([number for number in mine if on_all or number in self._few])
        return _as_score(found)

    def score_as_it_is(self) -> Score:
        """Try the model as it is, on all images that were kept."""
        with together(), torch.no_grad():
            found = self._looked_at(self.numbers(sorted(set(self._folds.values()))))
        return _as_score(found)

    def _looked_at(self, numbers: Sequence[int]) -> dict[int, tuple[float, float]]:
        """Loss and agreement of each image that is kept here."""
        found: dict[int, tuple[float, float]] = {}
        for batch in self._batches(numbers, 1 if self._loss is not None else TOGETHER):
            losses, agreements = (values.tolist() for values in self._compare(batch))
            found |= dict(zip(batch.numbers, zip(losses, agreements, strict=True), strict=True))
        return found

    def passes_gradients(self, maps: Maps) -> bool:
        """Whether the loss has a slope by the adapters: not where head or loss detach, or leave torch."""
        self._set(maps)
        with together(), torch.enable_grad():
            batches = self._batches(self.numbers(sorted(set(self._folds.values())))[:1])
            flat = any(not self._compare(batch)[0].requires_grad for batch in batches)
        return not summed(flat)

    def gradients(self, maps: Maps, numbers: Sequence[int]) -> list[AffineMap]:
        """Gradients of the mean loss over some images, over all workers; of the adapters alone.

        Nothing is left in the `grad` of a caller's module.
        """
        self._set(maps)
        layers = {projection.module: self._pair.layer(projection) for projection in self._pair.projections}
        parameters = [parameter for layer in layers.values() for parameter in weight_and_offset(layer)]
        sums = [torch.zeros_like(parameter) for parameter in parameters]
        with together(), torch.enable_grad():
            for batch in self._batches(numbers):
                loss = self._compare(batch)[0].sum() / len(numbers)
                parts = torch.autograd.grad(loss, parameters, allow_unused=True, materialize_grads=True)
                sums = [one + part for one, part in zip(sums, parts, strict=True)]
        pairs = iter(totals(sums))
        found = dict(zip(layers, zip(pairs, pairs, strict=True), strict=True))
        return [AffineMap(*projection.part(*found[projection.module])) for projection in self._pair.projections]

    def _batches(self, numbers: Sequence[int], most: int = TOGETHER) -> list[_Batch]:
        """Those of some images that are kept here, put together where they fit."""
        samples = self._samples.some(numbers)
        return [batch for part in range(0, len(samples), most) for batch in _batches(samples[part : part + most])]

    def _set(self, maps: Maps) -> None:
        for projection, fitted in zip(self._pair.projections, maps, strict=True):
            set_weight(self._pair.layer(projection), fitted.weight_CD, fitted.bias_D, projection.place)

    def _compare(self, batch: _Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Loss and agreement of each image."""
        self._replay.returns([features.value for features in batch.features])
        with explained("head", "an answer on adapted features"):
            found = Arguments(batch.arguments.value, batch.positional).call(self._pair.new)
            found = found if self._head is None else self._head(found)
        return losses_of(found, batch.answer.value, len(batch.numbers), self._loss)


def _as_score(found: Mapping[int, tuple[float, float]]) -> Score:
    """What all workers have found, in the order of images."""
    by_number = dict(sorted(gathered(found).items()))
    ordered = by_number.values()
    return Score(tuple(loss for loss, _ in ordered), tuple(share for _, share in ordered), tuple(by_number))


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
    """Some images, put together."""

    numbers: tuple[int, ...]
    positional: int
    arguments: Cut
    features: tuple[Cut, ...]
    answer: Cut


def _batches(samples: Sequence[Sample]) -> list[_Batch]:
    """Images as one batch where they fit together, else one by one."""
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


def losses_of(found: Any, expected: Any, images: int, loss: Loss | None) -> tuple[torch.Tensor, torch.Tensor]:
    """How far an answer is from the old one, and the share that agrees, for each image; by what the answers are.

    Raises:
        CalibrationError: They cannot be compared, as where the old answer holds NaN.
    """
    if any(one.is_floating_point() and bool(one.isnan().any()) for one in flatten(expected)[1]):
        fault = Mismatch(
            "head", "numbers as the answers to old features", "NaN", "look at its weights, or run in float32"
        )
        raise CalibrationError("the head's answers cannot be compared", [fault])
    if loss is None and are_detections(found) and are_detections(expected):
        return compared(found, expected)
    if loss is None:
        return divergence(found, expected, images)
    with explained("loss", "one number"):
        given = loss(found, expected).double().reshape(1)
        return given.expand(images), torch.zeros(images)


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
    """A head in eval mode: modules, their methods and the modules that a function names as copies, else as it is.

    What it writes to its own parameters is put back after each call.

    Raises:
        CalibrationError: A module of it cannot be copied.
    """
    with explained("head", "a module that can be copied", "run it once, if it has lazy layers"):
        if isinstance(head, FunctionType):
            return _copied_function(head)
        owner = head if isinstance(head, nn.Module) else getattr(head, "__self__", None)
        if not isinstance(owner, nn.Module):
            return head
        copied = in_eval_mode(copied_module(owner))
        return _keeping(copied if head is owner else getattr(copied, head.__name__), [copied])


def _copied_function(head: FunctionType) -> Head:
    """A function over copies of the modules that it closes over, has as defaults, or finds by a global name."""
    copies: dict[int, nn.Module] = {}

    def copied(value: Any) -> Any:
        if not isinstance(value, nn.Module):
            return value
        if id(value) not in copies:
            copies[id(value)] = in_eval_mode(copied_module(value))
        return copies[id(value)]

    read = {name: head.__globals__.get(name) for name in head.__code__.co_names}
    known = {**head.__globals__, **{name: copied(one) for name, one in read.items() if isinstance(one, nn.Module)}}
    cells = tuple(CellType(copied(cell.cell_contents)) if _is_filled(cell) else cell for cell in head.__closure__ or ())
    defaults = None if head.__defaults__ is None else tuple(map(copied, head.__defaults__))
    made = FunctionType(head.__code__, known, head.__name__, defaults, cells or None)
    made.__kwdefaults__ = {name: copied(value) for name, value in (head.__kwdefaults__ or {}).items()}
    return _keeping(made, list(copies.values())) if copies else head


def _is_filled(cell: CellType) -> bool:
    try:
        return isinstance(cell.cell_contents, nn.Module)
    except ValueError:  # nothing was assigned to it yet
        return False


def _keeping(head: Head, copies: Sequence[nn.Module]) -> Head:
    """The same; what it writes to the parameters of its modules is put back."""

    def answer(features: Any) -> Any:
        with contextlib.ExitStack() as stack:
            for copied in copies:
                stack.enter_context(kept_weights(copied))
            return head(features)

    return answer
