"""Solvers: affine maps from moments alone, each in closed form, all from one decomposition."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from functools import cached_property

import torch

from autoadapt.calibration.image_folds import MANY_CHANNELS
from autoadapt.calibration.moments import Moments

_ROUNDING = float(torch.finfo(torch.float64).eps)
NOISE = 0.01
"""Share of the variance of a channel that is its own: directions in which there is less are not blown up."""

# ruff: noqa: N802, N815 - shapes stand in the names of tensors
# Dimension letters: C channels of the new features, D channels of the old ones, K the smaller of the two.


@dataclass(frozen=True)
class Recipe:
    """Which map to take of those that a set of moments allows.

    Example:
        >>> print(Recipe(penalty=0.01, restored=True))
        ridge 0.01, variance restored
    """

    penalty: float = 0.0
    """On the weight, in mean eigenvalues of the standardised sources; never on the offset."""
    anchored: bool = False
    """Shrink towards the scaled Procrustes rotation instead of towards zero; an infinite penalty is the rotation."""
    restored: bool = False
    """Scale each target channel to the variance it had: a penalty shrinks, and a head's ReLU then sees less."""
    coloured: bool = False
    """Give the targets the covariance that they had, as well: a head adds channels, and errors of several add up."""
    rank: int = 0
    """Channels to go through; 0 for all."""
    shared: bool = False
    """One map for all places of a layer that has a map for each, fitted on the tokens of all."""
    classes: bool = False
    """The map that two classifiers of the same classes ask for, whatever the features are."""

    def __str__(self) -> str:
        if self.classes:
            return "class anchors"
        if self.anchored:
            name = "procrustes" if self.penalty == float("inf") else f"ridge {self.penalty:.2g} towards procrustes"
        else:
            name = f"ridge {self.penalty:.2g}" if self.penalty else "least squares"
        name += f", rank {self.rank}" if self.rank else ""
        return (
            name
            + (", covariance restored" if self.coloured else ", variance restored" if self.restored else "")
            + (", the same at all places" if self.shared else "")
        )

    @property
    def is_one_system(self) -> bool:
        """Whether one system of equations gives it, without a decomposition of the sources."""
        return self.penalty > 0 and not self.rank

    def at(self, penalty: float) -> Recipe:
        """The same with another penalty."""
        return replace(self, penalty=penalty)


@dataclass(frozen=True)
class AffineMap:
    """`y = x @ weight_CD + bias_D`."""

    weight_CD: torch.Tensor
    bias_D: torch.Tensor

    @classmethod
    def through_means(cls, weight_CD: torch.Tensor, moments: Moments) -> AffineMap:
        """The map with a weight that sends mean to mean, as the best offset does for any weight."""
        return cls(weight_CD, moments.mean_y_D - moments.mean_x_C @ weight_CD.double())


def constant(source: int, mean_D: torch.Tensor) -> AffineMap:
    """The map to the mean of the old features, whatever the new ones are."""
    return AffineMap(mean_D.new_zeros(source, mean_D.shape[0]), mean_D)


def deviations(squares_C: torch.Tensor, count: int) -> torch.Tensor:
    """Standard deviations from centred sums of squares; 1 for channels that are constant."""
    deviation_C = squares_C.div(count).sqrt()
    return torch.where(deviation_C > 0, deviation_C, 1.0)


def _scale(moments: Moments) -> torch.Tensor:
    return deviations(moments.xx_CC.diagonal(), moments.count)


def _correlation(moments: Moments, scale_C: torch.Tensor, precision: torch.dtype = torch.float64) -> torch.Tensor:
    made_CC = moments.xx_CC.to(precision, copy=True)
    return made_CC.div_(scale_C * moments.count).div_(scale_C[:, None])


def _restoring(made_D: torch.Tensor, moments: Moments) -> torch.Tensor:
    """What to scale each target channel by, so that it has the variance that it had."""
    wanted_D = moments.yy_D / moments.count
    alive_D = made_D > _ROUNDING * wanted_D
    return torch.where(alive_D, wanted_D / torch.where(alive_D, made_D, 1.0), 1.0).sqrt()


