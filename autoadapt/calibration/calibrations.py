"""Calibrations: adapters fitted in closed form, without labels, so that the old head keeps working."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from autoadapt.calibration import workers
from autoadapt.calibration.choosing import Choice, Solver, choose, has_few_tokens
from autoadapt.calibration.fitting import Fitting
from autoadapt.calibration.judging import Head, Judge, Loss, Score, copied_head
from autoadapt.calibration.moments import Moments
from autoadapt.calibration.observations import Observation, Pair, explained, find_adapted
from autoadapt.calibration.progress import Progress, progress
from autoadapt.calibration.projections import find_projections, left_as_they_are, set_weight
from autoadapt.calibration.results import Calibration, HeadScore, OutputFit
from autoadapt.calibration.samples import Sample, Samples, cut
from autoadapt.calibration.solvers import AffineMap, HeldOut, Recipe
from autoadapt.calibration.states import State
from autoadapt.capturing.probing import quiet
from autoadapt.errors import CalibrationError, Mismatch

__all__ = ["calibrate"]

FOLDS = 4
EXPLAINS_LITTLE = 0.5
_SECONDS_BETWEEN_SAVES = 10.0


def calibrate(
    net: nn.Module,
    *,
    like: nn.Module,
    data: Iterable[object],
    head: Head | None = None,
    at: str | None = None,
    loss: Loss | None = None,
    images: int = 128,
    tokens_per_image: int = 256,
    solver: Solver | Recipe = "auto",
    refine: int = 0,
    device: torch.device | str | None = None,
    seed: int = 0,
    state: str | Path | None = None,
) -> Calibration:
    """Fit the adapters of a swapped backbone, so that what follows it sees the features that it was trained on.

    Old and new run once over unlabelled images; each projection becomes the affine map that brings the new features
    nearest to the old ones. Of several closed forms the one is taken with which the head answers most like before, on
    images that were not fitted on. The adapters are written at the end and only if the result beats random adapters
    and the mean of the old features; nothing else is ever changed.

    Under `torch.distributed` every process passes over its own part of the images (the j-th of process r counts as
    number `j * processes + r`, as `DistributedSampler` deals them) and all write the same weights.

    Args:
        net: What `adapt` returned, or a bigger model that has it at `at`.
        like: The old backbone, or the old bigger model.
        data: Batches of images as the model takes them: tensors, tuples or dicts; of the lists that a `DataLoader`
            gives, only the fields that the model needs are taken.
        head: What makes the answer of the backbone's output. In a bigger model the rest of it is the head, and this
            comes after. Modules run as copies in eval mode.
        at: Path of the adapted module in a bigger model.
        loss: How far a head's answer is from the old one, `loss(found, expected)`, where that is not the divergence
            of logits.
        images: At most so many are looked at.
        tokens_per_image: At most so many places of each image, chosen by chance.
        solver: `auto`, or one family: `least_squares`, `ridge`, `restored` (ridge with the variance restored),
            `procrustes`, `anchored` (ridge towards procrustes), `reduced_rank`; or the one `Recipe` to take.
        refine: Steps on the head's loss after the closed form, adapters only; kept only if held-out images gain.
        device: Where to run; where the model is, if left out.
        seed: For the choice of places and images, and the random floor.
        state: A `.safetensors` file to go on from if it exists, and to write to now and then.

    Returns:
        What was fitted and how good it is on images that it was not fitted on.

    Raises:
        CalibrationError: Every weight is bit for bit as it was.

    Example:
        >>> from autoadapt.adapting import adapt
        >>> old, new = nn.Conv2d(3, 4, 2, stride=2), nn.Conv2d(3, 12, 2, stride=2)
        >>> net = adapt(new, like=old, inputs=torch.zeros(1, 3, 8, 8))
        >>> found = calibrate(net, like=old, data=[torch.randn(8, 3, 8, 8)])
        >>> found.written, round(found.outputs[0].r2, 6)
        (True, 1.0)
    """
    started = time.perf_counter()
    adapted = find_adapted(net, at)
    layers = [adapted.get_submodule(projection.module) for projection in find_projections(adapted)]
    with quiet():
        pair = Pair(net, like, at, device)
        session = _Session(pair, None if head is None else copied_head(head), bool(at), loss, tokens_per_image, seed)
        passed = session.gather(data, images, None if state is None else Path(state))
        outcome = session.solve(passed, solver, refine)
        if outcome.result.written:
            for layer, fitted in zip(layers, outcome.maps, strict=True):
                set_weight(layer, fitted.weight_CD, fitted.bias_D)
    return outcome.result.model_copy(update={"seconds": time.perf_counter() - started})


@dataclass(frozen=True)
class _Outcome:
    """What to write, and what to say."""

    maps: list[AffineMap]
    result: Calibration


class _Session:
    """One calibration: the pass over the data, and what is made of it."""

    def __init__(
        self, pair: Pair, head: Head | None, in_model: bool, loss: Loss | None, tokens_per_image: int, seed: int
    ) -> None:
        self._pair = pair
        self._head = head
        self._loss = loss
        self._judged = head is not None or in_model
        self._tokens_per_image = tokens_per_image
        self._seed = seed

    def gather(self, data: Iterable[object], images: int, path: Path | None) -> State:
        """Pass over the data once.

        Raises:
            CalibrationError: There is none, or a batch is faulty.
        """
        state = self._empty()
        fingerprint = self._fingerprint()
        if path is not None:
            path = path if workers.count() == 1 else path.with_suffix(f".{workers.number()}{path.suffix}")
            if path.exists():
                state.load(path, fingerprint)
        failed = True
        try:
            with progress(images) as report:
                state = self._passed(data, images, state, report, path, fingerprint)
            failed = False
        finally:
            failures = float(workers.total(torch.tensor([float(failed)], dtype=torch.float64)))
        if failures:
            fault = Mismatch("workers", "every one to end its pass", f"{failures:.0f} failed", "see their errors")
            raise CalibrationError("another worker failed", [fault])
        self._check_images(state)
        return state

    def _empty(self) -> State:
        where = self._pair.device if self._pair.device.type in ("cpu", "cuda") else torch.device("cpu")
        moments = [
            [Moments.zeros(projection.step.source, projection.step.target, where) for _ in range(FOLDS)]
            for projection in self._pair.projections
        ]
        return State(moments, Samples(FOLDS, self._seed))

    def _fingerprint(self) -> str:
        """What two runs must have in common for one to go on where the other stopped."""
        weights = [float(t.double().sum()) for t in self._pair.tensors()]
        facts = [
            self._pair.plan.model_dump_json(),
            weights,
            [FOLDS, self._tokens_per_image, self._seed, self._judged],
            [workers.number(), workers.count()],
        ]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:12]

    def _passed(
        self, data: Iterable[object], images: int, state: State, report: Progress, path: Path | None, fingerprint: str
    ) -> State:
        saved = time.monotonic()
        try:
            for number, batch in enumerate(data):
                if self._number(state.images) >= images:
                    break
                if number < state.batches:
                    continue
                state = self._with_batch(state, batch, number, images)
                done, tokens = state.images * workers.count(), state.tokens
                report(min(done, images), tokens, lambda: _error_so_far(state))  # noqa: B023  # called at once
                if path is not None and time.monotonic() - saved > _SECONDS_BETWEEN_SAVES:
                    state.save(path, fingerprint)
                    saved = time.monotonic()
        finally:
            if path is not None and state.batches:
                state.save(path, fingerprint)
        return state

    def _number(self, index: int) -> int:
        return index * workers.count() + workers.number()

    def _with_batch(self, state: State, batch: object, number: int, images: int) -> State:
        """The state with one more batch; all or nothing."""
        observation = self._pair.observe(batch, number)
        numbers = [self._number(state.images + i) for i in range(observation.images)]
        numbers = [one for one in numbers if one < images]
        moments = [
            self._added(folds, calls, numbers) for folds, calls in zip(state.moments, observation.tokens, strict=True)
        ]
        if self._judged:
            self._keep(state.samples, observation, numbers)
        return replace(state, moments=moments, batches=number + 1, images=state.images + len(numbers))

    def _added(
        self, folds: Sequence[Moments], calls: Sequence[tuple[torch.Tensor, torch.Tensor]], numbers: Sequence[int]
    ) -> list[Moments]:
        """Moments with the tokens of some images, each image in the fold of its number."""
        added = list(folds)
        for x_BTC, y_BTD in calls:
            places = [self._places(number, x_BTC.shape[1]) for number in numbers]
            for fold in range(FOLDS):
                mine = [i for i, number in enumerate(numbers) if number % FOLDS == fold]
                if mine:
                    device = folds[fold].mean_x_C.device
                    x_NC = torch.cat([x_BTC[i, places[i]] for i in mine]).to(device)
                    y_ND = torch.cat([y_BTD[i, places[i]] for i in mine]).to(device)
                    added[fold] = added[fold] + Moments.of(x_NC, y_ND)
        return added

    def _places(self, number: int, count: int) -> torch.Tensor | slice:
        """Which tokens of an image are looked at; a matter of its number alone."""
        if count <= self._tokens_per_image:
            return slice(None)
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + number)
        return torch.randperm(count, generator=generator)[: self._tokens_per_image].to(self._pair.device)

    def _keep(self, samples: Samples, observation: Observation, numbers: Sequence[int]) -> None:
        wanted = [(i, number) for i, number in enumerate(numbers) if samples.wants(number, number % FOLDS)]
        if not wanted:
            return
        answer = observation.answer
        if self._head is not None:
            with explained("head", "an answer on the old features"):
                answer = self._head(answer)
        for i, number in wanted:
            arguments, features = observation.cut(i)
            one = cut(answer, i, observation.images)
            positional = observation.arguments.positional
            samples.add(Sample(number, number % FOLDS, positional, arguments, features, one))

    def _check_images(self, state: State) -> None:
        seen = int(workers.total(torch.tensor([state.images], dtype=torch.float64)))
        if not seen:
            fault = Mismatch("data", "at least one batch", "none", "data=[images]; a generator can be used up once")
            raise CalibrationError("there are no images to calibrate on", [fault])
        if seen < FOLDS:
            fault = Mismatch("data", f"at least {FOLDS} images, one a fold", str(seen), "data= more images")
            raise CalibrationError("too few images to hold any out", [fault])

    def solve(self, state: State, solver: Solver | Recipe, refine: int) -> _Outcome:
        """Choose, fit on everything, and describe it."""
        fitting = Fitting([[workers.combined(part) for part in folds] for folds in state.moments])
        judge = self._judge(state.samples, fitting)
        choice = choose(fitting, judge, solver)
        floors = fitting.random_maps(self._seed), fitting.constant_maps()
        scores = [None if judge is None else judge.score(maps) for maps in floors]
        held_out_maps = fitting.held_out_maps(choice.recipes)
        fits = [self._fit(p, fitting, choice.recipes[p], held_out_maps, floors[0], state) for p in fitting.projections]
        maps, score, before = fitting.maps(choice.recipes), choice.score, None
        if refine and judge is not None and score is not None:
            refined = _refined(judge, fitting, choice, maps, refine)
            if refined is not None:
                maps, score, before = refined[0], refined[2], refined[1]
        failing = _below_floors(score, scores, fits)
        written = not failing
        result = Calibration(
            name=self._pair.plan.source.name,
            written=written,
            verdict="written" if written else f"left as they were: {failing}",
            solver=choice.text + (f", {refine} steps on the head" if before is not None else ""),
            chosen_by=choice.reason,
            outputs=tuple(fits),
            head=self._said(score),
            random=self._said(scores[0]),
            mean_only=self._said(scores[1]),
            before_refining=self._said(before),
            trials=choice.trials,
            remarks=tuple(self._remarks(fitting, fits, refine, before)),
            images=int(workers.total(torch.tensor([state.images], dtype=torch.float64))),
            head_images=len(workers.gathered(state.samples.numbers)) if self._judged else 0,
            tokens=sum(fitting.moments(p).count for p in fitting.projections),
            seconds=0.0,
            solver_seconds=fitting.seconds,
            bytes=state.bytes,
        )
        return _Outcome(maps, result)

    def _judge(self, samples: Samples, fitting: Fitting) -> Judge | None:
        if not self._judged:
            return None
        everyone = workers.gathered(samples.numbers)
        samples.only(samples.chosen(everyone))
        return Judge(self._pair, samples, FOLDS, self._head, self._loss)

    def _fit(
        self,
        projection: int,
        fitting: Fitting,
        recipe: Recipe,
        maps: dict[int, list[AffineMap]],
        random: dict[int, list[AffineMap]],
        state: State,
    ) -> OutputFit:
        where = self._pair.projections[projection]
        spectrum, held = fitting.spectrum(projection), fitting.held_out(projection, maps)
        seen = int(workers.total(torch.tensor([state.images], dtype=torch.float64)))
        by_fold = [len(range(fold, seen, FOLDS)) for fold in range(FOLDS)]
        return OutputFit(
            target=where.route.target,
            source=where.route.source,
            channels=(where.step.source, where.step.target),
            tokens=spectrum.moments.count,
            solver=str(recipe),
            r2=held.r2,
            cosine=held.cosine,
            variance_ratio=held.variance_ratio,
            random_r2=fitting.held_out(projection, random).r2,
            penalty=recipe.penalty,
            condition=spectrum.condition,
            eigenvalues=tuple(spectrum.values_C.flip(0).tolist()),
            by_images=fitting.error_by_images(projection, recipe, by_fold),
        )

    def _said(self, score: Score | None) -> HeadScore | None:
        if score is None:
            return None
        return HeadScore(loss=score.loss, agreement=None if self._loss is not None else score.agreement)

    def _remarks(self, fitting: Fitting, fits: Sequence[OutputFit], refine: int, before: Score | None) -> list[str]:
        said = [f"{target}: {why}" for target, why in left_as_they_are(self._pair.plan).items()]
        for projection, fit in enumerate(fits):
            moments = fitting.moments(projection)
            dead = int((moments.xx_CC.diagonal() == 0).sum())
            if dead:
                said.append(f"{fit.target}: {dead} of {moments.source} channels of {fit.source} are constant")
            if projection in has_few_tokens(fitting):
                found = f"{moments.count} tokens for {moments.source} channels"
                said.append(f"{fit.target}: {found}, so only fits with a penalty are tried")
            if fit.r2 < EXPLAINS_LITTLE:
                share = f"{max(fit.r2, 0):.0%} of the variance"
                said.append(f"{fit.target}: the new features explain little of the old ones ({share} on other images)")
        if refine and not self._judged:
            said.append("refine needs a head to refine for; nothing was refined")
        elif refine and before is None:
            said.append(f"{refine} steps on the head made it no better on held-out images, and are not kept")
        return said


def _refined(
    judge: Judge, fitting: Fitting, choice: Choice, maps: list[AffineMap], steps: int
) -> tuple[list[AffineMap], Score, Score] | None:
    """Maps after some steps on the head, with the scores before and after on a fold not used; None if no better."""
    held, used = 0, fitting.others(0)
    fitted = fitting.maps(choice.recipes, used)
    before = judge.score({held: fitted})
    after = judge.score({held: judge.refine(fitted, used, steps)})
    if not after.loss < before.loss:
        return None
    return judge.refine(maps, fitting.folds, steps), before, after


def _below_floors(score: Score | None, floors: Sequence[Score | None], fits: Sequence[OutputFit]) -> str:
    """Why the fit is not to be written; empty where it is."""
    if score is not None:
        for name, other in zip(("random adapters", "the mean alone"), floors, strict=True):
            if other is not None and not score.loss < other.loss:
                return f"the head's loss {score.loss:.3g} is no better than {other.loss:.3g} with {name}"
        return ""
    for fit in fits:
        if not fit.r2 > max(0.0, fit.random_r2):
            floor = max(0.0, fit.random_r2)
            return f"{fit.target} has R2 {fit.r2:.3f} on other images, no better than {floor:.3f} without a fit"
    return ""


def _error_so_far(state: State) -> float | None:
    """Held-out error of a plain ridge on the last output, where that is cheap."""
    folds = state.moments[-1]
    if any(not part.count for part in folds):
        return None
    fitting = Fitting([folds])
    if fitting.has_many_channels:
        return None
    used = fitting.others(0)
    fitted = fitting.map(0, Recipe(1e-2), used)
    return 1 - HeldOut.of(fitted, fitting.moments(0, used).mean_y_D, folds[0]).r2
