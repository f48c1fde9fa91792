"""Passages: one pass through a region, as data: the calls of its members, and who takes what these return."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from autoadapt.contracts.capturing.regions.forms import Form
from autoadapt.contracts.capturing.regions.traces import Call
from autoadapt.contracts.facts import MadeByHand
from autoadapt.contracts.trees import Tree

__all__ = ["Region", "Returned", "names_of"]


class Returned(MadeByHand):
    """What one call of a member returns, and who takes it."""

    path: str
    tree: Tree
    names: tuple[str, ...]
    """For each leaf the name by which something else than a member takes it; empty where only members do."""
    read: tuple[bool, ...]
    """For each leaf whether its values go anywhere but back into the region."""
    numbers: tuple[bool, ...] = ()
    """For each leaf whether it is a whole number; none is where this is empty."""
    overwritten: bool = False
    """Whether a function between members may write over it."""
    forms: tuple[Form, ...] = ()
    """What kinds of arguments it was called with; any where this is empty."""
    follows: bool = False
    """Whether it is always given what comes of members before it."""


class Region(MadeByHand):
    """Modules of a model that are run one after the other, and what passes between them and the rest."""

    members: tuple[str, ...]
    order: tuple[Returned, ...]
    """The calls of one pass through the region."""
    rounds: int = 1
    """How often the model passes through it in one run."""
    parent: str | None = None
    """The innermost module whose call holds a pass."""
    runner: str | None = None
    """A module whose call holds a pass and that is given the region's inputs; else the parent."""
    functions: tuple[str, ...] = ()
    """Functions between members, in order."""
    weights_between: tuple[str, ...] = ()
    """Parameters of the model itself that these functions read, or members after the first are given."""
    learned_functions: tuple[str, ...] = ()
    """Functions between members that read parameters."""
    mixing_functions: tuple[str, ...] = ()
    """Functions that take more tensors than one, of which some come of members."""
    taking_functions: tuple[str, ...] = ()
    """Functions that take what comes of members."""
    hooked: tuple[str, ...] = ()
    """Members with hooks of callers, which read what they are given or return."""

    @property
    def first(self) -> str:
        """The member that is given the inputs."""
        return self.order[0].path

    @property
    def named(self) -> tuple[str, ...]:
        """Leaves that something else than a member takes."""
        return tuple(name for one in self.order for name in one.names if name)

    @property
    def numbers(self) -> frozenset[str]:
        """Leaves that are whole numbers."""
        return frozenset(
            n for one in self.order for n, is_number in zip(one.names, one.numbers, strict=False) if is_number
        )

    @property
    def read(self) -> tuple[str, ...]:
        """Leaves whose values go anywhere but back into the region: its outputs."""
        return tuple(n for one in self.order for n, read in zip(one.names, one.read, strict=True) if read)


def names_of(calls: Sequence[Call]) -> list[list[str]]:
    """A name for each leaf of each call: the path without what all share, the call where there are more, the leaf."""
    parts = [call.path.split(".") for call in calls]
    shared = 0
    while len({call.path for call in calls}) > 1 and len({tuple(one[: shared + 1]) for one in parts}) == 1:
        shared += 1
    count, found = Counter[str](), list[list[str]]()
    for call, own in zip(calls, parts, strict=True):
        number = f"_{count[call.path]}" if count[call.path] else ""
        count[call.path] += 1
        base = "_".join(own[shared:]) + number
        found.append([base if leaf == "output" else f"{base}_{leaf.replace('.', '_')}" for leaf in call.leaves])
    return found
