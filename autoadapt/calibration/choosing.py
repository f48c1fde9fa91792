"""Choosing: which of the closed forms to take, by images that they were not fitted on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Literal, TypeAlias, get_args

from autoadapt.calibration.held_out_maps import Fitting
from autoadapt.calibration.image_folds import MANY_CHANNELS
from autoadapt.calibration.judging import Judge, Score
from autoadapt.calibration.results import Trial
from autoadapt.calibration.solvers import HeldOut, Recipe
from autoadapt.errors import CalibrationError, Mismatch, nearest

Solver: TypeAlias = Literal[
    "auto", "least_squares", "ridge", "restored", "procrustes", "anchored", "coloured", "reduced_rank"
]

COARSE = (1e-3, 1e-2, 1e-1, 1.0)
FINE = tuple(10.0 ** (exponent / 4) for exponent in range(-24, 9))
INFINITE = float("inf")
ANCHORS = (0.0, *COARSE, 0.03, 0.3, 3.0, INFINITE)


@dataclass(frozen=True)
class Choice:
    """A recipe for each projection, and why."""

    recipes: tuple[Recipe, ...]
    reason: str
    trials: tuple[Trial, ...]
    score: Score | None = None
    scores: tuple[Score, ...] = ()
    """Of all that were tried on the head."""

    @property
    def text(self) -> str:
        """The recipes in words; one where all are the same."""
        return "; ".join(dict.fromkeys(map(str, self.recipes)))


def recipes(solver: Solver | Recipe, rank: int) -> list[Recipe]:
    """What a solver's name allows; for `auto` all of the restored and rotated, which it walks along.

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
        "coloured": [Recipe(p, anchored=True, restored=True, coloured=True) for p in (*COARSE, INFINITE)],
        "reduced_rank": [Recipe(p, rank=r) for p in COARSE for r in sorted({max(rank // 4, 1), max(rank // 2, 1)})],
    }
    if isinstance(solver, Recipe):
        return [solver]
    if solver == "auto":
        return [one for path in _walks(has_few_tokens=False, is_dear=False) for one in path]
    if solver not in paths:
        known = get_args(Solver)
        fault = Mismatch("solver", ", ".join(known), repr(solver), f'solver="{(nearest(solver, known) or known)[0]}"')
        raise CalibrationError("there is no such solver", [fault])
    return paths[solver]


def choose(fitting: Fitting, judge: Judge | None, solver: Solver | Recipe) -> Choice:
    """Take the recipe that is best by the head where there is one, else by the features alone."""
    smallest = min(min(fitting.channels(p)) for p in fitting.projections)
    named = recipes(solver, smallest)
    if fitting.has_places and not isinstance(solver, Recipe):
        named = [replace(one, shared=shared) for shared in (True, False) for one in named]
    _check_covariances(fitting, named)
    options = _possible(fitting, named)
    if judge is None and len(options) == 1:
        return Choice((options[0],) * len(fitting.projections), "as asked for", ())
    if judge is not None:
        return _by_head(fitting, judge, options, solver)
    return _by_cosine(fitting) if solver == "auto" else _by_cross_validation(fitting, options)


def _check_covariances(fitting: Fitting, named: Sequence[Recipe]) -> None:
    if any(one.coloured for one in named) and not fitting.has_covariances:
        widest = max(max(fitting.channels(p)) for p in fitting.projections)
        fault = Mismatch("solver", f"at most {MANY_CHANNELS} channels", f"{widest}", 'solver="anchored"')
        raise CalibrationError("the covariance of so many channels is not kept", [fault])


def _possible(fitting: Fitting, options: list[Recipe]) -> list[Recipe]:
    """Without a penalty only where there are more tokens than channels, unless that is what was asked for."""
    few = {shared: bool(has_few_tokens(fitting, shared=shared)) for shared in (False, True)}
    kept = [one for one in options if one.penalty > 0 or not few[one.shared]]
    return kept or options


def has_few_tokens(fitting: Fitting, *, shared: bool = False) -> list[int]:
    """Projections with no more tokens to fit on than channels; with those of all places of their layer, if shared."""
    subsets = [fitting.folds.others(fold) for fold in fitting.folds.held_out]
    fewest = {p: min(fitting.count(p, folds, shared=shared) for folds in subsets) for p in fitting.projections}
    return [projection for projection, count in fewest.items() if count <= fitting.channels(projection)[0] + 1]


class _Trials:
    """Recipes tried on the head, each once."""

    def __init__(self, fitting: Fitting, judge: Judge) -> None:
        self._fitting = fitting
        self._judge = judge
        self.scores: dict[Recipe, Score] = {}

    def loss(self, recipe: Recipe) -> float:
        """The held-out loss with one recipe for all projections; infinite where it is no number."""
        if recipe not in self.scores:
            same = [recipe] * len(self._fitting.projections)
            self.scores[recipe] = self._judge.score(self._fitting.held_out_maps(same))
        loss = self.scores[recipe].loss
        return loss if loss == loss else INFINITE

    def best(self, some: Iterable[Recipe] = ()) -> Recipe:
        """The best of all that were tried, after trying some more."""
        for recipe in some:
            self.loss(recipe)
        return min(self.scores, key=self.loss)


def _by_head(fitting: Fitting, judge: Judge, options: Sequence[Recipe], solver: Solver | Recipe) -> Choice:
    trials, is_dear = _Trials(fitting, judge), fitting.folds.holds_one_out
    if solver == "auto":
        for shared in (True, False) if fitting.has_places else (False,):
            for path in _walks(bool(has_few_tokens(fitting, shared=shared)), is_dear):
                descend([replace(one, shared=shared) for one in path], trials.loss)
        best = trials.best([] if fitting.class_map is None else [Recipe(classes=True)])
    else:
        best = trials.best(options)
    if len(options) > 1 and not is_dear and 0 < best.penalty < INFINITE:
        best = trials.best(best.at(best.penalty * factor) for factor in (0.3, 3.0))
    if solver == "auto" and best.restored and fitting.has_covariances:
        best = trials.best([replace(best, coloured=True)])  # once: of penalties a coloured map depends little
    reason = f"held-out loss of the head, {len(trials.scores)} tried" if len(options) > 1 else "as asked for"
    cautious = most_cautious(trials.scores, best)
    if cautious != best:
        best, reason = cautious, f"{reason}, one standard error allowed"
    told = tuple(Trial(solver=str(r), score=s.loss, agreement=s.agreement) for r, s in trials.scores.items())
    return Choice((best,) * len(fitting.projections), reason, told, trials.scores[best], tuple(trials.scores.values()))


def _walks(has_few_tokens: bool, is_dear: bool) -> list[list[Recipe]]:
    """What `auto` tries on the head: paths of penalties to go along, from the likeliest in the middle.

    Of 22 forms tried on digits (12 seeds, 8 and 32 images) and on EfficientNet-Lite pairs the best was always one that
    restores the variance. Where every map is dear, on the 1,280 channels of these pairs with 8 to 128 images, ridge
    with a penalty of 1 to 30 is as good as a rotation wherever there are more tokens than channels; with fewer a
    rotation is better than any ridge, and worth its decomposition.
    """
    ridges = [Recipe(10.0**exponent, restored=True) for exponent in range(-3, 3)]
    turned = [Recipe(p, anchored=True, restored=True) for p in (*COARSE, 10.0, INFINITE) if p >= 10 or not is_dear]
    walks = [ridges if has_few_tokens or not is_dear else [Recipe(), *ridges]]
    if not has_few_tokens and not is_dear:
        walks.append([Recipe()])
    return [*walks, turned] if has_few_tokens or not is_dear else walks


def descend(path: Sequence[Recipe], loss: Callable[[Recipe], float]) -> Recipe:
    """The recipe of a path from which both neighbours are worse, going downhill from the penalty of one.

    Example:
        >>> path = [Recipe(0.1), Recipe(1.0), Recipe(10.0), Recipe(100.0)]
        >>> print(descend(path, lambda recipe: abs(recipe.penalty - 9)))
        ridge 10
    """
    here = next((index for index, recipe in enumerate(path) if recipe.penalty >= 1), 0)
    loss(path[here])
    for step in (1, -1):
        while 0 <= here + step < len(path) and loss(path[here + step]) < loss(path[here]):
            here += step
    return path[here]


def most_cautious(tried: Mapping[Recipe, Score], best: Recipe) -> Recipe:
    """The recipe that is nearest to a mere rotation among those that are as good as the best, give or take chance.

    The rule of one standard error of Breiman, Friedman, Olshen and Stone, Classification and Regression Trees (1984),
    section 3.4.3.
    """
    rotated = [r for r in tried if r.anchored and r.restored and not r.rank and r.coloured == best.coloured]
    equals = [r for r in rotated if tried[r].is_as_good_as(tried[best])]
    return max(equals, key=lambda recipe: (recipe.penalty, recipe.shared), default=best)


def _by_cosine(fitting: Fitting) -> Choice:
    """Ridge towards procrustes with the variance restored, its penalty by the cosine on held-out images.

    Measured without a head, on digits and on EfficientNet-Lite pairs, with 8 to 128 images: of the families and
    criteria that were tried this one left the head's answers nearest on the whole. Generalised cross-validation takes
    the tokens of an image for independent, and with 8 images falls below the mean alone.
    """
    few = has_few_tokens(fitting)
    tried: dict[Recipe, list[float]] = {}
    chosen = []
    for projection in fitting.projections:
        cosines: dict[Recipe, float] = {}

        def lost(recipe: Recipe, cosines: dict[Recipe, float] = cosines, projection: int = projection) -> float:
            if recipe not in cosines:
                cosines[recipe] = HeldOut.sum(
                    fitting.held_out(projection, fitting.held_out_map(projection, recipe))
                ).cosine
            return -cosines[recipe]

        if fitting.folds.holds_one_out:
            paths = [descend(path, lost) for path in _walks(projection in few, is_dear=True)]
        else:
            paths = _possible(fitting, [Recipe(p, anchored=True, restored=True) for p in ANCHORS])
        if fitting.has_places:
            paths += [replace(one, shared=True) for one in paths]
        chosen.append(min(paths, key=lost))
        for recipe, cosine in cosines.items():
            tried.setdefault(recipe, []).append(cosine)
    trials = tuple(Trial(solver=str(recipe), score=1 - fmean(cosines)) for recipe, cosines in tried.items())
    return Choice(tuple(chosen), "held-out cosine, since no head was given", trials)


def _by_cross_validation(fitting: Fitting, options: Sequence[Recipe]) -> Choice:
    """A penalty for each projection; the held-out error would choose larger ones, which a head suffers from."""
    paths = [one.at(penalty) for one in options for penalty in (one.penalty, *FINE) if one.penalty < INFINITE]
    paths = [one for one in dict.fromkeys([*options, *paths]) if not one.shared]
    chosen, trials = [], []
    for projection in fitting.projections:
        spectrum = fitting.spectrum(projection)
        variance = float(spectrum.moments.yy_D.sum()) / spectrum.moments.count
        errors = {recipe: spectrum.cross_validation(recipe) / (variance or 1.0) for recipe in paths}
        best = min(paths, key=lambda recipe: errors[recipe])
        chosen.append(best)
        trials.append(Trial(solver=str(best), score=errors[best]))
    return Choice(tuple(chosen), "generalised cross-validation, since no head was given", tuple(trials))
