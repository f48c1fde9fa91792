"""Calibrations: adapters fitted in closed form, without labels, so that the old head keeps working."""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from autoadapt.adapting.building import mark_calibrated
from autoadapt.calibration import workers
from autoadapt.calibration.asked import check_asked, check_old
from autoadapt.calibration.choosing import Solver, has_few_tokens
from autoadapt.calibration.class_anchors import class_anchor, from_classifiers
from autoadapt.calibration.dealing import facts_of, refuse_unlike
from autoadapt.calibration.gathering import Gathering
from autoadapt.calibration.held_out_maps import Fitting, HeldOutMaps
from autoadapt.calibration.honesty import gain_over, honest_after, standard_errors
from autoadapt.calibration.judging import Head, Judge, Loss, Score, copied_head
from autoadapt.calibration.making import Augment
from autoadapt.calibration.moments import Moments
from autoadapt.calibration.near_copies import count_different, remark_on, seen
from autoadapt.calibration.paired_runs import Pair, explained
from autoadapt.calibration.progress import Progress, progress
from autoadapt.calibration.projections import (
    Projection,
    find_projections,
    left_as_they_are,
    set_weights,
    weight_and_offset,
)
from autoadapt.calibration.refining import Refine, Refined, refined, stepped, steps_of
from autoadapt.calibration.results import Calibration, HeadScore, OutputFit
from autoadapt.calibration.run_states import State
from autoadapt.calibration.samples import REPORTED, Samples
from autoadapt.calibration.solvers import AffineMap, HeldOut, Recipe, condition
from autoadapt.calibration.whole_models import find_adapted
from autoadapt.calibration.with_made import choose_fit
from autoadapt.contracts.capturing.probing import quiet
from autoadapt.contracts.capturing.regions import RegionPath
from autoadapt.contracts.instances import check_module
from autoadapt.contracts.unfit import off_the_meta_device
from autoadapt.contracts.views import within_wrapper
from autoadapt.errors import CalibrationError
from autoadapt.files.writing import check_place
from autoadapt.sources import as_module
from autoadapt.swapping.stand_ins import first_path

__all__ = ["calibrate"]

EXPLAINS_LITTLE = 0.5
SEEN = "the images judged on have near copies among those fitted on, so that figures say too much"


