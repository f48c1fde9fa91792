"""Passages: a region as data: the calls of its members in one pass, and which of their outputs are read outside."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from autoadapt.contracts.capturing.regions.forms import Form
from autoadapt.contracts.capturing.regions.traces import Call
from autoadapt.contracts.facts import MadeByHand
from autoadapt.contracts.trees import Tree


class Returned(MadeByHand):
    """The output of one call of a member."""

    path: str
    """Of the member."""
    tree: Tree
    names: tuple[str, ...]
    """For each leaf its name; empty where only members take it."""
    read: tuple[bool, ...]
    """For each leaf, whether its values are read outside of the region, and not only between members."""
    numbers: tuple[bool, ...] = ()
    """For each leaf, whether it is an integer; empty where none is."""
    overwritten: bool = False
    """Whether a function between members may write to it in place."""
    forms: tuple[Form, ...] = ()
    """The forms of the call's arguments; empty where any are allowed."""
    follows: bool = False
    """Whether it always gets values computed from earlier members."""


class Region(MadeByHand):
    """Modules of a model that run one after the other, and the values that pass between them and the rest."""

    members: tuple[str, ...]
    """Their paths."""
    order: tuple[Returned, ...]
    """The calls of one pass through the region."""
    rounds: int = 1
    """How often the model passes through it in one run."""
    parent: str | None = None
    """The innermost module whose call contains a whole pass."""
    runner: str | None = None
    """The innermost module whose call contains a whole pass and gets the region's inputs; else the parent."""
    functions: tuple[str, ...] = ()
    """Functions between members, in order."""
    weights_between: tuple[str, ...] = ()
    """Parameters that functions between members read, or that members after the first get as arguments."""
    learned_functions: tuple[str, ...] = ()
    """Functions between members that read parameters."""
    mixing_functions: tuple[str, ...] = ()
    """Functions that read several tensors, some of them computed from members."""
    taking_functions: tuple[str, ...] = ()
    """Functions that read tensors computed from members."""
    hooked: tuple[str, ...] = ()
    """Members with callers' hooks, which read their arguments or outputs."""

    @property
    def first(self) -> str:
        """The member that gets the inputs of the region."""
        return self.order[0].path

    @property
    def named(self) -> tuple[str, ...]:
        """Names of all leaves that are taken outside of members."""
        return tuple(name for one in self.order for name in one.names if name)

    @property
    def numbers(self) -> frozenset[str]:
        """Names of leaves that are integers."""
        return frozenset(
            n for one in self.order for n, is_number in zip(one.names, one.numbers, strict=False) if is_number
        )

    @property
    def read(self) -> tuple[str, ...]:
        """Names of leaves whose values are read outside of the region: its outputs."""
        return tuple(n for one in self.order for n, read in zip(one.names, one.read, strict=True) if read)


def names_of(calls: Sequence[Call]) -> list[list[str]]:
    """A name for each leaf of each call: the path without the prefix that all share, the number of a repeated call, the
    leaf."""
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
