"""Centres of cells: where the cells of a tensor lie in the input, and the text form of that."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence

from pydantic import Field

from autoadapt.contracts.dims import Dim
from autoadapt.contracts.facts import MadeByHand
from autoadapt.errors import Mismatch, SignatureError


class Frozen(MadeByHand):
    """A frozen model whose constructor raises `SignatureError`."""

    malformed = SignatureError


class Centres(Frozen):
    """Where the cells along one input axis lie: their centres, in cells of the input (pixels) counted from 0.

    Example:
        >>> print(Centres(axis="H", first=43, step=8))
        43 + 8 i
    """

    axis: str
    first: float
    """Centre of the first cell: the middle of the window that it sees."""
    step: float
    """From one centre to the next."""
    reversed: bool = Field(default=False, exclude_if=lambda told: not told)
    """Whether the last cell is listed first, as behind `flip`."""

    def __str__(self) -> str:
        return f"{self.first:g} + {self.step:g} i{' reversed' * self.reversed}"

    @property
    def in_full(self) -> str:
        """The same with all digits, and the axis."""
        return f"{in_digits(self.first)} + {in_digits(self.step)} i along {self.axis}{' reversed' * self.reversed}"


def spatial_axes(dims: Iterable[Dim]) -> list[str]:
    """The input axes that dims depend on, without batch (`B`) and channels (`C`)."""
    return sorted({axis for dim in dims for axis in dim.axes if axis[0] not in "BC"})


def in_digits(value: float) -> str:
    """A number with all the digits that it takes to read it back."""
    return f"{value:.17g}" if float(f"{value:.12g}") != value else f"{value:.12g}"


_CENTRES = re.compile(r"(?P<first>[\d.e+-]+) \+ (?P<step>[\d.e+-]+) i(?: along (?P<axis>\w+))?(?P<back> reversed)?")


def read_centres(text: str, dims: Sequence[Dim]) -> tuple[Centres, ...]:
    """The `centres` field from its text.

    Raises:
        SignatureError: The text is malformed, or names an axis that no dim depends on.
    """
    read: dict[str, Centres] = {}
    axes = spatial_axes(dims)
    for part in text.split(","):
        found = _CENTRES.fullmatch(part.strip())
        named = [found["axis"]] if found and found["axis"] else axes
        try:
            if found is None or not set(named) <= set(axes):
                raise ValueError
            first, step = float(found["first"]), float(found["step"])
            if not (math.isfinite(first) and 0 < step < math.inf):
                raise ValueError
            read |= {axis: Centres(axis=axis, first=first, step=step, reversed=bool(found["back"])) for axis in named}
        except ValueError:
            fault = Mismatch(f"centres {text}", "centres first + step i along axis", part, '"centres 43 + 8 i"')
            raise SignatureError(f"{text!r} does not tell where cells lie", [fault]) from None
    return tuple(read[axis] for axis in sorted(read))
