"""Fitting: maps for every projection at once, fitted on all folds but one, and their error on that one."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from autoadapt.calibration.moments import Moments
from autoadapt.calibration.solvers import AffineMap, HeldOut, Recipe, Spectrum, constant

__all__ = ["Fitting"]

MANY_CHANNELS = 512
"""Above this one split into fitted and held-out folds must do: each costs a decomposition."""


class Fitting:
    """Moments by projection and fold, and what is computed from them, once.

    Attributes:
        splits: The folds that are held out, one after the other.
        seconds: Time spent in solvers.
    """

    def __init__(self, moments: Sequence[Sequence[Moments]]) -> None:
        self._moments = moments
        self._spectra: dict[tuple[int, tuple[int, ...]], Spectrum] = {}
        folds = range(len(moments[0]))
        self.splits = tuple(folds)[: 1 if self.has_many_channels else None]
        self.seconds = 0.0

    @property
    def has_many_channels(self) -> bool:
        """Whether decompositions are dear."""
        return any(max(folds[0].source, folds[0].target) > MANY_CHANNELS for folds in self._moments)

    @property
    def projections(self) -> range:
        """Numbers of the projections."""
        return range(len(self._moments))

    @property
    def folds(self) -> tuple[int, ...]:
        """Numbers of the folds."""
        return tuple(range(len(self._moments[0])))

    def moments(self, projection: int, folds: Sequence[int] | None = None) -> Moments:
        """Moments of some folds, or of all."""
        return Moments.sum(self._moments[projection][fold] for fold in (self.folds if folds is None else folds))

    def spectrum(self, projection: int, folds: Sequence[int] | None = None) -> Spectrum:
        """Decomposition of some folds, or of all."""
        key = projection, tuple(self.folds if folds is None else folds)
        if key not in self._spectra:
            started = time.perf_counter()
            self._spectra[key] = Spectrum(self.moments(*key))
            self.seconds += time.perf_counter() - started
        return self._spectra[key]

    def others(self, fold: int) -> tuple[int, ...]:
        """All folds but one."""
        return tuple(other for other in self.folds if other != fold)

    def map(self, projection: int, recipe: Recipe, folds: Sequence[int] | None = None) -> AffineMap:
        """The map of one projection, fitted on some folds, or on all."""
        spectrum = self.spectrum(projection, folds)
        started = time.perf_counter()
        fitted = spectrum.fit(recipe)
        self.seconds += time.perf_counter() - started
        return fitted

    def maps(self, recipes: Sequence[Recipe], folds: Sequence[int] | None = None) -> list[AffineMap]:
        """The maps of all projections."""
        return [self.map(projection, recipe, folds) for projection, recipe in enumerate(recipes)]

    def held_out_maps(self, recipes: Sequence[Recipe]) -> dict[int, list[AffineMap]]:
        """For each split, maps that have not seen it."""
        return {fold: self.maps(recipes, self.others(fold)) for fold in self.splits}

    def constant_maps(self) -> dict[int, list[AffineMap]]:
        """For each split, maps to the mean of the others."""
        return {
            fold: [constant(self.moments(projection, self.others(fold))) for projection in self.projections]
            for fold in self.splits
        }

    def random_maps(self, seed: int) -> dict[int, list[AffineMap]]:
        """For each split, the weights that `build` would draw."""
        generator = torch.Generator().manual_seed(seed)
        drawn = []
        for projection in self.projections:
            moments = self.moments(projection)
            weight_CD = torch.randn(moments.source, moments.target, dtype=torch.float64, generator=generator)
            made = (weight_CD / moments.source**0.5).to(moments.mean_y_D.device)
            drawn.append(AffineMap(made, torch.zeros_like(moments.mean_y_D)))
        return dict.fromkeys(self.splits, drawn)

    def held_out(self, projection: int, maps: dict[int, list[AffineMap]]) -> HeldOut:
        """Error of one projection's maps on the splits that they have not seen."""
        total = HeldOut(0.0, 0.0, 0.0, 0.0, 0.0)
        for fold, fitted in maps.items():
            mean_D = self.moments(projection, self.others(fold)).mean_y_D
            total += HeldOut.of(fitted[projection], mean_D, self._moments[projection][fold])
        return total

    def error_by_images(self, projection: int, recipe: Recipe, images: Sequence[int]) -> tuple[tuple[int, float], ...]:
        """R2 on the first fold when fitted on more and more of the others; `images` counts each fold's."""
        points = []
        first = len(self.folds) - 1 if self.has_many_channels else 1
        for count in range(first, len(self.folds)):
            used = self.folds[1 : count + 1]
            fitted = self.map(projection, recipe, used)
            mean_D = self.moments(projection, used).mean_y_D
            held = HeldOut.of(fitted, mean_D, self._moments[projection][0])
            points.append((sum(images[fold] for fold in used), held.r2))
        return tuple(points)
