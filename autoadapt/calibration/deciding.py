"""Deciding: which maps are written of those that a pass over the data allows, and what is said of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

from autoadapt.calibration import workers
from autoadapt.calibration.choosing import INFINITE, Choice, Solver, choose, has_few_tokens
from autoadapt.calibration.gathering import Gathering
from autoadapt.calibration.held_out_maps import Fitting, HeldOutMaps
from autoadapt.calibration.honesty import drawn_on, gain_over, honest_after, on_others, standard_errors
from autoadapt.calibration.image_folds import Folds
from autoadapt.calibration.judging import Head, Judge, Loss, Score
from autoadapt.calibration.moments import Moments
from autoadapt.calibration.near_copies import count_different, remark_on, seen
from autoadapt.calibration.paired_runs import Pair
from autoadapt.calibration.progress_bars import Progress
from autoadapt.calibration.projections import Projection, left_as_they_are, weight_and_offset
from autoadapt.calibration.refining import Refine, Refined, refined, stepped
from autoadapt.calibration.results import Calibration, HeadScore, OutputFit
from autoadapt.calibration.run_states import State
from autoadapt.calibration.samples import Samples
from autoadapt.calibration.solvers import AffineMap, HeldOut, Recipe, condition

EXPLAINS_LITTLE = 0.5
SEEN = "the images judged on have near copies among those fitted on, so that figures say too much"


@dataclass(frozen=True)
class Outcome:
    """What to write, and what to say."""

    maps: list[AffineMap]
    """None at all where the adapters stay as they are."""
    result: Calibration


@dataclass(frozen=True)
class _Found:
    """The maps that were found best, and their scores on held-out images; None where no head judges."""

    judge: Judge | None
    fitting: Fitting
    choice: Choice
    fits: list[OutputFit]
    further: Refined | None
    score: Score | None
    """Of maps fitted on three quarters of the images."""
    told: Score | None
    """The same, drawn on to all images."""
    before: Score | None
    """That before the steps on the head."""
    random: Score | None
    mean_only: Score | None
    images: int
    remarks: list[str]


class Deciding:
    """What is made of what a pass over the data has left."""

    def __init__(
        self,
        pair: Pair,
        gathering: Gathering,
        head: Head | None,
        loss: Loss | None,
        seed: int,
        report: Progress,
        class_map: AffineMap | None,
    ) -> None:
        self._pair = pair
        self._folds = gathering.folds
        self._judged = gathering.keeps_images
        self._said_of_made = gathering.remarks
        self._groups = gathering.groups
        self._folds_of_images = gathering.folds_of_images
        self._layers = [one.module for one in pair.projections]
        self._head = head
        self._loss = loss
        self._report = report
        self._seed = seed
        self._class_map = class_map

    def decide(self, state: State, solver: Solver | Recipe, refine: Refine) -> Outcome:
        """Choose, fit on everything, and describe it."""
        self._report.does("fitting")
        found = self._found(state, solver, refine)
        fitting, judge = found.fitting, found.judge
        failing = _below_floors(found.score, (found.random, found.mean_only), found.fits, self._groups)
        instead, verdict = self._instead(judge, fitting, found.mean_only) if failing else ([], "written")
        result = self._described(found, state, f"{verdict}: {failing}" if failing else verdict, written=not failing)
        maps = instead if failing else fitting.last_maps(found.choice.recipes)
        if judge is not None and found.further is not None and not failing:
            maps = stepped(judge, fitting, maps, found.further, self._seed)
        return Outcome(maps, result.model_copy(update={"solver_seconds": fitting.seconds}))

    def _found(self, state: State, solver: Solver | Recipe, refine: Refine) -> _Found:
        """The best closed form, steps on the head from it, and how good both are."""
        moments, made = (list(map(self._fitted_on, self._pair.projections, m)) for m in (state.moments, state.made))
        images, judge = workers.summed(state.images), self._judge(state.samples)
        asked = judge, solver, self._groups, self._layers, self._class_map
        fitting, choice, honest = _choose_fit(moments, made, self._folds, *asked)
        floors = fitting.random_maps(self._seed), fitting.constant_maps()
        held_out_maps = fitting.held_out_maps(choice.recipes)
        by_chance, mean_only, reached = (
            None if judge is None else judge.score(maps, on_all=True) for maps in (*floors, held_out_maps)
        )
        fits = [self._fit(p, fitting, choice.recipes[p], held_out_maps, floors[0]) for p in fitting.projections]
        slopes = not refine or judge is None or judge.passes_gradients(next(iter(held_out_maps.values())))
        further = None
        if refine and judge is not None and slopes:
            further = refined(judge, fitting, held_out_maps, refine, self._seed)
        remarks = self._remarks(fitting, fits, images, "" if further is None else ", before the steps on the head")
        remarks += self._remarks_on_head(judge, refine, further, images, slopes=slopes)
        if further is not None:  # they may well be further from the old features
            fits = [self._after(fit, p, fitting, further.held_out_maps) for p, fit in enumerate(fits)]
        score = None if reached is None else honest_after(reached, choice.score, honest)
        before, score = (None, score) if further is None else further.honest(choice.score, honest)
        told, before = self._drawn_on(judge, fitting, choice, reached, (score, before))
        return _Found(judge, fitting, choice, fits, further, score, told, before, by_chance, mean_only, images, remarks)

    @staticmethod
    def _drawn_on(
        judge: Judge | None,
        fitting: Fitting,
        choice: Choice,
        most: Score | None,
        scores: Sequence[Score | None],
    ) -> list[Score | None]:
        """What scores of maps fitted on three quarters of the images come to with all, where those of halves tell."""
        halves = fitting.maps_of_halves(choice.recipes)
        if judge is None or most is None or not halves:
            return [*scores]
        half = judge.score(halves, on_all=True)
        return [None if one is None else drawn_on(one, most, half) for one in scores]

    def _described(self, found: _Found, state: State, verdict: str, *, written: bool) -> Calibration:
        fitting = found.fitting
        return Calibration(
            name=self._pair.plan.source.title,
            written=written,
            verdict=verdict,
            solver=found.choice.text + (f", {found.further.text}" if found.further is not None else ""),
            chosen_by=found.choice.reason,
            outputs=tuple(found.fits),
            head=self._said(found.told),
            loss_name=self._loss_name(found.judge),
            random=self._said(found.random),
            mean_only=self._said(found.mean_only),
            before_refining=self._said(found.before),
            trials=found.choice.trials,
            remarks=tuple(found.remarks),
            images=found.images,
            mixed_images=workers.summed(state.mixed) if fitting.has_mixed else 0,
            synthetic_images=workers.summed(state.synthetic) if fitting.has_synthetic else 0,
            head_images=0 if found.score is None else len(found.score.losses),
            tokens=sum(map(fitting.count, fitting.projections)),
            seconds=0.0,
            solver_seconds=0.0,
            bytes=state.bytes,
        )

    def _fitted_on(self, projection: Projection, parts: Sequence[Moments]) -> list[Moments]:
        """Moments of all workers; around zero where no offset takes a mean along."""
        found = map(workers.combined, parts)
        return [one if projection.step.bias else one.about_zero() for one in found]

    @property
    def _without_offset(self) -> list[str]:
        return [one.target for one in self._pair.projections if not one.step.bias]

    def _instead(self, judge: Judge | None, fitting: Fitting, mean_only: Score | None) -> tuple[list[AffineMap], str]:
        """What to write where the fit is no use: the mean, where that beats what is there beyond chance; or nothing."""
        # of what is there nothing is known: it may have been trained; and no weight makes a mean without an offset
        if judge is not None and mean_only is not None and not self._without_offset:
            layers = [(one, self._pair.given.get_submodule(one.module)) for one in self._pair.projections]
            there = [AffineMap(*one.part(*weight_and_offset(layer))) for one, layer in layers]
            if gain_over(mean_only, judge.score(dict.fromkeys(fitting.folds.held_out, there)), self._groups).is_sure:
                return fitting.means(), "set to the mean of the old features"
        return [], "left as they were"

    def _judge(self, samples: Samples) -> Judge | None:
        """What tries maps."""
        if not self._judged:
            return None
        samples.only(samples.chosen(workers.gathered(samples.numbers)))
        copies = seen(self._groups, self._folds_of_images)
        judge = Judge(self._pair, samples, self._head, self._loss, self._report, seen=copies)
        return None if judge.says_nothing else judge

    def _loss_name(self, judge: Judge | None) -> str:
        if self._loss is not None:
            return "loss"
        return "boxes lost" if judge is not None and judge.is_of_detections else "KL"

    def _fit(
        self,
        projection: int,
        fitting: Fitting,
        recipe: Recipe,
        maps: HeldOutMaps,
        random: HeldOutMaps,
    ) -> OutputFit:
        where = self._pair.projections[projection]
        values_C, errors = fitting.eigenvalues(projection), fitting.held_out(projection, _of(projection, maps))
        held, without = HeldOut.sum(errors), HeldOut.sum(fitting.held_out(projection, _of(projection, random)))
        return OutputFit(
            target=where.target,
            source=where.route.source,
            channels=(where.step.source, where.step.target),
            tokens=fitting.count(projection),
            solver=str(recipe),
            r2=held.r2,
            cosine=held.cosine,
            variance_ratio=held.variance_ratio,
            random_r2=without.r2,
            penalty=recipe.penalty,
            condition=condition(values_C),
            eigenvalues=tuple(values_C.flip(0).tolist()),
            by_images=fitting.error_by_images(projection, recipe, self._folds.sizes(self._folds_of_images), errors[0]),
        )

    def _after(self, fit: OutputFit, projection: int, fitting: Fitting, maps: HeldOutMaps) -> OutputFit:
        held = HeldOut.sum(fitting.held_out(projection, _of(projection, maps)))
        return fit.model_copy(update={"r2": held.r2, "cosine": held.cosine, "variance_ratio": held.variance_ratio})

    def _said(self, score: Score | None) -> HeadScore | None:
        if score is None:
            return None
        of_loss, of_agreement = standard_errors(score, self._groups)
        known = {} if self._loss is not None else {"agreement": score.agreement, "agreement_error": of_agreement}
        return HeadScore.model_validate({"loss": score.loss, "loss_error": of_loss, "agreement": None} | known)

    def _remarks(self, fitting: Fitting, fits: Sequence[OutputFit], images: int, when: str) -> list[str]:
        different = remark_on(count_different(self._groups, images), images)
        said = [*self._said_of_made, *([different] if different else [])]
        said += [f"{target}: {why}" for target, why in left_as_they_are(self._pair.plan).items()]
        said += [f"{target}: fitted without offset, so R2 counts from zero" for target in self._without_offset]
        for projection, fit in enumerate(fits):
            channels, dead = fit.channels[0], fitting.constant_channels(projection)
            if dead:
                said.append(f"{fit.target}: {dead} of {channels} channels of {fit.source} are constant")
            if projection in has_few_tokens(fitting):
                found = f"{fit.tokens} tokens for {channels} channels"
                said.append(f"{fit.target}: {found}, so only fits with a penalty are tried")
            if fit.r2 < EXPLAINS_LITTLE:
                share = f"{max(fit.r2, 0):.0%} of the variance"
                little = f"the new features explain little of the old ones ({share} on other images{when})"
                said.append(f"{fit.target}: {little}")
        return said

    def _remarks_on_head(
        self, judge: Judge | None, refine: Refine, further: Refined | None, images: int, *, slopes: bool
    ) -> list[str]:
        said = [SEEN] if judge is not None and judge.judges_seen else []
        if self._judged and judge is None:
            said.append("the old model finds no boxes on these images, so the features decided alone")
        if refine and judge is None:
            said.append("refine needs a head that answers; nothing was refined")
        elif refine and not slopes:
            said.append("refine needs a head and a loss that pass gradients; nothing was refined")
        elif refine and further is None:
            said.append("steps on the head made it no better on held-out images beyond chance, and are not kept")
        elif further is not None and further.images < images:
            said.append(f"steps on the head went over {further.images} of {images} images, which fit into 128 MiB")
        return said


def _of(projection: int, maps: HeldOutMaps) -> dict[int, AffineMap]:
    """The maps of one projection."""
    return {fold: fitted[projection] for fold, fitted in maps.items()}


def _below_floors(
    score: Score | None, floors: Sequence[Score | None], fits: Sequence[OutputFit], groups: Mapping[int, int]
) -> str:
    """Why the fit is not to be written; empty where it is."""
    if score is not None:
        for name, other in zip(("random adapters", "the mean alone"), floors, strict=True):
            if other is not None and not (gain := gain_over(score, other, groups)).is_sure:
                chance = f" beyond chance ({gain.standard_error:.2g})" if gain.mean > 0 else ""
                return f"the head's loss {score.loss:.3g} is no better than {other.loss:.3g} with {name}{chance}"
        return ""
    for fit in fits:
        if not fit.r2 > max(0.0, fit.random_r2):
            floor = max(0.0, fit.random_r2)
            return f"{fit.target} has R2 {fit.r2:.3f} on other images, no better than {floor:.3f} without a fit"
    return ""


def _choose_fit(
    moments: Sequence[Sequence[Moments]],
    made: Sequence[Sequence[Moments]],
    folds: Folds,
    judge: Judge | None,
    solver: Solver | Recipe,
    groups: Mapping[int, int],
    layers: Sequence[str] = (),
    class_map: AffineMap | None = None,
) -> tuple[Fitting, Choice, Score | None]:
    """The best closed form on the caller's images alone, with mixes of them, or with synthetic pictures as well.

    Args:
        moments: For each projection and each fold.
        made: The same of mixes, and once more for synthetic pictures; empty where none are made.
        folds: Which images are held out together.
        judge: Tries maps on the head; without it the features decide.
        solver: Which forms to try.
        groups: For each image the first that it is a near copy of.
        layers: In which layer each projection stands; each in one of its own, if left out.
        class_map: What the classifiers of both ask for, if these are known.

    Returns:
        What is fitted on, the form, and its score on images that did not choose it.
    """
    count = len(folds.numbers)
    options = [Fitting(moments, folds, layers=layers, class_map=class_map)]
    if any(part.count for parts in made for part in parts[:count]):
        options.append(Fitting(moments, folds, [parts[:count] for parts in made], layers, class_map))
    if any(part.count for parts in made for part in parts[count:]):
        options.append(Fitting(moments, folds, made, layers, class_map))
    chosen = [(fitting, choose(fitting, judge, solver)) for fitting in options]
    fitting, best = min(chosen, key=lambda each: _lost(*each)) if len(chosen) > 1 else chosen[0]
    if best.score is None:
        return fitting, best, None
    return fitting, best, on_others(best.score, [score for _, choice in chosen for score in choice.scores], groups)


def _lost(fitting: Fitting, choice: Choice) -> float:
    """What the held-out images lose: the head's loss, or without a head the mean cosine of the outputs."""
    if choice.score is not None:
        return choice.score.loss if choice.score.loss == choice.score.loss else INFINITE
    maps = [fitting.held_out_map(projection, recipe) for projection, recipe in enumerate(choice.recipes)]
    held = [HeldOut.sum(fitting.held_out(projection, each)) for projection, each in enumerate(maps)]
    return -fmean(each.cosine for each in held)
