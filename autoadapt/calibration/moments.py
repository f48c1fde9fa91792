"""Moments: what least squares needs to know of two sets of tokens, in float64, without keeping the tokens."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields
from functools import reduce

import torch

__all__ = ["Moments"]

# ruff: noqa: N815 - shapes stand in the names of tensors
# Dimension letters: N tokens, C channels of the new features, D channels of the old ones.


@dataclass(frozen=True)
class Moments:
    """Count, means and centred sums of products of paired tokens.

    Tokens are centred before they are multiplied, and parts are put together by Chan, Golub and LeVeque (1979), so
    that channels with a mean far from zero lose nothing. Memory is `8 * (C*C + C*D + D)` bytes, for any number of
    tokens.
    """

    count: int
    mean_x_C: torch.Tensor
    mean_y_D: torch.Tensor
    xx_CC: torch.Tensor
    xy_CD: torch.Tensor
    yy_D: torch.Tensor
    """Of the products of targets only those of a channel with itself."""

    @classmethod
    def zeros(cls, source: int, target: int, device: torch.device | None = None) -> Moments:
        """Moments of no tokens."""

        def zero(*shape: int) -> torch.Tensor:
            return torch.zeros(shape, dtype=torch.float64, device=device)

        return cls(0, zero(source), zero(target), zero(source, source), zero(source, target), zero(target))

    @classmethod
    def of(cls, x_NC: torch.Tensor, y_ND: torch.Tensor) -> Moments:
        """Moments of tokens that stand ready.

        Example:
            >>> x = torch.tensor([[1.0], [3.0]])
            >>> made = Moments.of(x, 2 * x)
            >>> made.count, made.mean_y_D.item(), made.xy_CD.item()
            (2, 4.0, 4.0)
        """
        x_NC, y_ND = x_NC.double(), y_ND.double()
        mean_x_C, mean_y_D = x_NC.mean(0), y_ND.mean(0)
        x_NC, y_ND = x_NC - mean_x_C, y_ND - mean_y_D
        return cls(x_NC.shape[0], mean_x_C, mean_y_D, x_NC.T @ x_NC, x_NC.T @ y_ND, y_ND.square().sum(0))

    def __add__(self, other: Moments) -> Moments:
        if not self.count or not other.count:
            return self if self.count else other
        count = self.count + other.count
        share = other.count / count
        step_x_C, step_y_D = other.mean_x_C - self.mean_x_C, other.mean_y_D - self.mean_y_D
        weight = self.count * share
        return Moments(
            count,
            self.mean_x_C + share * step_x_C,
            self.mean_y_D + share * step_y_D,
            self.xx_CC + other.xx_CC + weight * torch.outer(step_x_C, step_x_C),
            self.xy_CD + other.xy_CD + weight * torch.outer(step_x_C, step_y_D),
            self.yy_D + other.yy_D + weight * step_y_D.square(),
        )

    @classmethod
    def sum(cls, parts: Iterable[Moments]) -> Moments:
        """All parts as one."""
        return reduce(cls.__add__, parts)

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