def _colouring(made_DD: torch.Tensor, moments: Moments) -> torch.Tensor:
    """What moves the targets least, on the whole, of all that gives them the covariance that they had.

    Between Gaussians that is optimal transport, `M^-1/2 (M^1/2 Y M^1/2)^1/2 M^-1/2`, here by Cholesky's factor of `M`
    (Olkin and Pukelsheim, The distance between two random vectors with given dispersion matrices, 1982). After least
    squares it is the map of least error under that constraint (Freirich, Michaeli and Meir, A theory of the
    distortion-perception tradeoff in Wasserstein space, 2021).
    """
    scale_D = deviations(moments.yy_D, moments.count)
    wanted_DD = moments.yy / (moments.count * scale_D * scale_D[:, None])
    made_D = deviations(made_DD.diagonal(), 1)
    noisy_DD = (made_DD / (made_D * made_D[:, None])).float()  # the noise keeps it far from singular
    noisy_DD.diagonal().add_(NOISE)
    lower_DD = torch.linalg.cholesky(noisy_DD)
    values_D, vectors_DD = torch.linalg.eigh(lower_DD.T @ wanted_DD.float() @ lower_DD)
    half_DD = torch.linalg.solve_triangular(lower_DD.T, vectors_DD, upper=True) * values_D.clamp(min=0).sqrt().sqrt()
    colouring_DD: torch.Tensor = (half_DD @ half_DD.T).double() * scale_D / made_D[:, None]
    return colouring_DD


def _covariance(moments: Moments, scale_C: torch.Tensor, precision: torch.dtype = torch.float64) -> torch.Tensor:
    return moments.xy_CD.to(precision, copy=True).div_(moments.count).div_(scale_C[:, None])


def spectral_values(moments: Moments) -> torch.Tensor:
    """Eigenvalues of the standardised sources, smallest first."""
    values_C: torch.Tensor = torch.linalg.eigvalsh(_correlation(moments, _scale(moments)))
    return values_C.clamp(min=0)


def cutoff(values_C: torch.Tensor) -> float:
    """Below this an eigenvalue is rounding."""
    return float(values_C[-1]) * values_C.numel() * _ROUNDING


def condition(values_C: torch.Tensor) -> float:
    """Largest over smallest eigenvalue that is more than rounding."""
    kept_C = values_C[values_C > cutoff(values_C)]
    return float(kept_C[-1] / kept_C[0]) if kept_C.numel() else 1.0


class Factored:
    """Maps with a penalty by Cholesky's factors: where few are wanted, in a fraction of the time of a `Spectrum`.

    A penalty bounds the condition by channels over penalty. Of many channels float32 does where it keeps two digits at
    that bound: such a map is at the least of what it minimises, so that its error counts there by the square.
    """

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        self._scale_C = _scale(moments)

    def fit(self, recipe: Recipe) -> AffineMap:
        """The map that a recipe asks for, `is_one_system` of which holds."""
        source, single = self.moments.source, torch.float32
        is_dear = source > MANY_CHANNELS and torch.finfo(single).eps * source < 0.01 * recipe.penalty
        precision = single if is_dear else torch.float64
        if recipe.penalty == float("inf"):
            rotation_CD, made_D = self._rotation
            weight_CD = rotation_CD.clone()
        else:
            wanted_CD = _covariance(self.moments, self._scale_C, precision)
            if recipe.anchored:
                wanted_CD.add_(self._rotation[0], alpha=recipe.penalty)
            penalised_CC = _correlation(self.moments, self._scale_C, precision)
            penalised_CC.diagonal().add_(recipe.penalty)
            weight_CD = torch.cholesky_solve(wanted_CD, torch.linalg.cholesky(penalised_CC))
            made_D = (weight_CD * wanted_CD.sub_(weight_CD, alpha=recipe.penalty)).sum(0, dtype=torch.float64)
        if recipe.coloured:
            made_DD = weight_CD.T @ _correlation(self.moments, self._scale_C, precision) @ weight_CD
            colouring_DD = _colouring(made_DD, self.moments)
            weight_CD, made_D = weight_CD @ colouring_DD, ((made_DD @ colouring_DD) * colouring_DD).sum(0)
        if recipe.restored or recipe.coloured:
            weight_CD *= _restoring(made_D, self.moments)
        return AffineMap.through_means(weight_CD.div_(self._scale_C[:, None]), self.moments)

    @cached_property
    def _rotation(self) -> tuple[torch.Tensor, torch.Tensor]:
        """The scaled rotation of standardised channels, and the variance of what it makes."""
        rotation_CD = _polar_factor(self.moments.xy_CD)
        product = float((rotation_CD * self.moments.xy_CD).sum()) / self.moments.count
        rotation_CD *= self._scale_C[:, None]
        precision = torch.float32 if self.moments.source > MANY_CHANNELS else torch.float64
        rotation_CD = rotation_CD.to(precision)
        made_CD = _correlation(self.moments, self._scale_C, precision) @ rotation_CD
        made_D = made_CD.mul_(rotation_CD).sum(0, dtype=torch.float64)
        size = float(made_D.sum())
        scale = product / size if size else 0.0
        return rotation_CD.mul_(scale), made_D * scale**2


