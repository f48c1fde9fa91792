"""Native sizes: how a module that was built for one image size takes images at their own size."""

from __future__ import annotations

from pydantic import Field

from autoadapt.contracts.facts import MadeByHand

_PRINTABLE = r"^[\x20-\x7e]{0,300}$"


class NativeSizes(MadeByHand):
    """How a view of a module takes images of other sizes than its own, or why it does not.

    Example:
        >>> print(NativeSizes(what="position embedding 14x14 resampled", size=(224, 224)))
        position embedding 14x14 resampled
    """

    what: str = Field(pattern=_PRINTABLE)
    """What is adjusted to the size of the image, such as `position embedding 14x14 resampled`."""
    size: tuple[int, int]
    """Height and width that the module was built for."""
    probed: tuple[int, int] = (0, 0)
    """Height and width at which `multiply_adds` are counted."""
    multiply_adds: int = 0
    """Of one sample; 0 where they were not counted."""
    fixed_multiply_adds: int = 0
    """Of one sample at the size that the module was built for."""
    settings: tuple[tuple[str, str, bool | str], ...] = Field(default=(), exclude_if=lambda settings: not settings)
    """(path of a submodule, attribute, value) for standalone source; empty where setting attributes is not enough."""
    untraced: str = Field(default="", pattern=_PRINTABLE, exclude_if=lambda why: not why)
    """Why it can be neither compiled nor exported at sizes that vary; empty where it can."""
    refused: str = Field(default="", pattern=_PRINTABLE, exclude_if=lambda why: not why)
    """Why images are resized to the module's size after all; empty where they are not."""

    def __str__(self) -> str:
        return self.what
