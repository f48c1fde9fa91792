"""Respelling: rules by which names left on both sides would agree, found to be offered and never applied unasked.

A rule replaces some segments of a name by others (`gamma` by `weight`, `q_bias` by `query.bias`). It counts only
where every tensor that it renames has a place of the same shape, and where no other rule does as well.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from autoadapt.weights.tensor_specs import Spec, parent

_LONGEST = 3  # segments that a rule replaces at most
_RULES = 6
_TRIED = 40  # candidates; each is applied to all names
_ALIKE = 64  # places that differ in a few segments alone; of more, none is told by them
_DIGITS = re.compile(r"\d+")
# Words of old and of other libraries whose shapes do not tell them apart, as a scale and an offset.
_KNOWN = {
    ("gamma", "weight"),
    ("beta", "bias"),
    ("moving_mean", "running_mean"),
    ("moving_variance", "running_var"),
    ("q_bias", "query.bias"),
    ("k_bias", "key.bias"),
    ("v_bias", "value.bias"),
    ("q_bias", "q.bias"),
    ("v_bias", "v.bias"),
}


@dataclass(frozen=True)
class Respelling:
    """A rule and the names it would bring together.

    Args:
        old: Dotted segments.
        new: What they become.
        pairs: Names of the source and of the model.
    """

    old: str
    new: str
    pairs: tuple[tuple[str, str], ...]

    @property
    def regex(self) -> tuple[str, str]:
        """The rule as an entry of `rename`."""
        at_end = [source.endswith(f".{self.old}") or source == self.old for source, _ in self.pairs]
        end, stop = ("$", "") if all(at_end) else (r"(?=\.|$)", "") if any(at_end) else (r"\.", ".")
        return rf"(^|\.){re.escape(self.old)}{end}", rf"\1{self.new}{stop}"

    def apply(self, name: str) -> str:
        """What the rule makes of a name."""
        return re.sub(*self.regex, name)


def rename_text(rules: Sequence[tuple[str, str]]) -> str:
    """Rules as an argument that can be pasted.

    Example:
        >>> rename_text([(r"(^|\\.)gamma$", r"\\1weight")])
        'rename={r"(^|\\\\.)gamma$": r"\\\\1weight"}'
    """
    return "rename={" + ", ".join(f'r"{old}": r"{new}"' for old, new in rules) + "}"


def respellings(
    sources: Mapping[str, Spec], targets: Mapping[str, Spec], settled: Mapping[str, str]
) -> list[Respelling]:
    """Rules that settle names left on both sides, the most telling first; none where they settle less than two.

    Args:
        sources: Left in the checkpoint.
        targets: Left in the model.
        settled: Names that agree already, by the front parts of which others are read.

    Example:
        >>> old = {f"norm{i}.{leaf}": Spec("", (8,)) for i in (1, 2) for leaf in ("gamma", "beta")}
        >>> new = {f"norm{i}.{leaf}": Spec("", (8,)) for i in (1, 2) for leaf in ("weight", "bias")}
        >>> [(rule.old, rule.new, len(rule.pairs)) for rule in respellings(old, new, {})]
        [('beta', 'bias', 2), ('gamma', 'weight', 2)]
    """
    before, after = _front(settled)
    names = {name.removeprefix(before): name for name in sources}
    places = {name.removeprefix(after): name for name in targets}
    left, free = {n: sources[old] for n, old in names.items()}, {n: targets[old] for n, old in places.items()}
    found: list[Respelling] = []
    taken = {name.removeprefix(before) for name in settled}
    while left and free and len(found) < _RULES:
        rule = _best(_candidates(left, free), left, free, taken)
        if rule is None:
            break
        pairs = tuple((names[source], places[target]) for source, target in rule.pairs)
        found.append(Respelling(rule.old, rule.new, pairs))
        for source, target in rule.pairs:
            del left[source], free[target]
            taken.add(target)  # which later rules must not rename
        names = {rule.apply(name): names[name] for name in left}  # the rules of a rename are applied in turn
        left = {name: sources[old] for name, old in names.items()}
    found = _in_order(found)
    return found if sum(len(rule.pairs) for rule in found) > 1 else []


def _in_order(rules: Sequence[Respelling]) -> list[Respelling]:
    """Rules without those whose numbers change their order, as `fc1` to `linear2` and `fc2` to `linear1`."""
    groups: dict[tuple[str, str], list[Respelling]] = defaultdict(list)
    for rule in rules:
        groups[_masked(rule.old), _masked(rule.new)].append(rule)
    kept = []
    for group in groups.values():
        numbers = sorted([list(map(int, _DIGITS.findall(words))) for words in (r.old, r.new)] for r in group)
        after = [new for _, new in numbers]
        kept += group if after == sorted(after) else []
    return [rule for rule in rules if rule in kept]


def _front(settled: Mapping[str, str]) -> tuple[str, str]:
    """The front part that most settled names changed."""
    fronts: Counter[tuple[str, str]] = Counter()
    for source, target in settled.items():
        a, b = source.split("."), target.split(".")
        same = 0
        while same < min(len(a), len(b)) and a[-1 - same] == b[-1 - same]:
            same += 1
        fronts["".join(f"{s}." for s in a[: len(a) - same]), "".join(f"{s}." for s in b[: len(b) - same])] += 1
    return fronts.most_common(1)[0][0] if fronts else ("", "")


def _holes(name: str) -> Iterator[tuple[tuple[str, str], str]]:
    """All ways to take a few segments out of a name: what is left, and what was taken."""
    segments = name.split(".")
    for start in range(len(segments)):
        for stop in range(start + 1, min(start + _LONGEST, len(segments)) + 1):
            middle = segments[start:stop]
            if not any(segment.isdigit() for segment in middle):
                yield (".".join(segments[:start]), ".".join(segments[stop:])), ".".join(middle)


def _candidates(left: Mapping[str, Spec], free: Mapping[str, Spec]) -> Counter[tuple[str, str]]:
    """Replacements by the number of names of equal shape that they would bring together."""
    by_rest: dict[tuple[str, str], list[tuple[str, str]]] = defaultdict(list)
    for name in free:
        for rest, middle in _holes(name):
            by_rest[rest].append((middle, name))
    votes: Counter[tuple[str, str]] = Counter()
    for name, spec in left.items():
        for rest, middle in _holes(name):
            alike = by_rest.get(rest, ())
            for other, target in alike if len(alike) <= _ALIKE else ():
                if spec.shape == free[target].shape and _smallest(middle, other):
                    votes[middle, other] += 1
    return votes


def _smallest(old: str, new: str) -> bool:
    """Whether no segment at either end is common to both, to be left out of the rule; and no bias becomes a weight."""
    a, b = old.split("."), new.split(".")
    if {a[-1], b[-1]} == {"weight", "bias"}:
        return False
    return (a[0] != b[0] and a[-1] != b[-1]) or (len(a) != len(b) and min(len(a), len(b)) == 1 and a[0] != b[0])


def _best(
    votes: Counter[tuple[str, str]], left: Mapping[str, Spec], free: Mapping[str, Spec], taken: set[str]
) -> Respelling | None:
    """The rule that brings the most names together, if there is no other of the kind."""
    order = sorted(votes, key=lambda rule: (rule not in _KNOWN, -votes[rule], rule))[:_TRIED]
    for rule in order:
        found = _applied(rule, left, free, taken)
        if found is not None and (rule in _KNOWN or (not _rivalled(rule, votes) and _telling(found, left, free))):
            return found
    return None


def _telling(rule: Respelling, left: Mapping[str, Spec], free: Mapping[str, Spec]) -> bool:
    """Whether a rule is more than chance: of several layers, or of as many tensors as are left with their shapes."""
    if len(rule.pairs) == 1:
        shape = left[rule.pairs[0][0]].shape
        return all(sum(spec.shape == shape for spec in side.values()) == 1 for side in (left, free))
    return _same_digits((rule.old, rule.new)) or as_many(rule.pairs, left, free)


def as_many(pairs: Sequence[tuple[str, str]], left: Mapping[str, Spec], free: Mapping[str, Spec]) -> bool:
    """Whether pairs are told by more than the shapes of one layer, or no other tensor has these shapes.

    Layers that differ by their numbers alone count as one: what is chance in a block is so in all.

    Args:
        pairs: Names of the two sides.
        left: All names of the one side.
        free: All of the other.
    """
    if len({_masked(parent(source)) for source, _ in pairs}) > 1:
        return True
    shape = max((left[source] for source, _ in pairs), key=lambda spec: spec.numel).shape
    alike = [[name for name, spec in side.items() if spec.shape == shape] for side in (left, free)]
    return len(alike[0]) == len(alike[1]) and all(len(set(map(_masked, names))) == 1 for names in alike)


def _masked(name: str) -> str:
    return _DIGITS.sub("0", name)


def _rivalled(rule: tuple[str, str], votes: Counter[tuple[str, str]]) -> bool:
    """Whether another rule has the same old or new words and settles as much; numbers in the words decide."""
    rivals = [other for other in votes if other != rule and (other[0] == rule[0] or other[1] == rule[1])]
    rivals = [other for other in rivals if votes[other] >= votes[rule]]
    return bool(rivals) and not (_same_digits(rule) and not any(map(_same_digits, rivals)))


def _same_digits(rule: tuple[str, str]) -> bool:
    old, new = (_DIGITS.findall(words) for words in rule)
    return bool(old) and old == new


def _applied(
    rule: tuple[str, str], left: Mapping[str, Spec], free: Mapping[str, Spec], taken: set[str]
) -> Respelling | None:
    """What a rule does to all names; nothing if it would rename one that has its place, or give one a wrong place."""
    inner = re.compile(rf"(?<![^.]){re.escape(rule[0])}(?![^.])")
    if any(inner.search(name) for name in taken):
        return None
    pairs = []
    for name, spec in left.items():
        target = inner.sub(lambda _: rule[1], name)
        if target == name:
            continue
        if target in free and free[target].shape == spec.shape:
            pairs.append((name, target))
        elif target in free or target in taken:
            return None
    targets = {target for _, target in pairs}
    return Respelling(*rule, tuple(pairs)) if pairs and len(targets) == len(pairs) else None