class Spectrum:
    """Standardised sources in their eigenvectors: there every penalty costs one product of matrices.

    Channels are scaled to unit variance first, so that scales of 1 and 1e-5 beside each other cost no digits.
    """

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        self._scale_C = _scale(moments)
        values_C, self._vectors_CC = torch.linalg.eigh(_correlation(moments, self._scale_C))
        self.values_C: torch.Tensor = values_C.clamp(min=0)
        self._covariance_CD: torch.Tensor = self._vectors_CC.T @ _covariance(moments, self._scale_C)

    def fit(self, recipe: Recipe) -> AffineMap:
        """The map that a recipe asks for."""
        coefficients_CD = self._coefficients(recipe)
        if recipe.rank:
            coefficients_CD = self._reduced(coefficients_CD, recipe.rank)
        if recipe.coloured:
            made_DD = coefficients_CD.T @ (self.values_C[:, None] * coefficients_CD)
            coefficients_CD = coefficients_CD @ _colouring(made_DD, self.moments)
        if recipe.restored or recipe.coloured:
            made_D = self.values_C @ coefficients_CD.square()
            coefficients_CD *= _restoring(made_D, self.moments)
        weight_CD = self._vectors_CC @ coefficients_CD
        return AffineMap.through_means(weight_CD.div_(self._scale_C[:, None]), self.moments)

    def cross_validation(self, recipe: Recipe) -> float:
        """Generalised cross-validation: the error on new tokens, told from the error on these.

        Golub, Heath and Wahba, Generalized cross-validation as a method for choosing a good ridge parameter (1979).
        """
        coefficients_CD = self._coefficients(recipe)
        gained = (coefficients_CD * (2 * self._covariance_CD - self.values_C[:, None] * coefficients_CD)).sum()
        error = float(self.moments.yy_D.sum() / self.moments.count - gained)
        degrees = 1 + float((self.values_C * self._inverse(recipe.penalty)).sum())
        freedom = 1 - degrees / self.moments.count
        return max(error, 0.0) / freedom**2 if freedom > 0 else float("inf")

    def _coefficients(self, recipe: Recipe) -> torch.Tensor:
        inverse_C1 = self._inverse(recipe.penalty)[:, None]
        if not recipe.anchored:
            return inverse_C1 * self._covariance_CD
        return torch.addcmul(self._rotation_CD, inverse_C1, self._missed_CD)

    def _inverse(self, penalty: float) -> torch.Tensor:
        kept_C = self.values_C > cutoff(self.values_C)
        return torch.where(kept_C, 1 / torch.where(kept_C, self.values_C + penalty, 1.0), 0.0)

    @cached_property
    def _rotation_CD(self) -> torch.Tensor:
        """The best rotation (a projection where the channels differ in number), with one scale.

        Schönemann and Carroll, Fitting one matrix to another under choice of a central dilation and a rigid motion
        (1970). The polar factor comes from a symmetric eigenproblem, which takes a fraction of an SVD.
        """
        rotation_CD = _polar_factor(self.moments.xy_CD)
        turned_CD = self._vectors_CC.T @ (self._scale_C[:, None] * rotation_CD)
        size = float((self.values_C[:, None] * turned_CD.square()).sum())
        scale = float((turned_CD * self._covariance_CD).sum()) / size if size else 0.0
        scaled_CD: torch.Tensor = turned_CD * scale
        return scaled_CD

    @cached_property
    def _missed_CD(self) -> torch.Tensor:
        """What the rotation leaves of the covariance."""
        return torch.addcmul(self._covariance_CD, self.values_C[:, None], self._rotation_CD, value=-1)

    def _reduced(self, coefficients_CD: torch.Tensor, rank: int) -> torch.Tensor:
        """Only the channels that vary most among those that the map makes.

        Izenman, Reduced-rank regression for the multivariate linear model (1975); Mukherjee and Zhu (2011) for ridge.
        """
        made_DD = coefficients_CD.T @ (self.values_C[:, None] * coefficients_CD)
        kept_DR = torch.linalg.eigh(made_DD)[1][:, -rank:]
        reduced_CD: torch.Tensor = coefficients_CD @ kept_DR @ kept_DR.T
        return reduced_CD


