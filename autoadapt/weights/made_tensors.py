"""A made tensor: one that the model has, and what of the checkpoint it is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from autoadapt.weights.tensor_specs import Spec


@dataclass(frozen=True)
class Recipe:
    """One tensor to be made.

    Args:
        kind: `weight norm`, `length` (of the weight that weight norm makes), `join`, `split`, `lora`, `quantised`, or
            `unplaced`: a split that the model has no place for.
        spec: What comes out.
        parts: What goes in, in order, some of it made first; nothing for zeros, as of a bias that one side alone has.
        sizes: Rows of each part, or where a split starts and how many rows it has.
        scale: Of a delta, or what the scale of quantised numbers is multiplied by.
        how: The words for it.
        transposed: Whether a delta lies the other way round than its weight.
    """

    kind: str
    spec: Spec
    parts: tuple[Spec | Recipe | None, ...]
    how: str
    sizes: tuple[int, ...] = ()
    scale: float = 1.0
    transposed: bool = False

    @property
    def sources(self) -> list[str]:
        """The names of what goes in, in the checkpoint."""
        parts = [part.sources if isinstance(part, Recipe) else [part.name] for part in self.parts if part is not None]
        return [name for names in parts for name in names]

    @property
    def steps(self) -> list[Recipe]:
        """The recipes that make its parts, and itself."""
        return [step for part in self.parts if isinstance(part, Recipe) for step in part.steps] + [self]

    def made_of(self, earlier: Mapping[str, Recipe]) -> Recipe:
        """The same of parts that earlier recipes make."""
        parts = tuple(earlier.get(part.name, part) if isinstance(part, Spec) else part for part in self.parts)
        before = [step.how for part in parts if isinstance(part, Recipe) for step in part.steps]
        return replace(self, parts=parts, how="; ".join(dict.fromkeys([*before, self.how])))
