"""Candidates: what is to be ranked, each under a name of its own."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeAlias

from torch import nn

from autoadapt.errors import Mismatch, RankingError, SourceError, nearest
from autoadapt.ranking.fingerprints import of_code, of_module
from autoadapt.sources import list_models, load, published, schemes

Candidates: TypeAlias = "str | nn.Module | Sequence[str | nn.Module] | Mapping[str, str | nn.Module]"


_LOADED = re.compile(r"""\bload\(("[^"]*")\)""")


@dataclass(frozen=True)
class Candidate:
    """A backbone that may be taken: a module, or where it comes from."""

    name: str
    what: str | nn.Module

    def module(self, *, pretrained: bool, allow: Sequence[str | Path]) -> nn.Module:
        """The backbone itself.

        Raises:
            SourceError: There is none of that name.
        """
        if isinstance(self.what, nn.Module):
            return self.what
        try:
            return load(self.what, pretrained=pretrained and published(self.what), allow=allow)
        except SourceError as error:  # whose remedies load one model, where a list of names is given here
            faults = [replace(one, remedy=_LOADED.sub(r"\1", one.remedy)) for one in error.mismatches]
            raise type(error)(error.summary, faults) from error

    @cached_property
    def fingerprint(self) -> str:
        """What tells a candidate from another one of the same name; empty for a model of a zoo by its own name."""
        if isinstance(self.what, nn.Module):
            return of_module(self.what)
        return ("" if self.what == self.name else self.what) + of_code(self.what)


def find_candidates(candidates: Candidates) -> tuple[Candidate, ...]:
    """Every candidate once, patterns such as `timm:resnet*` spelt out.

    Raises:
        RankingError: A pattern fits no model, or there is no candidate at all.

    Example:
        >>> [one.name for one in find_candidates(["torchvision:resnet1*", nn.Identity()])]
        ['torchvision:resnet101', 'torchvision:resnet152', 'torchvision:resnet18', 'Identity']
    """
    found: dict[str, Candidate] = {}
    if isinstance(candidates, Mapping):
        named = [*candidates.items()]
    else:
        several = [candidates] if isinstance(candidates, (str, nn.Module)) else candidates
        if not isinstance(several, Iterable) or isinstance(several, type):
            fault = Mismatch("candidates", "names or modules", repr(several)[:40], '["timm:resnet18", module]')
            raise RankingError("these are no candidates", [fault])
        named = [(_name(what), what) for what in several]
    for name, what in named:
        if isinstance(what, str) and any(sign in what for sign in "*?["):
            found |= {source: Candidate(source, source) for source in _expanded(what)}
        elif isinstance(what, (str, nn.Module)):
            own = name if isinstance(what, str) else _unused(name, found)
            found[own] = Candidate(own, what)
        else:
            fault = Mismatch(repr(what)[:40], "a name or a module", type(what).__name__, '["timm:resnet18", module]')
            raise RankingError("this is no candidate", [fault])
    if not found:
        raise RankingError("there are no candidates", [Mismatch("candidates", "one", "none", '"timm:resnet*"')])
    return tuple(found.values())


def _name(what: object) -> str:
    return what if isinstance(what, str) else type(what).__name__


def _unused(name: str, taken: Iterable[str]) -> str:
    """A name with a number behind it where there is one like it already."""
    known = set(taken)
    options = (f"{name}-{number}" if number > 1 else name for number in range(1, len(known) + 2))
    return next(option for option in options if option not in known)


def _expanded(pattern: str) -> list[str]:
    found = list_models(pattern)
    if not found:
        scheme, colon, name = pattern.partition(":")
        known = list_models(f"{scheme}:*") if colon and scheme in schemes() else []
        near = nearest(name.strip("*?"), [model.partition(":")[2] for model in known], count=1)
        remedy = f"{scheme}:{near[0]}*" if near else "timm:resnet*"
        raise RankingError(
            f"no model fits {pattern}", [Mismatch(pattern, "a pattern of names", "no such name", remedy)]
        )
    return found