def _polar_factor(matrix_CD: torch.Tensor) -> torch.Tensor:
    """The matrix of ones for singular values that is nearest; directions that are rounding stay zero."""
    if matrix_CD.shape[0] < matrix_CD.shape[1]:
        return _polar_factor(matrix_CD.T).T
    values_K, vectors_KK = torch.linalg.eigh(matrix_CD.T @ matrix_CD)
    kept_K = values_K > values_K[-1] * values_K.numel() * _ROUNDING
    inverse_K = torch.where(kept_K, 1 / torch.where(kept_K, values_K, 1.0).sqrt(), 0.0)
    factor_CD: torch.Tensor = matrix_CD @ (vectors_KK * inverse_K) @ vectors_KK.T
    return factor_CD


@dataclass(frozen=True)
class HeldOut:
    """Sums of squares of a map on tokens that it was not fitted on; they add over folds."""

    error: float
    total: float
    """Error of the mean of the fitted tokens."""
    made: float
    """Of what the map makes, around its mean."""
    wanted: float
    """Of the old features, around their mean."""
    product: float
    """Of the two."""

    @classmethod
    def of(cls, fitted: AffineMap, mean_D: torch.Tensor, moments: Moments) -> HeldOut:
        """From the moments of the tokens left out; `mean_D` is the mean of the old features that were fitted."""
        weight_CD = fitted.weight_CD
        made = float((moments.xx_CC.to(weight_CD) @ weight_CD).mul_(weight_CD).sum(dtype=torch.float64))
        wanted = float(moments.yy_D.sum())
        product = float((weight_CD * moments.xy_CD).sum())
        offset_D = moments.mean_y_D - moments.mean_x_C @ weight_CD.double() - fitted.bias_D
        error = wanted - 2 * product + made + moments.count * float(offset_D.square().sum())
        total = wanted + moments.count * float((moments.mean_y_D - mean_D).square().sum())
        return cls(max(error, 0.0), total, made, wanted, product)

    @classmethod
    def sum(cls, folds: Mapping[int, HeldOut]) -> HeldOut:
        """Of all folds together."""
        return cls(*(sum(getattr(one, field.name) for one in folds.values()) for field in fields(cls)))

    @property
    def r2(self) -> float:
        """Share of the variance explained; 0 for the mean, negative for worse."""
        return 1 - self.error / self.total if self.total else float(self.error == 0)

    @property
    def variance_ratio(self) -> float:
        """Variance made over variance wanted."""
        return self.made / self.wanted if self.wanted else 1.0

    @property
    def cosine(self) -> float:
        """Cosine between what is made and what is wanted, both centred."""
        size = (max(self.made, 0.0) * self.wanted) ** 0.5
        return self.product / size if size else float(self.error == 0)
