"""Gathering: the pass over a caller's data, that leaves moments and a few images for the head."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch

from autoadapt.calibration import workers
from autoadapt.calibration.dealing import (
    COME_OTHERWISE,
    checksum,
    dealt,
    refuse_another,
    refuse_unlike,
    rows_of,
    shared_images,
    sum_of_bits,
)
from autoadapt.calibration.held_out_maps import Fitting
from autoadapt.calibration.image_folds import Folds
from autoadapt.calibration.judging import Head
from autoadapt.calibration.made_images import Augment, Batch, Making
from autoadapt.calibration.moments import Moments
from autoadapt.calibration.near_copies import DESCRIBED, count_different, descriptors, near_copies
from autoadapt.calibration.paired_runs import Observation, Pair, explained
from autoadapt.calibration.paired_tokens import PairedTokens
from autoadapt.calibration.progress_bars import Progress
from autoadapt.calibration.resuming import own_file, resume
from autoadapt.calibration.run_states import State
from autoadapt.calibration.samples import IMAGES, Sample, Samples, cut
from autoadapt.calibration.sharded import whole
from autoadapt.calibration.solvers import HeldOut, Recipe
from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.trees import flatten
from autoadapt.errors import CalibrationError, Mismatch

_SECONDS_BETWEEN_SAVES = 10.0
_FIRST_MADE = 1 << 40
"""Numbers of made images, for the choice of their places; the caller's have smaller ones."""

Unit = TypeVar("Unit")

# Dimension letters: B images, T tokens of an image, N tokens, C and D channels.


@dataclass(frozen=True)
class _FreshCall:
    """A call with images that are not counted yet, and what is known of it before it is run."""

    batch: int
    call: Arguments
    images: int | None
    fresh: dict[int, tuple[int, int]]
    """Number and checksum of each image that is not counted yet, by its row; of so many images."""


