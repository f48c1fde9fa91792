"""Names: which tensor of the model each tensor of the checkpoint is, in stages that can be seen.

    rule      the user's rewrites
    exact     the same name
    prefix    one prefix for all, and built-in dialects where they explain more
    suffix    one name is the dotted end of the other, no third one is, and not both have the module in front

No stage takes back what an earlier one decided; each target gets one source at most.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from autoadapt.errors import Mismatch, TransferError
from autoadapt.weights.dialects import DIALECTS, PLAIN, WRAPPERS, Dialect, rewrite
from autoadapt.weights.prefixes import Exchange, Same, best_exchange, ends_of, exchanges
from autoadapt.weights.renaming import Renaming
from autoadapt.weights.tensor_specs import Spec, parent


@dataclass
class Pairing:
    """Pairs of names as they are found.

    Args:
        sources: Tensors of the checkpoint without a place, by name.
        targets: Tensors of the model without a source, by name.
        pairs: Target and stage, by source name.
        remarks: What a person should know about a choice.
        same: Whether two tensors of one side have the same values; asked only where names do not decide.
        twins: Source names of the same values that were left for those that were taken.
        whole: Elements of the smaller side at the start.
    """

    sources: dict[str, Spec]
    targets: dict[str, Spec]
    pairs: dict[str, tuple[str, str]] = field(default_factory=dict)
    remarks: list[str] = field(default_factory=list)
    same: Same = lambda first, second: False
    twins: dict[str, str] = field(default_factory=dict)
    whole: int = field(init=False)

    def __post_init__(self) -> None:
        self.whole = min(sum(spec.numel for spec in side.values()) for side in (self.sources, self.targets))

    def settle(self, pairs: Iterable[tuple[str, str]], stage: str) -> None:
        """Fix pairs; both ends are free no more."""
        for source, target in pairs:
            self.pairs[source] = (target, stage)
            del self.sources[source], self.targets[target]


def pair_by_name(
    sources: Sequence[Spec],
    targets: Sequence[Spec],
    renaming: Renaming,
    same: Same = lambda first, second: False,
) -> Pairing:
    """Pair two lists of tensors by their names.

    Raises:
        TransferError: If a rule gives two tensors one name, or two prefixes fit equally well.

    Example:
        >>> found = pair_by_name([Spec("module.fc.bias", (10,))], [Spec("fc.bias", (10,))], Renaming())
        >>> found.pairs
        {'module.fc.bias': ('fc.bias', 'prefix "module." removed')}
    """
    pairing = Pairing({spec.name: spec for spec in sources}, {spec.name: spec for spec in targets}, same=same)
    names = dict(zip(pairing.sources, rewrite(pairing.sources, renaming.rules), strict=True))
    _refuse_duplicates(names, pairing.targets)
    rewritten = [(old, new) for old, new in names.items() if new != old and new in pairing.targets]
    pairing.settle(rewritten, "rule")
    pairing.settle([(n, n) for n in names if n in pairing.targets and names[n] == n], "exact")
    _settle_best_view(pairing, names, renaming.dialects)
    _settle_suffixes(pairing, names)
    return pairing


def prefix_hint(sources: Iterable[Spec], targets: Iterable[Spec]) -> Exchange | None:
    """The exchange of prefixes that would pair the most names, however little it explains; none where two do."""
    left = {spec.name: spec for spec in sources}
    right = {spec.name: spec for spec in targets}
    found = [e for e in exchanges(left, right, ".") if e.source or e.target]
    return found[0] if found and not any(e.rivals(found[0]) for e in found[1:]) else None


def _refuse_duplicates(names: Mapping[str, str], targets: Mapping[str, Spec]) -> None:
    owners: dict[str, list[str]] = defaultdict(list)
    for old, new in names.items():
        owners[new].append(old)
    doubled = {new: old for new, old in owners.items() if len(old) > 1 and new in targets}
    if doubled:
        faults = [
            Mismatch(
                new,
                "one tensor of the checkpoint",
                ", ".join(old),
                f'exclude=["{old[0]}"], or a pattern in rename that tells them apart',
            )
            for new, old in doubled.items()
        ]
        raise TransferError("a rule of rename gives two tensors one name", faults)


def _settle_best_view(pairing: Pairing, names: Mapping[str, str], asked: tuple[Dialect, ...]) -> None:
    """Look at the names through each dialect; keep the view through which most elements fit."""
    if not pairing.sources or not pairing.targets:
        return
    free = {old: names[old] for old in pairing.sources}
    unwrapped = dict(zip(free, WRAPPERS.common(free.values()), strict=True))
    best = None
    for dialect in asked or (PLAIN, *DIALECTS):
        before = free if dialect in (PLAIN, WRAPPERS) else unwrapped
        view = _view(pairing, before, dialect, unless=free if asked else before)
        if dialect is not PLAIN and not asked and view is not None and not _convincing(view, pairing):
            continue
        if view is not None and (best is None or view.exchange.score > best.exchange.score):
            best = view
        if best is not None and len(best.exchange.pairs) == min(len(pairing.sources), len(pairing.targets)):
            break
    settled = [(names[old], new) for old, (new, _) in pairing.pairs.items()]
    if best is not None and (not best.exchange.pairs or [*_without_lent(best.pairs(), settled)]):
        pairing.remarks += best.remarks
        doubles = best.exchange.doubles
        pairing.twins |= {best.sources[left]: best.sources[taken] for left, taken in doubles if left != taken}
        pairing.settle(best.pairs(), best.stage())


def _convincing(view: _View, pairing: Pairing) -> bool:
    """Whether a dialect that nobody asked for explains most of a side, not a few chance likenesses."""
    whole = min(sum(spec.numel for spec in side.values()) for side in (pairing.sources, pairing.targets))
    return 2 * view.exchange.elements >= whole


@dataclass(frozen=True)
class _View:
    """Both sides in a dialect's common spelling, and the exchange of prefixes that fits best there."""

    dialect: str
    sources: Mapping[str, str]
    targets: Mapping[str, str]
    exchange: Exchange
    remarks: list[str]

    def pairs(self) -> list[tuple[str, str]]:
        return [(self.sources[source], self.targets[target]) for source, target in self.exchange.pairs]

    def stage(self) -> str:
        parts = [f"dialect {self.dialect}"] if self.dialect else []
        if self.exchange.source or self.exchange.target:
            parts.append(str(self.exchange))
        return ", ".join(parts)