def calibrate(
    net: nn.Module,
    *,
    like: nn.Module | str,
    data: Iterable[object] | None,
    head: Head | None = None,
    own_head: Head | None = None,
    at: RegionPath | None = None,
    loss: Loss | None = None,
    images: int = 128,
    tokens_per_image: int = 256,
    solver: Solver | Recipe = "auto",
    refine: Refine = 0,
    augment: Augment = "auto",
    device: torch.device | str | None = None,
    seed: int = 0,
    state: str | Path | None = None,
) -> Calibration:
    """Fit the adapters of a swapped backbone, so that what follows it sees the features that it was trained on.

    Old and new run once over unlabelled images; each projection becomes the affine map that brings the new features
    nearest to the old ones. Of several closed forms the one is taken with which the head answers most like before, on
    images that were not fitted on. The adapters are written at the end and only if the result beats random adapters
    and the mean of the old features; else they are set to that mean, if a head answers better with it than with them as
    they are, or left alone. Nothing else is ever changed.

    Under `torch.distributed` every process passes over its own part of the images (the j-th of process r counts as
    number `j * processes + r`, as `DistributedSampler` deals them) and all write the same weights. Modules sharded by
    FSDP2 are run as they are, in eval mode.

    Args:
        net: What `adapt` returned, or a bigger model that has it at `at`.
        like: The old backbone, or the old bigger model; or the name of a backbone, `timm:resnet18`, which is loaded
            with its published weights.
        data: Batches of images as the model takes them: tensors, tuples or dicts; of dicts, and of the lists that a
            `DataLoader` gives, only the fields that the model needs are taken. None, where `own_head` says enough.
        head: What makes the answer of the backbone's output. In a bigger model the rest of it is the head, and this
            comes after. Modules run as copies in eval mode, also those that a function names.
        own_head: The new model's own classifier, of the same classes in the same order, where both it and `head` are
            affine in the features: with the one after the map the answers are those of the other, as far as that can
            be. `auto` tries that map as well; with `data=None` it is written as it is, and nothing is judged.
        at: Path of the adapted module in a bigger model, or the region in whose place it stands.
        loss: How far a head's answer is from the old one, `loss(found, expected)`, where that is neither the
            divergence of logits nor the overlap of a detector's boxes. Judged on one image after the other.
        images: At most so many are looked at.
        tokens_per_image: At most so many places of each image, chosen by chance.
        solver: `auto`, or one family: `least_squares`, `ridge`, `restored` (ridge with the variance restored),
            `procrustes`, `anchored` (ridge towards procrustes), `coloured` (that with the covariance restored, of at
            most 512 channels), `reduced_rank`; or the one `Recipe` to take.
        refine: At most so many steps on the head's loss after the closed form, adapters only, over minibatches of all
            images that fit into 128 MiB: of the whole maps, or of nothing but the scales of their channels, whichever
            is better for held-out images, and as many as are; none where these gain no more than chance would give.
            `auto` takes at most 64, or 512 of whole maps where after these the loss still falls, and gives up where a
            first part of the images gains nothing.
        augment: `auto` makes images until there are 1,024, of which those that differ count: at most 768 mixes of them
            (other colours, turned, cropped, mosaics, patches of others), and where there are fewer than 256 as many
            pictures out of nothing as are missing; of waveforms shifts, other speeds and sums. Up to 1,024 forward
            passes of both, that is; fitted on only where that is better for images held out, and nothing is ever judged
            on them. 0 makes none. A function makes them of a batch as the model takes it, all of whose images are of
            one fold: `augment=lambda images: images.flip(-1)`.
        device: Where to run; where the model is, if left out.
        seed: For the choice of places and images, and the random floor.
        state: A `.safetensors` file to go on from if it exists, and to write to now and then; each of several
            processes writes one beside it, and another number of them goes on from these.

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
    if state is not None:
        check_place(state, "state", CalibrationError)
    check_module(net, "net", CalibrationError)
    asked = [facts_of(one) for one in (head, own_head, loss, solver, refine)] if workers.count() > 1 else []
    numbers = {"images": (images, 1), "tokens_per_image": (tokens_per_image, 1), "refine": (steps_of(refine), 0)}
    check_asked(data, device, augment, without_data=own_head is not None, **numbers)
    with quiet(), off_the_meta_device(), progress(images) as report, workers.together():
        net, at = within_wrapper(net, at)
        place = first_path(net, at)
        adapted = find_adapted(net, place)
        like = as_module(like, "like", levels=True, pretrained=True)  # last: it may have to be downloaded
        check_old(like, adapted)
        projections = find_projections(adapted)
        fitted = [projection.module for projection in projections]
        layers = [adapted.get_submodule(path) for path in fitted]
        pair = Pair(net, like, place, device)
        with explained("head", "a module that can be copied", "run it once, if it has lazy layers"):
            head, own_head = (None if one is None else copied_head(one) for one in (head, own_head))
        anchor = (
            class_anchor(projections, None if place else head, own_head, next(layers[0].parameters()))
            if own_head is not None
            else None
        )
        if data is None:
            assert anchor is not None, "asked for without data"
            outcome = _Outcome([anchor.map], from_classifiers(pair.plan.source.name, anchor))
        else:
            gathering = Gathering(
                pair,
                head,
                keeps_images=head is not None or bool(at),
                tokens_per_image=tokens_per_image,
                images=images,
                seed=seed,
                augment=augment,
                kept=max(images, REPORTED) if refine else REPORTED,
            )
            refuse_unlike(str(asked))
            gathered = gathering.run(data, None if state is None else Path(state), report)
            class_map = None if anchor is None else anchor.map
            outcome = _Session(pair, gathering, head, loss, seed, report, class_map).solve(gathered, solver, refine)
        if outcome.maps:
            written = [(made.weight_CD, made.bias_D) for made in outcome.maps]
            set_weights(layers, written, [projection.place for projection in projections])
        if outcome.result.written:
            mark_calibrated(adapted, fitted)
    return outcome.result.model_copy(update={"seconds": time.perf_counter() - started})


@dataclass(frozen=True)
class _Outcome:
    """What to write, and what to say."""

    maps: list[AffineMap]
    """None at all where the adapters stay as they are."""
    result: Calibration


class _Session:
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

    def solve(self, state: State, solver: Solver | Recipe, refine: Refine) -> _Outcome:
        """Choose, fit on everything, and describe it."""
        moments, made = (list(map(self._fitted_on, self._pair.projections, m)) for m in (state.moments, state.made))
        images, used = workers.summed(state.images), state.bytes
        self._report.does("fitting")
        judge = self._judge(state.samples)
        asked = judge, solver, self._groups, self._layers, self._class_map
        fitting, choice, honest = choose_fit(moments, made, self._folds, *asked)
        floors = fitting.random_maps(self._seed), fitting.constant_maps()
        held_out_maps = fitting.held_out_maps(choice.recipes)
        scores = [None if judge is None else judge.score(maps, on_all=True) for maps in (*floors, held_out_maps)]
        fits = [self._fit(p, fitting, choice.recipes[p], held_out_maps, floors[0], images) for p in fitting.projections]
        slopes = not refine or judge is None or judge.passes_gradients(next(iter(held_out_maps.values())))
        further = None
        if refine and judge is not None and slopes:
            further = refined(judge, fitting, held_out_maps, refine, self._seed)
        remarks = self._remarks(fitting, fits, images, "" if further is None else ", before the steps on the head")
        if further is not None:  # they may well be further from the old features
            fits = [self._after(fit, p, fitting, further.held_out_maps) for p, fit in enumerate(fits)]
        score = None if scores[2] is None else honest_after(scores[2], choice.score, honest)
        before, score = (None, score) if further is None else further.honest(choice.score, honest)
        failing = _below_floors(score, scores[:2], fits, self._groups)
        instead, verdict = self._instead(judge, fitting, scores[1]) if failing else ([], "written")
        remarks_on_head = self._remarks_on_head(judge, refine, further, images, slopes=slopes)
        result = Calibration(
            name=self._pair.plan.source.title,
            written=not failing,
            verdict=f"{verdict}: {failing}" if failing else verdict,
            solver=choice.text + (f", {further.text}" if further is not None else ""),
            chosen_by=choice.reason,
            outputs=tuple(fits),
            head=self._said(score),
            loss_name=self._loss_name(judge),
            random=self._said(scores[0]),
            mean_only=self._said(scores[1]),
            before_refining=self._said(before),
            trials=choice.trials,
            remarks=(*remarks, *remarks_on_head),
            images=images,
            mixed_images=workers.summed(state.mixed) if fitting.has_mixed else 0,
            synthetic_images=workers.summed(state.synthetic) if fitting.has_synthetic else 0,
            head_images=0 if scores[2] is None else len(scores[2].losses),
            tokens=sum(map(fitting.count, fitting.projections)),
            seconds=0.0,
            solver_seconds=0.0,
            bytes=used,
        )
        maps = instead if failing else fitting.last_maps(choice.recipes)
        if judge is not None and further is not None and not failing:
            maps = stepped(judge, fitting, maps, further, self._seed)
        return _Outcome(maps, result.model_copy(update={"solver_seconds": fitting.seconds}))

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
        images: int,
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
