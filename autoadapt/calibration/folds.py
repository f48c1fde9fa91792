"""Folds: which images are fitted on together, and which of them are held out."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["MANY_CHANNELS", "Folds"]

EVERY = 4
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
        return (0, 1) if self.holds_one_out else tuple(range(EVERY))

    @property
    def held_out(self) -> tuple[int, ...]:
        """Those that are held out, one after the other."""
        return (0,) if self.holds_one_out else self.numbers

    @property
    def fewest_images(self) -> int:
        """With fewer images a fold would be empty."""
        return EVERY

    def of_image(self, number: int) -> int:
        """The fold of an image: one of each among the first four, the next four and so on.

        By the sum of its digits to that base, so that every other image, or every fourth, as one of several workers has
        them, come into all folds as well.
        """
        fold = 0
        while number:
            number, digit = divmod(number, EVERY)
            fold = (fold + digit) % EVERY
        return min(fold, 1) if self.holds_one_out else fold

    def others(self, fold: int) -> tuple[int, ...]:
        """What is fitted on while one is held out."""
        return tuple(other for other in self.numbers if other != fold)

    def sizes(self, images: int) -> list[int]:
        """How many of the first so many images each fold has."""
        found = [self.of_image(number) for number in range(images)]
        return [found.count(fold) for fold in self.numbers]
