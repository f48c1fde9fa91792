"""With made images or without: all are fitted, and images of the caller that were not fitted on decide."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean

from autoadapt.calibration.choosing import INFINITE, Choice, Solver, choose
from autoadapt.calibration.held_out_maps import Fitting
from autoadapt.calibration.honesty import on_others
from autoadapt.calibration.image_folds import Folds
from autoadapt.calibration.judging import Judge, Score
from autoadapt.calibration.moments import Moments
from autoadapt.calibration.solvers import AffineMap, HeldOut, Recipe


def choose_fit(
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
