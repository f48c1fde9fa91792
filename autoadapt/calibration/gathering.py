"""Gathering: the pass over a caller's data, that leaves moments and a few images for the head."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import torch

from autoadapt.calibration import workers
from autoadapt.calibration.folds import Folds
from autoadapt.calibration.held_out_maps import Fitting
from autoadapt.calibration.judging import Head
from autoadapt.calibration.making import Augment, Batch, Making
from autoadapt.calibration.moments import Moments
from autoadapt.calibration.near_copies import DESCRIBED, count_different, descriptors, near_copies
from autoadapt.calibration.paired_runs import Observation, Pair, explained
from autoadapt.calibration.paired_tokens import PairedTokens
from autoadapt.calibration.progress import Progress
from autoadapt.calibration.run_states import State
from autoadapt.calibration.samples import IMAGES, Sample, Samples, cut
from autoadapt.calibration.solvers import HeldOut, Recipe
from autoadapt.contracts.trees import flatten
from autoadapt.errors import CalibrationError, Mismatch

__all__ = ["Gathering"]

_SECONDS_BETWEEN_SAVES = 10.0
_FIRST_MADE = 1 << 40
"""Numbers of made images, for the choice of their places; the caller's have smaller ones."""

# Dimension letters: B images, T tokens of an image, N tokens, C and D channels.


