"""Held-out maps: those for every projection at once, fitted on all folds but one, and their error on that one."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias, TypeVar

import torch

from autoadapt.calibration.image_folds import Folds
from autoadapt.calibration.moments import Moments
from autoadapt.calibration.solvers import AffineMap, Factored, HeldOut, Recipe, Spectrum, constant, spectral_values

Solved = TypeVar("Solved", Spectrum, Factored)
HeldOutMaps: TypeAlias = Mapping[int, Sequence[AffineMap]]
"""By the fold that they have not seen: one map for each projection."""


class Fitting:
    """Moments by projection and fold, and what is computed from them, once.

    Made images are fitted on with the fold of their parents, those without parents always; they are in no error.

    Attributes:
        folds: Which images are fitted on, and which are held out.
        seconds: Time spent on decompositions, maps and their errors.
        class_map: The map of the classifiers, if these are known.
    """

    def __init__(
        self,
        moments: Sequence[Sequence[Moments]],
        folds: Folds,
        made: Sequence[Sequence[Moments]] = (),
        layers: Sequence[str] = (),
        class_map: AffineMap | None = None,
    ) -> None:
        self.folds = folds
        self.class_map = class_map
        self.seconds = 0.0
        self._moments = moments
        self._made = made
        named = layers or [*map(str, range(len(moments)))]
        self._places = [[other for other, name in enumerate(named) if name == own] for own in named]
        self._known: dict[tuple[type, int, tuple[int, ...], bool], Spectrum | Factored] = {}
        self._maps_of_few: dict[tuple[int, Recipe, tuple[int, ...]], AffineMap] = {}
        self._is_timed = False

    @property
    def projections(self) -> range:
        """Numbers of the projections."""
        return range(len(self._moments))

    @property
    def has_places(self) -> bool:
        """Whether some layer has a map for each of several places."""
        return any(len(places) > 1 for places in self._places)

    @property
    def has_covariances(self) -> bool:
        """Whether the old features can be given the covariance that they had."""
        return all(parts[0].yy.dim() == 2 for parts in self._moments)

    @property
    def has_mixed(self) -> bool:
        """Whether mixes of images are fitted on."""
        return any(part.count for parts in self._made for part in parts[: len(self.folds.numbers)])

    @property
    def has_synthetic(self) -> bool:
        """Whether images without parents are fitted on."""
        return any(part.count for parts in self._made for part in parts[len(self.folds.numbers) :])

    def channels(self, projection: int) -> tuple[int, int]:
        """Of the new features, of the old ones."""
        first = self._moments[projection][0]
        return first.source, first.target

    def count(self, projection: int, folds: Sequence[int] | None = None, *, shared: bool = False) -> int:
        """Tokens that are fitted on with some folds, or with all; if shared, of all places of the layer."""
        return sum(part.count for part in self._parts(projection, folds, shared))

    def constant_channels(self, projection: int) -> int:
        """How many of the new channels never change."""
        variances = [part.xx_CC.diagonal() for part in self._moments[projection]]
        means = torch.stack([part.mean_x_C for part in self._moments[projection] if part.count])
        return int(((torch.stack(variances).sum(0) == 0) & (means == means[0]).all(0)).sum())

    def moments(self, projection: int, folds: Sequence[int] | None = None, *, shared: bool = False) -> Moments:
        """Moments of some folds, or of all; one that stands alone is not copied."""
        parts = self._parts(projection, folds, shared)
        return parts[0] if len(parts) == 1 else Moments.sum(parts)

    def _parts(self, projection: int, folds: Sequence[int] | None, shared: bool = False) -> list[Moments]:
        """What is fitted on with some folds: their images, those made of them, and those that have no parents."""
        if shared:
            return [part for place in self._places[projection] for part in self._parts(place, folds)]
        given = self._given(folds)
        parts = [self._moments[projection][fold] for fold in given]
        if self._made:
            made = self._made[projection]
            without_parents = made[len(self.folds.numbers) :]
            parts += [*(made[fold] for fold in given), *without_parents]
        return [part for part in parts if part.count] or parts[:1]

    def spectrum(self, projection: int, folds: Sequence[int] | None = None, *, shared: bool = False) -> Spectrum:
        """Decomposition of some folds, or of all; if shared, one for all places of the layer."""
        return self._solved(Spectrum, projection, folds, shared)

    def eigenvalues(self, projection: int) -> torch.Tensor:
        """Those to report: of all folds, or where their sum would be dear, of all but the first; smallest first."""
        with self._timed():
            return spectral_values(self.moments(projection, self.folds.others(0) if self.folds.holds_one_out else None))

    def map(self, projection: int, recipe: Recipe, folds: Sequence[int] | None = None) -> AffineMap:
        """The map of one projection, fitted on some folds, or on all.

        One decomposition gives all maps of some folds. Where it is dear, and where there are few maps, factors do.
        """
        if recipe.classes:
            assert self.class_map is not None, "it is tried only where it is known"
            return self.class_map
        few = self.folds.holds_one_out or len(self._given(folds)) != len(self.folds.numbers) - 1
        given = projection, folds, recipe.shared
        solved = self._solved(Factored, *given) if few and recipe.is_one_system else self._solved(Spectrum, *given)
        with self._timed():
            return solved.fit(recipe)

    def _solved(self, how: type[Solved], projection: int, folds: Sequence[int] | None, shared: bool) -> Solved:
        """Moments of some folds or of all, and what is computed of them once."""
        key = how, self._places[projection][0] if shared else projection, self._given(folds), shared
        known = self._known.get(key)
        if not isinstance(known, how):
            with self._timed():
                known = how(self.moments(*key[1:3], shared=shared))
            if folds is not None:  # what all images give is wanted once, and may be a copy
                self._known[key] = known
        return known

    def maps(self, recipes: Sequence[Recipe], folds: Sequence[int] | None = None) -> list[AffineMap]:
        """The maps of all projections."""
        return [self.map(projection, recipe, folds) for projection, recipe in enumerate(recipes)]

    def last_maps(self, recipes: Sequence[Recipe]) -> list[AffineMap]:
        """The maps of all projections, fitted on everything; nothing can be held out after it.

        All folds are put together in the memory of the first, since with many channels a sum beside them is dear.
        """
        self._known.clear()
        for projection in self.projections:
            first, *others = self._parts(projection, None)
            for other in others:
                first.absorb(other)
        return self.maps(recipes)

    def held_out_map(self, projection: int, recipe: Recipe) -> dict[int, AffineMap]:
        """The map of one projection for each fold that is held out, fitted on the others."""
        return {fold: self.map(projection, recipe, self.folds.others(fold)) for fold in self.folds.held_out}

    def held_out_maps(self, recipes: Sequence[Recipe]) -> dict[int, list[AffineMap]]:
        """Maps for each fold that is held out, fitted on the others."""
        return {fold: self.maps(recipes, self.folds.others(fold)) for fold in self.folds.held_out}

    def maps_of_halves(self, recipes: Sequence[Recipe]) -> dict[int, list[AffineMap]]:
        """Maps fitted on either half of the folds, for each fold of the other half; none where only one is held out."""
        if self.folds.holds_one_out:
            return {}
        middle = len(self.folds.numbers) // 2
        halves = self.folds.numbers[:middle], self.folds.numbers[middle:]
        fitted = {half: [self._map_of_few(p, recipe, half) for p, recipe in enumerate(recipes)] for half in halves}
        return {fold: maps for half, maps in fitted.items() for fold in self.folds.numbers if fold not in half}

    def _map_of_few(self, projection: int, recipe: Recipe, folds: tuple[int, ...]) -> AffineMap:
        """The map of no more than half of the folds, kept: it is asked for twice."""
        key = projection, recipe, folds
        if key not in self._maps_of_few:
            self._maps_of_few[key] = self.map(*key)
        return self._maps_of_few[key]

    def constant_maps(self) -> dict[int, list[AffineMap]]:
        """Maps to the mean of the old features, for each fold that is held out that of the others."""
        return {fold: self.means(self.folds.others(fold)) for fold in self.folds.held_out}

    def means(self, folds: Sequence[int] | None = None) -> list[AffineMap]:
        """Maps to the mean of the old features in some folds, or in all."""
        old_means = [self._old_mean(projection, self._given(folds)) for projection in self.projections]
        return [constant(self.channels(projection)[0], mean_D) for projection, mean_D in enumerate(old_means)]

    def random_maps(self, seed: int) -> dict[int, list[AffineMap]]:
        """For each fold that is held out, the weights that `build` would draw."""
        generator = torch.Generator().manual_seed(seed)
        drawn = []
        for projection in self.projections:
            source, target = self.channels(projection)
            weight_CD = torch.randn(source, target, generator=generator) / source**0.5
            mean_D = self._moments[projection][0].mean_y_D
            drawn.append(AffineMap(weight_CD.to(mean_D.device), torch.zeros_like(mean_D)))
        return dict.fromkeys(self.folds.held_out, drawn)

    def held_out(self, projection: int, maps: Mapping[int, AffineMap]) -> dict[int, HeldOut]:
        """Error of one projection's maps on each fold that they have not seen."""
        with self._timed():
            return {
                fold: HeldOut.of(
                    fitted, self._old_mean(projection, self.folds.others(fold)), self._moments[projection][fold]
                )
                for fold, fitted in maps.items()
            }

    def error_by_images(
        self, projection: int, recipe: Recipe, images: Sequence[int], whole: HeldOut
    ) -> tuple[tuple[int, float], ...]:
        """R2 on the first fold when fitted on more and more of the others.

        Args:
            projection: Which one.
            recipe: How to fit.
            images: How many each fold has.
            whole: The error when fitted on all of the others.
        """
        points = []
        for count in range(1, len(self.folds.numbers) - 1):
            used = self.folds.numbers[-count:]
            fitted = self._map_of_few(projection, recipe, used)
            with self._timed():
                held = HeldOut.of(fitted, self._old_mean(projection, used), self._moments[projection][0])
            points.append((sum(images[fold] for fold in used), held.r2))
        return (*points, (sum(images[1:]), whole.r2))

    def _given(self, folds: Sequence[int] | None) -> tuple[int, ...]:
        return self.folds.numbers if folds is None else tuple(folds)

    def _old_mean(self, projection: int, folds: Sequence[int]) -> torch.Tensor:
        """Mean of the old features in some folds."""
        parts = [self._moments[projection][fold] for fold in folds]
        count = sum(part.count for part in parts)
        return torch.stack([part.mean_y_D * (part.count / count) for part in parts]).sum(0)

    @contextlib.contextmanager
    def _timed(self) -> Iterator[None]:
        """Count the seconds of what runs inside, once where one call stands in another."""
        if self._is_timed:
            yield
            return
        started, self._is_timed = time.perf_counter(), True
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - started
            self._is_timed = False
