"""Assigning: which atom of a source becomes which atom of a target, at the least cost."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from autoadapt.adapting.layouts.factors import Atom, size_of

Layout: TypeAlias = tuple[tuple[str, ...], ...]
"""For each axis the names of its atoms."""


@dataclass(frozen=True)
class Refusal:
    """There is no chain from a source to a target."""

    why: str
    """The reason, for errors."""


@dataclass(frozen=True)
class Assignment:
    """Atoms of a source and a target by name; an atom of the source becomes that of the same name in the target."""

    source: Layout
    target: Layout
    before: dict[str, Atom]
    """The atoms of the source."""
    then: dict[str, Atom]
    """The atoms of the target."""

    @property
    def resampled(self) -> list[str]:
        """Atoms that depend on the input and change their size."""
        return [name for name in self._changed if self.then[name].kind]

    @property
    def projected(self) -> list[str]:
        """Constant atoms that change their size."""
        return [name for name in self._changed if not self.then[name].kind]

    @property
    def _changed(self) -> list[str]:
        return [name for name in self.shared if self.before[name].dim != self.then[name].dim]

    @property
    def shared(self) -> list[str]:
        """Atoms that both have."""
        return [name for name in self.before if name in self.then]

    @property
    def averaged(self) -> list[str]:
        """Atoms that only the source has."""
        return [name for name in self.before if name not in self.then]

    @property
    def is_exact(self) -> bool:
        """Whether values are only moved or left out."""
        return not (self.resampled or self.projected or self.averaged)

    def cost(self) -> tuple[int, ...]:
        """Projections and their weights first, then averaged atoms, then whether the order changes."""
        learned = sum(size_of(self.before[name]) * size_of(self.then[name]) for name in self.projected)
        order = [name for axis in self.source for name in axis if name in self.then]
        kept = order == [name for axis in self.target for name in axis]
        return len(self.projected), learned, len(self.averaged), int(not kept)


Numbered: TypeAlias = tuple[int, Atom]
Axes: TypeAlias = Sequence[Sequence[Atom]]


def assign(source: Axes, target: Axes) -> Assignment | Refusal:
    """The assignment of least cost; ties go to the first in the order of the axes."""
    left, right = _numbered(source), _numbered(target)
    kinds = dict.fromkeys(atom.kind for _, atom in (*left, *right))
    options = []
    for kind in kinds:
        found = _pairings([x for x in left if x[1].kind == kind], [x for x in right if x[1].kind == kind])
        if isinstance(found, Refusal):
            return found
        options.append(found)
    complete = [_named(source, target, dict(itertools.chain(*pairs))) for pairs in itertools.product(*options)]
    best = min(complete, key=lambda assignment: assignment.cost())
    if len(best.projected) > 1:
        return Refusal("more than one constant axis differs, and only channels are learned")
    return best


def _numbered(axes: Axes) -> list[Numbered]:
    return list(enumerate(itertools.chain(*axes)))


def _pairings(left: Sequence[Numbered], right: Sequence[Numbered]) -> list[tuple[tuple[int, int], ...]] | Refusal:
    """All assignments of atoms of one kind, each as pairs (number in the target, number in the source)."""
    example = (right or left)[0][1]
    batch = "B" in example.kind
    if not example.kind and len(left) < len(right):
        have, wanted = (", ".join(str(atom.dim) for _, atom in side) or "none" for side in (left, right))
        return Refusal(f"the target has axes of fixed size {wanted}, the source {have}: none is made of axes that vary")
    if len(left) < len(right):
        return Refusal(f"nothing in the source has an axis like {example.dim}")
    if not example.kind and len(left) > len(right):
        return Refusal(f"the source has one constant axis more than the target ({left[-1][1].dim})")
    if batch and len(left) != len(right):
        return Refusal("samples of a batch are not averaged, and the target has no axis B for them")
    found = []
    for chosen in itertools.permutations(left, len(right)):
        pairs = list(zip(right, chosen, strict=True))
        if not batch or all(target.dim == atom.dim for (_, target), (_, atom) in pairs):
            found.append(tuple((number, other) for (number, _), (other, _) in pairs))
    return found or Refusal(f"the batch axis differs: {left[0][1].dim} against {right[0][1].dim}")


def _named(source: Axes, target: Axes, pairs: Mapping[int, int]) -> Assignment:
    """The assignment for pairs of numbers, with readable names of atoms."""
    names = _readable([atom for _, atom in _numbered(source)])

    def layout(axes: Axes, called: Sequence[str]) -> Layout:
        numbers = iter(called)
        return tuple(tuple(next(numbers) for _ in axis) for axis in axes)

    then = [names[pairs[number]] for number, _ in _numbered(target)]
    return Assignment(
        source=layout(source, names),
        target=layout(target, then),
        before={name: atom for name, (_, atom) in zip(names, _numbered(source), strict=True)},
        then={name: atom for name, (_, atom) in zip(then, _numbered(target), strict=True)},
    )


def _readable(atoms: Sequence[Atom]) -> list[str]:
    names: list[str] = []
    for atom in atoms:
        letter = min(atom.kind)[0].lower() if atom.kind else "c"
        fresh = (letter, *(f"{letter}{i}" for i in range(1, 99)))
        names.append(next(name for name in fresh if name not in names))
    return names
