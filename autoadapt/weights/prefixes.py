"""A prefix: what one side of a set of names has in front and the other has not, or has otherwise.

Solved by the weight of the tensors that fit when it is exchanged, never by a list of known words.
"""

from __future__ import annotations

import heapq
import re
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import TypeAlias

from autoadapt.errors import Mismatch, TransferError
from autoadapt.weights.tensor_specs import Spec, parent

Same: TypeAlias = Callable[[Spec, Spec], bool]

_VOTES_PER_NAME = 8  # a suffix that more names share than this says nothing (`conv1.weight`)
_CANDIDATES = 12
_NUMBER = re.compile(r"\d+")
_AVERAGED = re.compile(r"(^|[._])(ema|averaged?|swa|momentum|shadow)([._]|$)", re.IGNORECASE)


@dataclass(frozen=True)
class Exchange:
    """A source prefix, the target prefix it becomes, and the names that fit then.

    Args:
        source: Taken from the front of a source name, with its separator; may be empty.
        target: Put there instead.
        pairs: Source and target names, in source order.
        elements: Elements of the pairs whose shapes are equal.
        doubles: Source names of the same values that are left for those that are taken.
        numbered: Whether modules with other numbers in their names are taken alike.
    """

    source: str
    target: str
    pairs: tuple[tuple[str, str], ...]
    elements: int
    doubles: tuple[tuple[str, str], ...] = ()
    numbered: bool = False

    @property
    def score(self) -> tuple[int, int]:
        """What decides: elements that fit, then names that fit."""
        return self.elements, len(self.pairs)

    @property
    def averaged(self) -> bool:
        """Whether the source prefix says that these are averaged weights."""
        return _AVERAGED.search(self.source) is not None

    def __str__(self) -> str:
        match (self.source, self.target):
            case ("", ""):
                return "exact"
            case (source, ""):
                return f'prefix "{source}" removed'
            case ("", target):
                return f'prefix "{target}" added'
            case (source, target):
                source, target = (_NUMBER.sub("*", one) if self.numbered else one for one in (source, target))
                return f'prefix "{source}" became "{target}"'
        raise AssertionError  # pragma: no cover

    def rule(self) -> str:
        """The exchange as an argument that can be pasted."""
        return f'rename={{r"^{re.escape(self.source)}": "{self.target}"}}'

    def rivals(self, other: Exchange) -> bool:
        """Whether both want the same tensors for something else, and fit as well."""
        if not self.elements or self.score != other.score or self.pairs == other.pairs:
            return False
        sources, targets = (set(side) for side in zip(*self.pairs, strict=True))
        return any(source in sources or target in targets for source, target in other.pairs)


def exchanges(sources: Mapping[str, Spec], targets: Mapping[str, Spec], separator: str) -> list[Exchange]:
    """The most promising exchanges, best first; ties in order of the prefixes' lengths, then names.

    Args:
        sources: Tensors by their names, possibly rewritten.
        targets: The same of the model.
        separator: What stands between segments; none means that only whole names compare.
    """
    votes = _votes(sources, targets, separator)
    order = lambda pair: (-votes[pair], len(pair[0]) + len(pair[1]), pair)  # noqa: E731
    tried = (_exchange(*pair, sources, targets) for pair in heapq.nsmallest(_CANDIDATES, votes, key=order))
    found = [exchange for exchange in tried if exchange.pairs]
    return sorted(found, key=lambda e: (-e.score[0], -e.score[1], len(e.source) + len(e.target), e.source))


def best_exchange(
    sources: Mapping[str, Spec],
    targets: Mapping[str, Spec],
    separator: str = ".",
    whole: int = 0,
    same: Same = lambda first, second: False,
) -> tuple[Exchange | None, list[str]]:
    """The one exchange that fits best, and remarks on what was passed over.

    Args:
        sources: Tensors by their names, possibly rewritten.
        targets: The same of the model.
        separator: What stands between segments.
        whole: Elements of the smaller side, with what was paired before.
        same: Whether two names of one side stand for the same values; asked only where two exchanges fit equally well.

    Raises:
        TransferError: If two fit equally well and none of them is an averaged copy.

    Example:
        >>> model = {"conv.weight": Spec("conv.weight", (8, 3, 3, 3))}
        >>> found, _ = best_exchange({"module.conv.weight": Spec("", (8, 3, 3, 3))}, model)
        >>> print(found)
        prefix "module." removed
    """
    # Every vote of names that are no prefix apart is for the empty pair, so exact names come along.
    found = [e for e in exchanges(sources, targets, separator) if _credible(e, min(len(sources), len(targets)), whole)]
    if not found:
        return None, []
    equal = [found[0], *(e for e in found[1:] if e.rivals(found[0]))]
    plain = [e for e in equal if not e.averaged]
    if len(plain) > 1 and all(_twins(plain[0], other, sources, targets, same) for other in plain[1:]):
        taken = {target: source for source, target in plain[0].pairs}
        doubles = {source: taken[target] for e in plain[1:] for source, target in e.pairs if target in taken}
        remarks = [f"{e} fits as well, with the same values" for e in plain[1:]]
        return replace(plain[0], doubles=tuple(doubles.items())), remarks
    if len(plain) == 1 or len(equal) == 1:
        best = plain[0] if plain else equal[0]
        remarks = [_also(e) for e in equal if e is not best]
        return _with_other_numbers(best, sources, targets) if separator else best, remarks
    raise TransferError("two prefixes fit equally well", [_ambiguity(plain or equal)])


