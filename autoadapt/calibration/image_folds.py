"""Image folds: which images are fitted on together, and which of them are held out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch

from autoadapt.calibration.near_copies import copied_from

_FOLDS = 4
"""How many there are, but for many channels."""
MANY_CHANNELS = 512


@dataclass(frozen=True)
class Folds:
    """Images by their number: in four folds, each held out once, or in two of which only the first is.

    Every fold is a set of moments in memory, and every one held out a decomposition; with many channels both are dear.

    Example:
        >>> Folds.of_channels(64).numbers, Folds.of_channels(2048).numbers
        ((0, 1, 2, 3), (0, 1))
        >>> [Folds().of_image(number) for number in range(12)]
        [0, 1, 2, 3, 1, 2, 3, 0, 2, 3, 0, 1]
    """

    holds_one_out: bool = False

    @classmethod
    def of_channels(cls, widest: int) -> Folds:
        """What so many channels allow."""
        return cls(widest > MANY_CHANNELS)

    @property
    def numbers(self) -> tuple[int, ...]:
        """All folds."""
        return (0, 1) if self.holds_one_out else tuple(range(_FOLDS))

    @property
    def held_out(self) -> tuple[int, ...]:
        """Those that are held out, one after the other."""
        return (0,) if self.holds_one_out else self.numbers

    @property
    def fewest_images(self) -> int:
        """With fewer images a fold would be empty."""
        return _FOLDS

    def of_image(self, number: int) -> int:
        """The fold of an image: one of each among the first four, the next four and so on.

        By the sum of its digits to that base, so that every other image, or every fourth, as one of several workers has
        them, come into all folds as well.
        """
        fold = 0
        while number:
            number, digit = divmod(number, _FOLDS)
            fold = (fold + digit) % _FOLDS
        return min(fold, 1) if self.holds_one_out else fold

    def of_images(
        self,
        numbers: Iterable[int],
        known: Mapping[int, int],
        described: Mapping[int, torch.Tensor],
    ) -> dict[int, int]:
        """The folds of some more images: a near copy comes to what it is a copy of, others by their number.

        So nothing is judged that was fitted on in another rendering. The first few never follow, that no fold is empty.

        Args:
            numbers: Of the images.
            known: The folds of images before them.
            described: What is said of these and of the new ones; of those beyond the first hundreds nothing is.
        """
        found, before = dict[int, int](), {number: described[number] for number in known.keys() & described.keys()}
        for number in sorted(numbers):
            before |= {number: described[number]} if number in described else {}
            follows = number >= self.fewest_images and number in described
            first = copied_from(number, before) if follows else number
            found[number] = ({**known, **found}).get(first, self.of_image(number))
        return found

    def others(self, fold: int) -> tuple[int, ...]:
        """What is fitted on while one is held out."""
        return tuple(other for other in self.numbers if other != fold)

    def sizes(self, of_images: Mapping[int, int]) -> list[int]:
        """How many images each fold has, by the fold of each."""
        found = [*of_images.values()]
        return [found.count(fold) for fold in self.numbers]