def _view(pairing: Pairing, names: Mapping[str, str], dialect: Dialect, unless: Mapping[str, str]) -> _View | None:
    """How the free names look in one spelling.

    Args:
        pairing: Its free names.
        names: The sources, possibly rewritten.
        dialect: The spelling.
        unless: How the sources looked before; where they still do, and the targets too, there is no view.
    """
    spelt = dict(zip(names, dialect.common(names.values()), strict=True))
    spelt_targets = dict(zip(pairing.targets, dialect.common(pairing.targets), strict=True))
    if dialect is not PLAIN and spelt == unless and all(old == new for old, new in spelt_targets.items()):
        return None
    sources, targets = _unique(spelt), _unique(spelt_targets)
    specs = {name: pairing.sources[old] for name, old in sources.items()}
    places = {name: pairing.targets[old] for name, old in targets.items()}
    exchange, remarks = best_exchange(specs, places, dialect.joiner, pairing.whole, pairing.same)
    if exchange is None:
        return None
    plain = dict(zip(spelt.values(), rewrite(names.values(), dialect.rules), strict=True))
    if dialect.joiner != "." and not _flattened(exchange, plain, targets):
        return None
    return _View(dialect.name, sources, targets, exchange, remarks)


def _flattened(exchange: Exchange, sources: Mapping[str, str], targets: Mapping[str, str]) -> bool:
    """Whether names agree because one side writes dots otherwise, not because `query_a` ends as `value_a` does.

    Args:
        exchange: Of names in a spelling without dots.
        sources: The names before their dots were taken, by this spelling.
        targets: The same of the model.
    """
    ends = [
        (sources[source][len(exchange.source) :], targets[target][len(exchange.target) :])
        for source, target in exchange.pairs
    ]
    apart = not (exchange.source and exchange.target)
    return apart and all("." not in old or "." not in new for old, new in ends) and any(a != b for a, b in ends)


def _unique(spelt: Mapping[str, str]) -> dict[str, str]:
    """Names by their spelling; spellings that two names share identify neither."""
    counts = Counter(spelt.values())
    return {spelling: name for name, spelling in spelt.items() if counts[spelling] == 1}


def _settle_suffixes(pairing: Pairing, names: Mapping[str, str]) -> None:
    """Pair what is left where one name ends in the other, shapes are equal, and no third name does."""
    claims = _suffix_claims(pairing, names)
    settled = [(names[old], new) for old, (new, _) in pairing.pairs.items()]
    own = set(_without_lent([(names[old], new) for old, new, _ in claims], settled))
    claims = [(old, new, length) for old, new, length in claims if (names[old], new) in own]
    wooers: dict[str, list[tuple[int, str]]] = defaultdict(list)
    wooed: dict[str, list[tuple[int, str]]] = defaultdict(list)
    for source, target, length in claims:
        wooers[target].append((length, source))
        wooed[source].append((length, target))
    pairs = [
        (source, target)
        for source, target, _ in claims
        if _only_longest(wooed[source]) == target and _only_longest(wooers[target]) == source
    ]
    pairing.settle(pairs, "suffix")


def _without_lent(pairs: Iterable[tuple[str, str]], settled: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Pairs of which one is the end of the other, without those of a single layer in a module that both sides have.

    Where both have an `attn`, `attn.output.weight` is not the `output.weight` of another place.

    Args:
        pairs: Names of the two sides.
        settled: Names that have found each other.
    """
    turned = [(new, old) for old, new in settled]
    groups: dict[tuple[str, bool], list[tuple[str, str]]] = defaultdict(list)
    for old, new in pairs:
        longer = len(old) > len(new)
        groups[old.removesuffix(new) if longer else new.removesuffix(old), longer].append((old, new))
    for (front, longer), group in groups.items():
        single = len({parent(old) for old, _ in group}) == 1
        if not (single and _has_own(front, settled if longer else turned)):
            yield from group


def _has_own(front: str, settled: Iterable[tuple[str, str]]) -> bool:
    """Whether the other side has a module too, whose name it does not leave out."""
    return bool(front) and any(long.startswith(front) and long != front + short for long, short in settled)


def _suffix_claims(pairing: Pairing, names: Mapping[str, str]) -> list[tuple[str, str, int]]:
    by_name = {names[old]: old for old in pairing.sources}
    claims: dict[tuple[str, str], int] = {}
    for name, old in by_name.items():
        for end in ends_of(name, ".")[:-1]:  # the last segment alone says nothing
            if end in pairing.targets and pairing.targets[end].shape == pairing.sources[old].shape:
                claims[old, end] = len(end)
    for target, spec in pairing.targets.items():
        for end in ends_of(target, ".")[:-1]:
            if end in by_name and pairing.sources[by_name[end]].shape == spec.shape:
                claims[by_name[end], target] = len(end)
    return [(source, target, length) for (source, target), length in claims.items()]


def _only_longest(found: list[tuple[int, str]]) -> str | None:
    longest = max(length for length, _ in found)
    names = {name for length, name in found if length == longest}
    return names.pop() if len(names) == 1 else None
