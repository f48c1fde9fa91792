"""Choosing: which of the closed forms to take, by images that they were not fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias, get_args

from autoadapt.calibration.fitting import Fitting
from autoadapt.calibration.judging import Judge, Score
from autoadapt.calibration.results import Trial
from autoadapt.calibration.solvers import Recipe
from autoadapt.errors import CalibrationError, Mismatch, nearest

__all__ = ["Choice", "Solver", "choose", "recipes"]

Solver: TypeAlias = Literal["auto", "least_squares", "ridge", "restored", "procrustes", "anchored", "reduced_rank"]

COARSE = (1e-3, 1e-2, 1e-1, 1.0)
FINE = tuple(10.0 ** (exponent / 4) for exponent in range(-24, 9))
INFINITE = float("inf")


@dataclass(frozen=True)
class Choice:
    """A recipe for each projection, and why."""

    recipes: tuple[Recipe, ...]
    reason: str
    trials: tuple[Trial, ...]
    score: Score | None = None

    @property
    def text(self) -> str:
        """The recipes in words; one where all are the same."""
        return "; ".join(dict.fromkeys(map(str, self.recipes)))


def recipes(solver: Solver | Recipe, rank: int) -> list[Recipe]:
    """What a solver's name allows; `auto` allows everything but reduced rank, which follows the best of the others.

    Args:
        solver: A name, or the one recipe to take.
        rank: The most channels that a map can go through.

    Raises:
        CalibrationError: There is no solver of that name.
    """
    paths = {
        "least_squares": [Recipe()],
        "ridge": [Recipe(penalty) for penalty in COARSE],
        "restored": [Recipe(penalty, restored=True) for penalty in (0.0, *COARSE)],
        "procrustes": [Recipe(INFINITE, anchored=True, restored=restored) for restored in (False, True)],
        "anchored": [Recipe(p, anchored=True, restored=restored) for p in COARSE for restored in (False, True)],
        "reduced_rank": [Recipe(p, rank=r) for p in COARSE for r in _ranks(rank)],
    }
    if isinstance(solver, Recipe):
        return [solver]
    if solver == "auto":
        return [one for name, path in paths.items() if name != "reduced_rank" for one in path]
    if solver not in paths:
        known = get_args(Solver)
        fault = Mismatch("solver", ", ".join(known), repr(solver), f'solver="{(nearest(solver, known) or known)[0]}"')
        raise CalibrationError("there is no such solver", [fault])
    return paths[solver]


def _ranks(rank: int) -> list[int]:
    return sorted({max(rank // 4, 1), max(rank // 2, 1)})


def choose(fitting: Fitting, judge: Judge | None, solver: Solver | Recipe) -> Choice:
    """Take the recipe that is best by the head where there is one, else by the features alone."""
    smallest = min(min(fitting.moments(p).source, fitting.moments(p).target) for p in fitting.projections)
    options = _possible(fitting, recipes(solver, smallest), solver)
    if solver == "auto" and fitting.has_many_channels:
        options = [one for one in options if one.restored or not one.penalty]
    if judge is None and len(options) == 1:
        return Choice((options[0],) * len(fitting.projections), "as asked for", ())
    if judge is None:
        return _by_cosine(fitting) if solver == "auto" else _by_cross_validation(fitting, options)
    return _by_head(fitting, judge, options, _ranks(smallest) if solver == "auto" else [])


def _possible(fitting: Fitting, options: list[Recipe], solver: Solver | Recipe) -> list[Recipe]:
    """Without a penalty only where there are more tokens than channels, unless that is what was asked for."""
    kept = [one for one in options if one.penalty > 0]
    return kept if kept and has_few_tokens(fitting) else options


def has_few_tokens(fitting: Fitting) -> list[int]:
    """Projections with no more tokens to fit on than channels."""
    subsets = [fitting.others(fold) for fold in fitting.splits]
    fewest = {p: min(fitting.moments(p, folds).count for folds in subsets) for p in fitting.projections}
    return [projection for projection, count in fewest.items() if count <= fitting.moments(projection).source + 1]


def _by_head(fitting: Fitting, judge: Judge, options: Sequence[Recipe], ranks: Sequence[int]) -> Choice:
    tried: dict[Recipe, Score] = {}

    def attempt(some: Sequence[Recipe]) -> Recipe:
        for recipe in some:
            if recipe not in tried:
                same = [recipe] * len(fitting.projections)
                tried[recipe] = judge.score(fitting.held_out_maps(same))
        return min(tried, key=lambda recipe: _key(tried[recipe]))

    best = attempt(options)
    if len(options) > 1:
        if 0 < best.penalty < INFINITE and not fitting.has_many_channels:
            best = attempt([best.at(best.penalty * factor) for factor in (0.3, 3.0)])
        if not fitting.has_many_channels:
            best = attempt([Recipe(best.penalty, best.anchored, best.restored, rank) for rank in ranks])
    trials = tuple(Trial(solver=str(r), score=s.loss, agreement=s.agreement) for r, s in tried.items())
    if len(options) == 1:
        return Choice((best,) * len(fitting.projections), "as asked for", trials, tried[best])
    reason = f"held-out loss of the head, {len(tried)} tried"
    cautious = most_cautious(tried, best)
    if cautious != best:
        best, reason = cautious, f"{reason}, one standard error allowed"
    return Choice((best,) * len(fitting.projections), reason, trials, tried[best])


def most_cautious(tried: Mapping[Recipe, Score], best: Recipe) -> Recipe:
    """The recipe that is nearest to a mere rotation among those that are as good as the best, give or take chance.

    The rule of one standard error of Breiman, Friedman, Olshen and Stone, Classification and Regression Trees (1984),
    section 3.4.3.
    """
    equals = [r for r, s in tried.items() if r.anchored and r.restored and not r.rank and s.is_as_good_as(tried[best])]
    return max(equals, key=lambda recipe: recipe.penalty, default=best)


def _key(score: Score) -> float:
    return score.loss if score.loss == score.loss else INFINITE


def _by_cosine(fitting: Fitting) -> Choice:
    """Ridge towards procrustes with the variance restored, its penalty by the cosine on held-out images.

    Measured without a head, on digits and on EfficientNet-Lite pairs, with 8 to 128 images: of the families and
    criteria that were tried this one left the head's answers nearest on the whole. Generalised cross-validation takes
    the tokens of an image for independent, and with 8 images falls below the mean alone.
    """
    paths = [Recipe(penalty, anchored=True, restored=True) for penalty in (0.0, *COARSE, 0.03, 0.3, 3.0, INFINITE)]
    paths = _possible(fitting, paths, "auto")
    cosines = {
        recipe: [fitting.held_out(p, maps).cosine for p in fitting.projections]
        for recipe in paths
        for maps in [fitting.held_out_maps([recipe] * len(fitting.projections))]
    }
    chosen = [max(paths, key=lambda recipe: cosines[recipe][p]) for p in fitting.projections]
    trials = tuple(Trial(solver=str(recipe), score=1 - sum(values) / len(values)) for recipe, values in cosines.items())
    return Choice(tuple(chosen), "held-out cosine, since no head was given", trials)


def _by_cross_validation(fitting: Fitting, options: Sequence[Recipe]) -> Choice:
    """A penalty for each projection; the held-out error would choose larger ones, which a head suffers from."""
    paths = [one.at(penalty) for one in options for penalty in (one.penalty, *FINE) if one.penalty < INFINITE]
    paths = list(dict.fromkeys([*options, *paths]))
    chosen, trials = [], []
    for projection in fitting.projections:
        spectrum = fitting.spectrum(projection)
        variance = float(spectrum.moments.yy_D.sum()) / spectrum.moments.count
        errors = {recipe: spectrum.cross_validation(recipe) / (variance or 1.0) for recipe in paths}
        best = min(paths, key=lambda recipe: errors[recipe])
        chosen.append(best)
        trials.append(Trial(solver=str(best), score=errors[best]))
    return Choice(tuple(chosen), "generalised cross-validation, since no head was given", tuple(trials))
