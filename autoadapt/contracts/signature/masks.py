"""Masks: inputs that say which tokens or samples count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from pydantic import Field

from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature.axes import AxisSizes, smallest_size
from autoadapt.contracts.signature.specs import Frozen, TensorSpec

__all__ = ["Form", "Mask", "Returned", "frames_of", "mask_at"]

Form: TypeAlias = Literal["truth", "added", "lengths"]
"""What a mask holds: zeros and ones; what is added to scores of attention, zero or far below it; or how many of each
item count, those behind them being hidden, as a number or as a share of all."""


class Returned(Frozen):
    """An output that tells which frames count, as a mask tells it of samples."""

    path: str
    form: Form = "truth"
    counts: bool = True
    """Whether ones stand at what counts."""
    frames: tuple[int, int] | None = None
    """The last sample of the first frame, and the step from frame to frame; None where frames are samples."""


def frames_of(dim: Dim, axis: str) -> tuple[int, int] | None:
    """The last sample of the first frame, and the step from frame to frame; None where frames are not so.

    Example:
        >>> frames_of(Dim.parse("floor(N/4) - 1"), "N")
        (7, 4)
    """
    slope = dim.slope(axis)
    if slope is None or slope.numerator != 1 or slope == 1:
        return None
    step = slope.denominator
    first = next((size for size in range(_LONGEST) if dim.evaluate({axis: size + 1}) > 0), 0)
    return (first, step) if dim == (Dim.axis(axis) - (first + 1)) // step + 1 else None


_LONGEST = 8192
"""In samples, that a first frame is looked for."""


class Mask(Frozen):
    """An argument that hides tokens: other values there change nothing of what comes out for the rest.

    Its last axis lists tokens, as in `[B, N]`, `[B, 1, 1, N]` and `[N, N]`, where the one before it lists those that
    read them; lengths are `[B]`.

    Example:
        >>> print(Mask(argument="key_padding_mask", axis="N", counts=False))
        key_padding_mask hides along N where it is 1
        >>> print(Mask(argument="lengths", axis="N", form="lengths"))
        lengths hides along N what is behind it
    """

    argument: str
    """Path among the inputs, or the name of a parameter that was not given."""
    axis: str
    """The input axis that it lies along."""
    counts: bool = True
    """Whether ones stand at what counts, and zeros at what is hidden; else the other way round."""
    form: Form = Field(default="truth", exclude_if=lambda form: form == "truth")
    shared: bool = Field(default=False, exclude_if=lambda shared: not shared)
    """Whether it is one for all items, `[N, N]`."""
    zeroed: tuple[str, ...] = Field(default=(), exclude_if=lambda zeroed: not zeroed)
    """Outputs that are zero at what it hides."""

    behind: tuple[str, ...] = Field(default=(), exclude_if=lambda behind: not behind)
    """Outputs with more tokens than it knows, which stand behind the others; elsewhere they stand in front."""
    returned: tuple[Returned, ...] = Field(default=(), exclude_if=lambda returned: not returned)
    """Outputs that are this mask for their own frames."""
    loose: bool = Field(default=False, exclude_if=lambda loose: not loose)
    """Whether what it hides still counts a little, as where statistics are taken over all."""

    def __str__(self) -> str:
        hidden = {"truth": f"where it is {int(not self.counts)}", "added": "where it is far below 0"}
        return f"{self.argument} hides along {self.axis} {hidden.get(self.form, 'what is behind it')}"

    @property
    def where(self) -> str:
        """Where it lets tokens count, for tables."""
        if self.form == "lengths":
            return f"within {self.argument}"
        return f"where {self.argument} is {0 if self.form == 'added' else int(self.counts)}"

    def made(self, counting_BN: torch.Tensor, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """The mask that lets some tokens count, the first ones of each item where it tells lengths.

        Args:
            counting_BN: Truth values.
            shape: Of the argument.
            dtype: Of the argument.
        """
        if self.form == "lengths":
            counted_B = counting_BN.sum(1)
            return (counted_B / counting_BN.shape[1] if dtype.is_floating_point else counted_B).to(dtype)
        middle = [1] * (len(shape) - 2)
        table = counting_BN[:1] if self.shared else counting_BN.view(-1, *middle, counting_BN.shape[1])
        table = (table if self.counts else ~table).expand(*shape)
        if self.form == "truth":
            return table.to(dtype)
        return torch.zeros(*shape, dtype=dtype).masked_fill(~table, torch.finfo(dtype).min)

    def least(self, axes: Mapping[str, AxisSizes], outputs: Iterable[TensorSpec], sizes: Mapping[str, int]) -> int:
        """How much of its axis has to count: what leaves every output a cell, and no module refuses.

        Example:
            >>> frames = TensorSpec.parse("f32[B, floor((N - 80)/320)]")
            >>> Mask(argument="mask", axis="N").least({"N": AxisSizes(example=4000)}, [frames], {"B": 2, "N": 700})
            400
        """
        dims = {dim for spec in outputs for dim in spec.dims if self.axis in dim.axes}
        cells = [smallest_size(dim, 1, self.axis, sizes, below=sizes[self.axis]) for dim in dims]
        return max([axes[self.axis].smallest if axes[self.axis].bounded else 1, *cells])

    def example(
        self, shape: Sequence[int], size: int, dtype: torch.dtype, generator: torch.Generator, *, least: int = 1
    ) -> torch.Tensor:
        """A mask as padding makes it: what is hidden stands behind what counts, half or more, and all of item 0.

        Args:
            shape: Of the argument.
            size: Of the axis that it lies along.
            dtype: Of the argument.
            generator: Of random numbers.
            least: How many have to count, as far as there are so many.
        """
        batch, least = shape[0], max((size + 1) // 2, min(least, size), 1)
        counted_B1 = torch.randint(least, max(size, least) + 1, (batch, 1), generator=generator)
        counted_B1[0] = size
        return self.made(torch.arange(size) < counted_B1, shape, dtype)


def mask_at(masks: Sequence[Mask], path: str) -> Mask | None:
    """What is known of an input that hides others; None where it hides nothing."""
    return next((mask for mask in masks if mask.argument == path), None)
