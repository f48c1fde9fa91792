"""Solvers: affine maps from moments alone, each in closed form."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from autoadapt.calibration.moments import Moments

__all__ = ["AffineMap", "HeldOut", "Spectrum", "constant", "procrustes", "reduced_rank", "with_variance_restored"]

# Dimension letters: C channels of the new features, D channels of the old ones.


@dataclass(frozen=True)
class AffineMap:
    """`y = x @ weight_CD + bias_D`."""

    weight_CD: torch.Tensor
    bias_D: torch.Tensor

    @classmethod
    def through_means(cls, weight_CD: torch.Tensor, moments: Moments) -> AffineMap:
        """The map with a weight that sends mean to mean, as the best offset does for any weight."""
        return cls(weight_CD, moments.mean_y_D - moments.mean_x_C @ weight_CD)

    def variances(self, moments: Moments) -> torch.Tensor:
        """Sum of squares, around its mean, of each channel that the map makes of the tokens."""
        return (self.weight_CD * (moments.xx_CC @ self.weight_CD)).sum(0)


class Spectrum:
    """The eigenvalues of the standardised sources: one decomposition serves every penalty.

    Channels are scaled to unit variance first, so that scales of 1 and 1e-5 beside each other cost no digits, and the
    penalty counts in mean eigenvalues.
    """

    def __init__(self, moments: Moments) -> None:
        self.moments = moments
        deviation_C = moments.xx_CC.diagonal().div(moments.count).sqrt()
        self.scale_C = torch.where(deviation_C > 0, deviation_C, 1.0)
        correlation_CC = moments.xx_CC / moments.count / torch.outer(self.scale_C, self.scale_C)
        values_C, self._vectors_CC = torch.linalg.eigh(correlation_CC)
        self.values_C = values_C.clamp(min=0)
        self._projected_CD = self._vectors_CC.T @ (moments.xy_CD / moments.count / self.scale_C[:, None])

    @property
    def cutoff(self) -> float:
        """Below this an eigenvalue is rounding."""
        return float(self.values_C[-1]) * self.values_C.numel() * torch.finfo(torch.float64).eps

    @property
    def condition(self) -> float:
        """Largest over smallest eigenvalue that is more than rounding."""
        kept_C = self.values_C[self.values_C > self.cutoff]
        return float(kept_C[-1] / kept_C[0]) if kept_C.numel() else 1.0

    def ridge(self, penalty: float) -> AffineMap:
        """Least squares with a penalty on the weight, never on the offset; 0 is the pseudo-inverse."""
        weight_CD = self._vectors_CC @ (self._inverse(penalty)[:, None] * self._projected_CD) / self.scale_C[:, None]
        return AffineMap.through_means(weight_CD, self.moments)

    def degrees(self, penalty: float) -> float:
        """Effective degrees of freedom a target channel uses."""
        return float((self.values_C * self._inverse(penalty)).sum())

    def cross_validation(self, penalty: float) -> float:
        """Generalised cross-validation: held-out error, guessed from the fitted error.

        Golub, Heath and Wahba, Generalized cross-validation as a method for choosing a good ridge parameter (1979).
        """
        inverse_C = self._inverse(penalty)
        gained_C = (2 * inverse_C - self.values_C * inverse_C.square()) * self._projected_CD.square().sum(1)
        error = float(self.moments.yy_D.sum() / self.moments.count - gained_C.sum())
        freedom = 1 - (1 + self.degrees(penalty)) / self.moments.count
        return max(error, 0.0) / freedom**2 if freedom > 0 else float("inf")

    def _inverse(self, penalty: float) -> torch.Tensor:
        kept_C = self.values_C > self.cutoff
        return torch.where(kept_C, 1 / torch.where(kept_C, self.values_C + penalty, 1.0), 0.0)


def constant(moments: Moments) -> AffineMap:
    """The map to the mean of the old features, whatever the new ones are."""
    return AffineMap(torch.zeros_like(moments.xy_CD), moments.mean_y_D)


def with_variance_restored(fitted: AffineMap, moments: Moments) -> AffineMap:
    """Scale each target channel to the variance it had: a penalty shrinks, and what follows a head's ReLU sees less."""
    made_D = fitted.variances(moments)
    alive_D = made_D > torch.finfo(torch.float64).eps * moments.yy_D
    factor_D = torch.where(alive_D, moments.yy_D / torch.where(alive_D, made_D, 1.0), 1.0).sqrt()
    return AffineMap.through_means(fitted.weight_CD * factor_D, moments)


def procrustes(moments: Moments) -> AffineMap:
    """The best rotation (or projection, where channels differ in number) with one scale.

    Schönemann and Carroll, Fitting one matrix to another under choice of a central dilation and a rigid motion (1970).
    """
    left_CK, values_K, right_KD = torch.linalg.svd(moments.xy_CD, full_matrices=False)
    rotation = AffineMap(left_CK @ right_KD, moments.mean_y_D)
    size = float(rotation.variances(moments).sum())
    return AffineMap.through_means(rotation.weight_CD * (float(values_K.sum()) / size if size else 0.0), moments)


def reduced_rank(fitted: AffineMap, moments: Moments, rank: int) -> AffineMap:
    """The fitted map through fewer channels: those of what it makes that vary most.

    Izenman, Reduced-rank regression for the multivariate linear model (1975); Mukherjee and Zhu (2011) for ridge.
    """
    made_DD = fitted.weight_CD.T @ moments.xx_CC @ fitted.weight_CD
    _, vectors_DD = torch.linalg.eigh(made_DD)
    kept_DR = vectors_DD[:, -rank:]
    return AffineMap.through_means(fitted.weight_CD @ kept_DR @ kept_DR.T, moments)


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
        made = float(fitted.variances(moments).sum())
        wanted = float(moments.yy_D.sum())
        product = float((fitted.weight_CD * moments.xy_CD).sum())
        offset_D = moments.mean_y_D - moments.mean_x_C @ fitted.weight_CD - fitted.bias_D
        error = wanted - 2 * product + made + moments.count * float(offset_D.square().sum())
        total = wanted + moments.count * float((moments.mean_y_D - mean_D).square().sum())
        return cls(max(error, 0.0), total, made, wanted, product)

    def __add__(self, other: HeldOut) -> HeldOut:
        return HeldOut(
            self.error + other.error,
            self.total + other.total,
            self.made + other.made,
            self.wanted + other.wanted,
            self.product + other.product,
        )

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
