"""Masks: inputs that say which tokens, or samples of a waveform, count and which are hidden."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Literal, TypeAlias

import torch
from pydantic import Field

from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature.axes import AxisSizes, smallest_size
from autoadapt.contracts.signature.cell_centres import Frozen
from autoadapt.contracts.signature.specs import TensorSpec

Form: TypeAlias = Literal["truth", "added", "lengths"]
"""What a mask holds. `truth`: zeros and ones; `added`: what is added to attention scores, 0 or a large negative number;
`lengths`: how many tokens of each item count, from the first on, as integers or as a share of all."""


class Returned(Frozen):
    """An output that is the mask of the output's frames."""

    path: str
    """Of the output."""
    form: Form = "truth"
    counts: bool = True
    """Whether a one means that a frame counts, and not that it is hidden."""
    frames: tuple[int, int] | None = None
    """Index of the last sample of the first frame, and samples from frame to frame; None where each sample is a
    frame."""


def frames_of(dim: Dim, axis: str) -> tuple[int, int] | None:
    """Index of the last sample of the first frame, and samples from frame to frame; None for dims of another form.

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
"""The longest first frame that is searched for, in samples."""


class Mask(Frozen):
    """An argument that hides tokens: their values do not change what comes out for the others.

    Its last axis lists tokens, as in `[B, N]`, `[B, 1, 1, N]` and `[N, N]` (queries by keys); lengths are `[B]`.

    Example:
        >>> print(Mask(argument="key_padding_mask", axis="N", counts=False))
        key_padding_mask hides along N where it is 1
        >>> print(Mask(argument="lengths", axis="N", form="lengths"))
        lengths hides along N what is behind it
    """

    argument: str
    """Path among the inputs, or the name of a parameter that was not given."""
    axis: str
    """The input axis whose entries it hides."""
    counts: bool = True
    """Whether a one means that a token counts (`attention_mask`), and not that it is hidden (`key_padding_mask`)."""
    form: Form = Field(default="truth", exclude_if=lambda form: form == "truth")
    shared: bool = Field(default=False, exclude_if=lambda shared: not shared)
    """Whether one mask `[N, N]` goes for all items of the batch."""
    zeroed: tuple[str, ...] = Field(default=(), exclude_if=lambda zeroed: not zeroed)
    """Outputs that are zero at hidden tokens."""

    behind: tuple[str, ...] = Field(default=(), exclude_if=lambda behind: not behind)
    """Outputs with tokens besides those of the input, behind these; in other outputs such tokens stand in front."""
    returned: tuple[Returned, ...] = Field(default=(), exclude_if=lambda returned: not returned)
    """Outputs that are this mask, for their own frames."""
    loose: bool = Field(default=False, exclude_if=lambda loose: not loose)
    """Whether hidden tokens still have a small effect, as where a norm takes statistics over all."""

    def __str__(self) -> str:
        hidden = {"truth": f"where it is {int(not self.counts)}", "added": "where it is far below 0"}
        return f"{self.argument} hides along {self.axis} {hidden.get(self.form, 'what is behind it')}"

    @property
    def where(self) -> str:
        """Where tokens count, as a text for tables."""
        if self.form == "lengths":
            return f"within {self.argument}"
        return f"where {self.argument} is {0 if self.form == 'added' else int(self.counts)}"

    def made(self, counting_BN: torch.Tensor, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        """A mask of this form; where it holds lengths, the number of tokens that count.

        Args:
            counting_BN: Which tokens count, as booleans.
            shape: Shape of the argument.
            dtype: Dtype of the argument.
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
        """How many entries of its axis must count, so that every output has a cell and the module runs.

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
        """A mask as padding makes it: hidden tokens at the end, at most half of each item, and none of item 0.

        Args:
            shape: Shape of the argument.
            size: Size of its axis.
            dtype: Dtype of the argument.
            generator: Draws the lengths.
            least: How many must count in each item, as far as there are so many.
        """
        batch, least = shape[0], max((size + 1) // 2, min(least, size), 1)
        counted_B1 = torch.randint(least, max(size, least) + 1, (batch, 1), generator=generator)
        counted_B1[0] = size
        return self.made(torch.arange(size) < counted_B1, shape, dtype)


def mask_at(masks: Sequence[Mask], path: str) -> Mask | None:
    """The mask that an input is; None where it is none."""
    return next((mask for mask in masks if mask.argument == path), None)