class Gathering:
    """One pass over the data.

    Attributes:
        folds: Which images are held out together.
        keeps_images: Whether some images are kept for a head.
        remarks: What is to be said of the images that were made.
        groups: For each image, the first that it is a near copy of; known after the pass.
    """

    def __init__(
        self,
        pair: Pair,
        head: Head | None,
        *,
        keeps_images: bool,
        tokens_per_image: int,
        images: int,
        seed: int,
        augment: Augment = 0,
        kept: int = IMAGES,
    ) -> None:
        widest = max(max(each.step.source, each.step.target) for each in pair.projections)
        self.folds = Folds.of_channels(widest)
        self.keeps_images = keeps_images
        self._pair = pair
        self._head = head
        self._tokens_per_image = tokens_per_image
        self._images = images
        self._seed = seed
        self._augment = augment
        self.remarks: list[str] = []
        self._kept = kept
        self.groups: dict[int, int] = {}
        self._first: list[torch.Tensor] = []
        self._differ = False
        self._resumed = False

    def run(self, data: Iterable[object], path: Path | None, report: Progress) -> State:
        """Pass over the data once.

        Args:
            data: Batches.
            path: A file to go on from, and to write to now and then.
            report: Is told what comes in.

        Raises:
            CalibrationError: There is none, or a batch is faulty.
        """
        state, fingerprint = self._empty(), self._fingerprint()
        if path is not None:
            path = path if workers.count() == 1 else path.with_suffix(f".{workers.number()}{path.suffix}")
            if os.path.exists(path):
                state.load(path, fingerprint)
                self._resumed = True
        save = _Saving(state, path, fingerprint)
        with workers.together():
            self._pass(data, state, report, save)
        self._check_images(state)
        self.groups = near_copies(workers.gathered(state.descriptors))
        different = count_different(self.groups, workers.summed(state.images))
        making = Making(self._augment, state.samples, self.folds, different, self._seed, state.together)
        with workers.together():
            self._make(making, state, report, save)
        return state

    def _empty(self) -> State:
        count = len(self.folds.numbers)
        return State(self._empty_moments(count), Samples(count, self._seed, self._kept))

    def _empty_moments(self, parts: int) -> list[list[Moments]]:
        where = self._pair.device if self._pair.device.type in ("cpu", "cuda") else torch.device("cpu")
        steps = [each.step for each in self._pair.projections]
        return [[Moments.zeros(step.source, step.target, where) for _ in range(parts)] for step in steps]

    def _fingerprint(self) -> str:
        """What two runs must have in common for one to go on where the other stopped."""
        facts = [
            self._pair.plan.model_dump_json(),
            [float(t.double().sum()) for t in self._pair.tensors()],
            [len(self.folds.numbers), self._tokens_per_image, self._seed, self.keeps_images, self._kept],
            self._augment if isinstance(self._augment, (str, int)) else getattr(self._augment, "__qualname__", "made"),
            [workers.number(), workers.count()],
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]

    def _pass(self, data: Iterable[object], state: State, report: Progress, save: _Saving) -> None:
        with save:
            for number, batch in enumerate(data):
                if self._number(state.images) >= self._images:
                    break
                if number < state.batches:
                    continue
                self._add_batch(state, batch, number)
                done = min(state.images * workers.count(), self._images)
                report.sees(done, state.tokens, lambda: self._error_so_far(state))
                save.now_and_then()

    def _make(self, making: Making, state: State, report: Progress, save: _Saving) -> None:
        """Run both on images that are made, and count these beside the others."""
        batches = making.batches
        self.remarks += [making.remark] if making.remark else []
        if not workers.summed(len(batches)):
            state.made.clear()
            return
        if callable(self._augment) or state.made_of != making.digest or not state.made:  # functions tell no difference
            state.restart_making(making.digest, self._empty_moments(len(self.folds.numbers) + 1))
        try:
            with save:
                for batch in batches[state.made_batches :]:
                    self._add_made(state, making, batch)
                    done = state.mixed + state.synthetic
                    report.does(f"made images, {done} of {sum(each.count for each in batches)}")
                    save.now_and_then()
        except CalibrationError as error:
            if callable(self._augment):
                raise
            state.restart_making(making.digest, self._empty_moments(len(self.folds.numbers) + 1))
            self.remarks.append(f"images that were made were of no use: {error.summary}")

    def _add_made(self, state: State, making: Making, batch: Batch) -> None:
        """Count one more batch of made images, all in the part of their fold."""
        seen, first = [], _FIRST_MADE + (batch.part << 20) + batch.first
        for call in making.calls(batch):
            for observation in self._pair.observe(call, f"{batch.number} of made images"):
                numbers = range(first, first + observation.images)
                first += observation.images
                seen.append((observation, numbers))
        state.is_whole = False
        for observation, numbers in seen:
            for parts, calls in zip(state.made, observation.tokens, strict=True):
                for pair in calls:
                    self._add(parts[batch.part], pair, dict(enumerate(numbers)))
            is_mixed = batch.part in self.folds.numbers
            state.mixed += observation.images if is_mixed else 0
            state.synthetic += 0 if is_mixed else observation.images
        state.made_batches = batch.number + 1
        state.is_whole = True

    def _number(self, index: int) -> int:
        return index * workers.count() + workers.number()

    def _add_batch(self, state: State, batch: object, number: int) -> None:
        """Count one more batch. Whatever raises while moments grow leaves a state that says so."""
        first, seen, described = state.images, [], dict[int, torch.Tensor]()
        for observation in self._pair.observe(batch, number):
            numbers = [self._number(first + i) for i in range(observation.images)]
            numbers = [one for one in numbers if one < self._images]
            state.together = max(state.together, observation.images)
            self._compare(observation)
            if self.keeps_images or self._augment:
                self._keep(state.samples, observation, numbers)
            said_BD = descriptors(observation.tokens)
            described |= {number: said_BD[i].clone() for i, number in enumerate(numbers) if number < DESCRIBED}
            seen.append((observation, numbers))
            first += len(numbers)
        state.is_whole = False
        state.descriptors |= described
        for observation, numbers in seen:
            for parts, calls in zip(state.moments, observation.tokens, strict=True):
                self._add_tokens(parts, calls, numbers)
        state.batches, state.images = number + 1, first
        state.is_whole = True

    def _compare(self, observation: Observation) -> None:
        """See whether any image differs from the first one."""
        if self._differ:
            return
        _, tensors = flatten(observation.arguments.values)
        batched = [one for one in tensors if one.ndim and one.shape[0] == observation.images] or tensors
        rows = [
            [one[i] if one.ndim else one for one in batched] for i in range(len(batched[0]) if batched[0].ndim else 1)
        ]
        self._first = self._first or [one.clone() for one in rows[0]]
        self._differ = not all(torch.equal(*pair) for row in rows for pair in zip(row, self._first, strict=False))

    def _add_tokens(self, parts: Sequence[Moments], calls: Sequence[PairedTokens], numbers: Sequence[int]) -> None:
        """Count the tokens of some images, each image in its fold."""
        for pair in calls:
            for fold, part in zip(self.folds.numbers, parts, strict=True):
                mine = {i: number for i, number in enumerate(numbers) if self.folds.of_image(number) == fold}
                if mine:
                    self._add(part, pair, mine)

    def _add(self, part: Moments, pair: PairedTokens, numbers: Mapping[int, int]) -> None:
        """Count tokens of some images of a batch, by their place and number; those alone that no mask hides."""
        device = part.mean_x_C.device
        places = {i: self._places(number, i, pair) for i, number in numbers.items()}
        x_NC, y_ND = (torch.cat([side[i, places[i]] for i in numbers]).to(device) for side in pair[:2])
        part.add_tokens(x_NC, y_ND)

    def _places(self, number: int, row: int, pair: PairedTokens) -> torch.Tensor | slice:
        """Which tokens of an image are looked at; a matter of its number, and of its mask, alone."""
        counts = None if pair.counts is None else pair.counts[row].nonzero()[:, 0]
        count = pair.given.shape[1] if counts is None else len(counts)
        if count <= self._tokens_per_image:
            return slice(None) if counts is None else counts
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + number)
        chosen = torch.randperm(count, generator=generator)[: self._tokens_per_image].to(self._pair.device)
        return chosen if counts is None else counts[chosen]

    def _keep(self, samples: Samples, observation: Observation, numbers: Sequence[int]) -> None:
        """Keep images of a batch for the head; to keep one twice changes nothing."""
        folds = {number: self.folds.of_image(number) for number in numbers}
        wanted = [(i, number) for i, number in enumerate(numbers) if samples.wants(number, folds[number])]
        if not wanted:
            return
        if not self.keeps_images:  # only to make others of them
            for i, number in wanted:
                arguments = cut(observation.arguments.values, i, observation.images)
                nothing = cut((), 0, observation.images)
                samples.add(Sample(number, folds[number], observation.arguments.positional, arguments, (), nothing))
            return
        answer = observation.answer
        if self._head is not None:
            with explained("head", "an answer on the old features"):
                answer = self._head(answer)
        for i, number in wanted:
            arguments, features = observation.cut(i)
            one = cut(answer, i, observation.images)
            samples.add(Sample(number, folds[number], observation.arguments.positional, arguments, features, one))

    def _check_images(self, state: State) -> None:
        seen, fewest = workers.summed(state.images), self.folds.fewest_images
        if not seen:
            fault = Mismatch("data", "at least one batch", "none", "data=[images]; a generator can be used up once")
            raise CalibrationError("there are no images to calibrate on", [fault])
        if seen < fewest:
            fault = Mismatch("data", f"at least {fewest} images, one a fold", str(seen), "data= more images")
            raise CalibrationError("too few images to hold any out", [fault])
        if self._first and not self._differ and not self._resumed and workers.count() == 1:
            fault = Mismatch(
                "data", "images that differ", f"{seen} times the same image", "data= images of the old task"
            )
            raise CalibrationError("all images are one image, so that none can be held out", [fault])

    def _error_so_far(self, state: State) -> float | None:
        """Held-out error of a plain ridge on the last output, where that is cheap."""
        parts = state.moments[-1]
        if self.folds.holds_one_out or any(not part.count for part in parts):
            return None
        fitting = Fitting([parts], self.folds)
        used = self.folds.others(0)
        fitted = fitting.map(0, Recipe(1e-2), used)
        return 1 - HeldOut.of(fitted, fitting.moments(0, used).mean_y_D, parts[0]).r2


class _Saving:
    """Writes a state to a file now and then, and at the end, also when something raises."""

    def __init__(self, state: State, path: Path | None, fingerprint: str) -> None:
        self._state = state
        self._path = path
        self._fingerprint = fingerprint
        self._saved = time.monotonic()

    def now_and_then(self) -> None:
        if self._path is not None and time.monotonic() - self._saved > _SECONDS_BETWEEN_SAVES:
            self._state.save(self._path, self._fingerprint)
            self._saved = time.monotonic()

    def __enter__(self) -> None:
        self._saved = time.monotonic()

    def __exit__(self, *_error: object) -> None:
        if self._path is not None and self._state.batches and self._state.is_whole:
            self._state.save(self._path, self._fingerprint)