def _with_other_numbers(exchange: Exchange, sources: Mapping[str, Spec], targets: Mapping[str, Spec]) -> Exchange:
    """The exchange, with modules that have other numbers: where `stage2.` became `layer2.`, `stage1.` is `layer1.`.

    Only whole ones, whose names and shapes all agree.
    """
    numbers = _NUMBER.findall(exchange.source)
    if not numbers or numbers != _NUMBER.findall(exchange.target):
        return exchange
    pattern = re.compile(r"\d+".join(map(re.escape, _NUMBER.split(exchange.source))))
    fronts = {found[0] for name in sources if (found := pattern.match(name))} - {exchange.source}
    pairs = list(exchange.pairs)
    for front in sorted(fronts):
        words, given = _NUMBER.split(exchange.target), [*_NUMBER.findall(front), ""]
        other = _exchange(front, "".join(map("".join, zip(words, given, strict=True))), sources, targets)
        sides = ((sources, other.source), (targets, other.target))
        counts = {sum(name.startswith(one) for name in side) for side, one in sides}
        same = all(sources[old].shape == targets[new].shape for old, new in other.pairs)
        pairs += other.pairs if same and counts == {len(other.pairs)} else ()
    return replace(exchange, pairs=tuple(pairs), numbered=len(pairs) > len(exchange.pairs))


def _twins(
    first: Exchange, second: Exchange, sources: Mapping[str, Spec], targets: Mapping[str, Spec], same: Same
) -> bool:
    """Whether two exchanges come to the same: a module stored under two names."""
    if first.source != second.source and first.target == second.target:
        others = {target: source for source, target in second.pairs}
        both = [(sources[source], sources[others[target]]) for source, target in first.pairs if target in others]
    elif first.source == second.source:
        others = dict(second.pairs)
        both = [(targets[target], targets[others[source]]) for source, target in first.pairs if source in others]
    else:
        return False
    return len(both) == len(first.pairs) and all(same(a, b) for a, b in both)


def _also(exchange: Exchange) -> str:
    scope = exchange.source.rstrip("._")
    return f'"{exchange.source}" fits as well (averaged weights): scope="{scope}" takes it'


def _ambiguity(equal: list[Exchange]) -> Mismatch:
    first, second = equal[:2]
    is_scope = first.target == second.target
    remedies = [f'scope="{e.source.rstrip("._")}"' if is_scope else e.rule() for e in equal]
    return Mismatch("names", "one prefix that fits best", ", ".join(map(str, equal)), "\n".join(remedies))


def _credible(exchange: Exchange, names: int, whole: int) -> bool:
    """Whether an exchange explains enough to be believed.

    A prefix put on or taken off leaves whole names equal, which is evidence enough where shapes
    are equal too, and for most of a side even where they are not. One that becomes another must
    explain half of the smaller side: else `blocks.12.` of a deeper model would become `layers.5.`.
    One layer of several is no prefix but another word: else `fc1.` would become `linear2.`.
    """
    if not (exchange.source and exchange.target):
        return exchange.elements > 0 or 2 * len(exchange.pairs) >= names
    layers = {parent(source) for source, _ in exchange.pairs}
    is_prefix = len(layers) > 1 or len(exchange.pairs) == names
    return exchange.elements > 0 and 2 * exchange.elements >= whole and is_prefix


def _votes(sources: Mapping[str, Spec], targets: Mapping[str, Spec], separator: str) -> dict[tuple[str, str], int]:
    """How many elements speak for each pair of prefixes: longest common suffixes vote."""
    ends: dict[str, list[str]] = {}
    for name in targets:
        for end in ends_of(name, separator):
            if (found := ends.get(end)) is None:
                ends[end] = [name]
            elif len(found) <= _VOTES_PER_NAME:
                found.append(name)
    votes: dict[tuple[str, str], int] = defaultdict(int)
    for name, spec in sources.items():
        known = [end for end in ends_of(name, separator) if end in ends]
        for end in known:
            for target in _voters(ends[end], end, end == known[0], targets):
                fits = spec.shape == targets[target].shape
                votes[name[: len(name) - len(end)], target[: len(target) - len(end)]] += spec.numel * fits + 1
    return votes


def _voters(found: list[str], end: str, longest: bool, targets: Mapping[str, Spec]) -> list[str]:
    # A shorter suffix votes only where it is a whole target name: a prefix to take off.
    if longest and len(found) <= _VOTES_PER_NAME:
        return found
    return [end] if end in targets else []


def ends_of(name: str, separator: str) -> list[str]:
    """A name and all its suffixes that start at a segment, longest first."""
    ends = [name]
    while separator and (name := name.partition(separator)[2]):
        ends.append(name)
    return ends


def _exchange(old: str, new: str, sources: Mapping[str, Spec], targets: Mapping[str, Spec]) -> Exchange:
    named = [(name, new + name[len(old) :]) for name in sources if name.startswith(old)]
    pairs = tuple((name, turned) for name, turned in named if turned in targets)
    elements = sum(sources[s].numel for s, t in pairs if sources[s].shape == targets[t].shape)
    return Exchange(old, new, pairs, elements)