class Gathering:
    """One pass over the data.

    Attributes:
        folds: Which images are held out together.
        keeps_images: Whether some images are kept for a head.
        remarks: What is to be said of the images that were made.
        groups: For each image, the first that it is a near copy of; known after the pass.
        folds_of_images: The fold of each image of all workers; known after the pass.
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
        self.folds_of_images: dict[int, int] = {}
        self._first: list[torch.Tensor] = []
        self._differ = False
        self._resumed = self._checks = False
        self._position = 0
        self._rows_are_images = False

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
        refuse_unlike(fingerprint)
        self._images = dealt(data, self._images)
        self._checks = path is not None or workers.count() > 1
        if path is not None:
            resume(state, self._empty, path, fingerprint)
            self._resumed = bool(state.images)
        save = _Saving(state, None if path is None else own_file(path), fingerprint)
        self._pass(data, state, report, save)
        self._check_images(state)
        said = shared_images(state.counted)
        self.remarks += [said] if said else []
        self.groups = near_copies(workers.gathered(state.descriptors))
        self.folds_of_images = workers.gathered(state.folds)
        different = count_different(self.groups, workers.summed(state.images))
        making = Making(self._augment, state.samples, self.folds, different, self._seed, state.together)
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
            [sum_of_bits(whole(t)) for t in self._pair.tensors()],
            [len(self.folds.numbers), self._tokens_per_image, self._seed, self.keeps_images, self._kept],
            self._augment if isinstance(self._augment, (str, int)) else getattr(self._augment, "__qualname__", "made"),
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]

    def _pass(self, data: Iterable[object], state: State, report: Progress, save: _Saving) -> None:
        with save:
            for unit, is_own in self._in_step(self._fresh_calls(data, state)):
                observation = self._pair.observed(unit.call, unit.batch)
                if is_own:
                    self._count(state, unit, observation)
                    done = min(self._position * workers.count(), self._images)
                    report.sees(done, state.tokens, lambda: self._error_so_far(state))
                    save.now_and_then()

    def _in_step(self, units: Iterable[Unit]) -> Iterable[tuple[Unit, bool]]:
        """What is run, and whether it counts; a sharded model is run by all workers at once."""
        return workers.in_step(units) if self._pair.is_sharded else ((unit, True) for unit in units)

    def _fresh_calls(self, data: Iterable[object], state: State) -> Iterator[_FreshCall]:
        """Calls with images that are not counted yet; each is counted before the next is asked for."""
        for number, batch in enumerate(data if self._number(state.passed) < self._images else ()):
            before, calls = self._position, self._pair.calls(batch, number)
            said = checksum(t for call in calls for t in flatten(call.values)[1]) if self._checks else 0
            self._position += state.images_of(number, said)
            for call in calls if self._position == before else ():
                images = rows_of(call) if self._rows_are_images else None
                fresh = self._fresh(state, call, images or 0)
                if fresh or not images:
                    yield _FreshCall(number, call, images, fresh)
                else:
                    self._position += images
            if self._number(self._position - 1) < self._images:  # else some of its images are not counted
                state.note_batch(number, self._position - before, said)
            state.passed = max(state.passed, self._position)
            if self._number(self._position) >= self._images:
                return

    def _fresh(self, state: State, call: Arguments, images: int) -> dict[int, tuple[int, int]]:
        """Number and checksum of each image of a call that is not counted yet, by its row."""
        found = {}
        for row in range(images):
            number = self._number(self._position + row)
            if number >= self._images:
                break
            said = checksum(cut(call.values, row, images).tensors) if self._checks else 0
            known = state.counted.get(number, state.before.get(number))
            if known is None:
                found[row] = number, said
            elif state.generation:
                refuse_another(number, said, known)
            elif said != known and COME_OTHERWISE not in self.remarks:
                self.remarks.append(COME_OTHERWISE)
        return found

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
                self._pass_over_made(making, state, report, save)
        except CalibrationError as error:
            if callable(self._augment) or self._pair.is_sharded:
                raise
            state.restart_making(making.digest, self._empty_moments(len(self.folds.numbers) + 1))
            self.remarks.append(f"images that were made were of no use: {error.summary}")

    def _pass_over_made(self, making: Making, state: State, report: Progress, save: _Saving) -> None:
        left, seen = making.batches[state.made_batches :], list[Observation]()
        calls = ((batch, *each) for batch in left for each in _with_last(making.calls(batch)))
        for (batch, call, is_last), is_own in self._in_step(calls):
            observation = self._pair.observed(call, f"{batch.number} of made images")
            if is_own:
                seen.append(observation)
            if is_own and is_last:
                self._add_made(state, batch, seen)
                seen = []
                done = state.mixed + state.synthetic
                report.does(f"made images, {done} of {sum(each.count for each in making.batches)}")
                save.now_and_then()

    def _add_made(self, state: State, batch: Batch, seen: Sequence[Observation]) -> None:
        """Count one more batch of made images, all in the part of their fold."""
        first = _FIRST_MADE + (batch.part << 20) + batch.first
        is_mixed = batch.part in self.folds.numbers
        state.is_whole = False
        for observation in seen:
            numbers = range(first, first + observation.images)
            first += observation.images
            for parts, calls in zip(state.made, observation.tokens, strict=True):
                for pair in calls:
                    self._add(parts[batch.part], pair, dict(enumerate(numbers)))
            state.mixed += observation.images if is_mixed else 0
            state.synthetic += 0 if is_mixed else observation.images
        state.made_batches = batch.number + 1
        state.is_whole = True

    def _number(self, index: int) -> int:
        return index * workers.count() + workers.number()

    def _count(self, state: State, unit: _FreshCall, observation: Observation) -> None:
        """Count the images of one more call. What raises while moments grow leaves a state that says so."""
        images = observation.images
        fresh = unit.fresh if unit.images == images else self._fresh(state, unit.call, images)
        numbers = {row: number for row, (number, _) in fresh.items()}
        self._rows_are_images = rows_of(unit.call) == images
        state.together = max(state.together, images)
        self._compare(observation)
        said_BD = descriptors(observation.tokens)
        said = {number: said_BD[row].clone() for row, number in numbers.items() if number < DESCRIBED}
        folds = self.folds.of_images(numbers.values(), state.folds, state.descriptors | said)
        if self.keeps_images or self._augment:
            self._keep(state.samples, observation, numbers, folds)
        state.is_whole = False
        state.descriptors |= said
        state.folds |= folds
        for parts, calls in zip(state.moments, observation.tokens, strict=True):
            self._add_tokens(parts, calls, numbers, folds)
        state.counted |= dict(fresh.values())
        self._position += images
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

    def _add_tokens(
        self,
        parts: Sequence[Moments],
        calls: Sequence[PairedTokens],
        numbers: Mapping[int, int],
        folds: Mapping[int, int],
    ) -> None:
        """Count the tokens of some images, each image in its fold."""
        for pair in calls:
            for fold, part in zip(self.folds.numbers, parts, strict=True):
                mine = {i: number for i, number in numbers.items() if folds[number] == fold}
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

    def _keep(
        self, samples: Samples, observation: Observation, numbers: Mapping[int, int], folds: Mapping[int, int]
    ) -> None:
        """Keep images of a batch for the head; to keep one twice changes nothing."""
        wanted = [(i, number) for i, number in numbers.items() if samples.wants(number, folds[number])]
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
        sizes = workers.total(torch.tensor(self.folds.sizes(state.folds), dtype=torch.float64))
        seen, fewest = int(sizes.sum()), self.folds.fewest_images
        if not seen:
            fault = Mismatch("data", "at least one batch", "none", "data=[images]; a generator can be used up once")
            raise CalibrationError("there are no images to calibrate on", [fault])
        if seen < fewest or not sizes.all():
            found = f"{seen}" if seen < fewest else f"{seen}, none of them in one of {len(sizes)} folds"
            fault = Mismatch("data", f"at least {fewest} images, one a fold", found, "data= more images")
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


def _with_last(values: Iterable[Unit]) -> Iterator[tuple[Unit, bool]]:
    """Values, and whether each is the last one."""
    left = iter(values)
    value = next(left, None)
    while value is not None:
        after = next(left, None)
        yield value, after is None
        value = after


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
        if self._path is not None and self._state.counted and self._state.is_whole:
            self._state.save(self._path, self._fingerprint)
