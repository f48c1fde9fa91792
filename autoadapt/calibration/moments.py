"""Moments: what least squares needs to know of two sets of tokens, in float64, without keeping the tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields

import torch

from autoadapt.calibration.image_folds import MANY_CHANNELS

BYTES = 64 << 20
"""Of tokens in double precision that are multiplied at once, so that they fit beside the models."""

# ruff: noqa: N815 - shapes stand in the names of tensors
# Dimension letters: N tokens, C channels of the new features, D channels of the old ones.


@dataclass
class Moments:
    """Count, means and centred sums of products of paired tokens; they grow in place.

    Tokens are centred before they are multiplied, and parts are put together by Chan, Golub and LeVeque (1979), so
    that channels with a mean far from zero lose nothing. Memory is `8 * (C*C + C*D + D*D)` bytes, for any number of
    tokens; with more than 512 channels `8 * (C*C + C*D)`.
    """

    count: int
    mean_x_C: torch.Tensor
    mean_y_D: torch.Tensor
    xx_CC: torch.Tensor
    xy_CD: torch.Tensor
    yy: torch.Tensor
    """`[D, D]`; with many channels only the products of each with itself, `[D]`."""

    @classmethod
    def zeros(cls, source: int, target: int, device: torch.device | None = None) -> Moments:
        """Moments of no tokens."""

        def zero(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        yy = zero(target) if max(source, target) > MANY_CHANNELS else zero(target, target)
        return cls(0, zero(source), zero(target), zero(source, source), zero(source, target), yy)

    @classmethod
    def of(cls, x_NC: torch.Tensor, y_ND: torch.Tensor) -> Moments:
        """Moments of tokens that stand ready.

        Example:
            >>> x = torch.tensor([[1.0], [3.0]])
            >>> made = Moments.of(x, 2 * x)
            >>> made.count, made.mean_y_D.item(), made.xy_CD.item()
            (2, 4.0, 4.0)
        """
        made = cls.zeros(x_NC.shape[1], y_ND.shape[1], x_NC.device)
        made.add_tokens(x_NC, y_ND)
        return made

    @classmethod
    def sum(cls, parts: Iterable[Moments]) -> Moments:
        """All parts as one, in tensors of its own."""
        first, *others = parts
        made = cls(first.count, *(tensor.clone() for tensor in first.tensors.values()))
        for other in others:
            made.add(other)
        return made

    def add_tokens(self, x_NC: torch.Tensor, y_ND: torch.Tensor) -> None:
        """Count more tokens, on the device that they are on."""
        rows = max(1, BYTES // (8 * (x_NC.shape[1] + y_ND.shape[1])))
        for chunk in zip(torch.split(x_NC, rows), torch.split(y_ND, rows), strict=True):
            self._add_chunk(*chunk)

    def _add_chunk(self, x_NC: torch.Tensor, y_ND: torch.Tensor) -> None:
        """The step from the old mean to the new one is one more row of the product: no second matrix is made."""
        x_NC, y_ND = x_NC.double(), y_ND.double()
        mean_x_C, mean_y_D = x_NC.mean(0), y_ND.mean(0)
        step_x_C, step_y_D, weight = self._step(x_NC.shape[0], mean_x_C, mean_y_D)
        x_NC = torch.cat([x_NC - mean_x_C, weight**0.5 * step_x_C[None]])
        y_ND = torch.cat([y_ND - mean_y_D, weight**0.5 * step_y_D[None]])
        self.xx_CC.addmm_(x_NC.T, x_NC)
        self.xy_CD.addmm_(x_NC.T, y_ND)
        self._add_squares(self.yy, y_ND)

    def add(self, other: Moments) -> None:
        """Count the tokens of others."""
        if not other.count:
            return
        step_x_C, step_y_D, weight = self._step(other.count, other.mean_x_C, other.mean_y_D)
        self.xx_CC.add_(other.xx_CC).addr_(step_x_C, step_x_C, alpha=weight)
        self.xy_CD.add_(other.xy_CD).addr_(step_x_C, step_y_D, alpha=weight)
        self._add_squares(self.yy.add_(other.yy), weight**0.5 * step_y_D[None])

    def absorb(self, other: Moments) -> None:
        """Count the tokens of others, whose memory is given back: they count none after it.

        Example:
            >>> one, other = (Moments.of(torch.ones(n, 1), torch.ones(n, 1)) for n in (2, 3))
            >>> one.absorb(other)
            >>> one.count, other.count, other.bytes
            (5, 0, 0)
        """
        self.add(other)
        vars(other).update(vars(Moments.zeros(0, 0)))

    def about_zero(self) -> Moments:
        """The same around zero in place of the means: what is fitted to them has no offset.

        Example:
            >>> Moments.of(torch.tensor([[1.0], [3.0]]), torch.tensor([[2.0], [4.0]])).about_zero().xy_CD.item()
            14.0
        """
        x_C, y_D, count = self.mean_x_C, self.mean_y_D, self.count
        xx_CC, xy_CD = torch.addr(self.xx_CC, x_C, x_C, alpha=count), torch.addr(self.xy_CD, x_C, y_D, alpha=count)
        zeros = torch.zeros_like(x_C), torch.zeros_like(y_D)
        return Moments(count, *zeros, xx_CC, xy_CD, self.yy + count * self.squares(y_D[None]))

    def _step(
        self, count: int, mean_x_C: torch.Tensor, mean_y_D: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, float]:
        """Move count and means to those with more tokens; how far they were apart, and how much that weighs."""
        step_x_C, step_y_D = mean_x_C - self.mean_x_C, mean_y_D - self.mean_y_D
        before, self.count = self.count, self.count + count
        share = count / self.count
        self.mean_x_C = self.mean_x_C + share * step_x_C
        self.mean_y_D = self.mean_y_D + share * step_y_D
        return step_x_C, step_y_D, before * share

    def squares(self, y_ND: torch.Tensor) -> torch.Tensor:
        """Sums of products of targets, of as many pairs of them as are kept."""
        return self._add_squares(torch.zeros_like(self.yy), y_ND)

    @staticmethod
    def _add_squares(yy: torch.Tensor, y_ND: torch.Tensor) -> torch.Tensor:
        return yy.addmm_(y_ND.T, y_ND) if yy.dim() == 2 else yy.add_(y_ND.square().sum(0))

    @property
    def yy_D(self) -> torch.Tensor:  # noqa: N802
        """Sums of squares of the targets."""
        return self.yy.diagonal() if self.yy.dim() == 2 else self.yy

    @property
    def source(self) -> int:
        """Channels of the new features."""
        return self.mean_x_C.shape[0]

    @property
    def target(self) -> int:
        """Channels of the old features."""
        return self.mean_y_D.shape[0]

    @property
    def tensors(self) -> dict[str, torch.Tensor]:
        """The state, to be saved or summed."""
        return {field.name: getattr(self, field.name) for field in fields(self) if field.name != "count"}

    @property
    def bytes(self) -> int:
        """Memory of the state."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())
