"""Guards: what must hold before anything is written, and hints for when it does not."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence

from autoadapt.errors import CoverageError, Mismatch, TransferError, nearest
from autoadapt.weights.deltas import WITH_BASE, is_delta
from autoadapt.weights.made_tensors import Recipe
from autoadapt.weights.names import prefix_hint
from autoadapt.weights.order import pair_by_order
from autoadapt.weights.prefixes import Exchange
from autoadapt.weights.recipes import find_recipes
from autoadapt.weights.respelling import as_many, rename_text, respellings
from autoadapt.weights.results import Transfer
from autoadapt.weights.summary import percent
from autoadapt.weights.tensor_specs import Spec, parent

_DIGITS = re.compile(r"\d+")
# What the reasons of refused tensors ask for, since the policy that was given could not tell.
_POLICY = re.compile(r'shapes "(\w+)"')
_OF_EACH = "keep says which rows of each"
_ASKS_ROWS = re.compile(r"keep says|keep names|in front of them or behind")


def check_arguments(match: str, min_coverage: float) -> None:
    """Refuse unknown ways to match and shares that are none."""
    faults = []
    if match not in ("names", "order"):
        close = nearest(match, ("names", "order"), count=1) or ["names"]
        faults.append(Mismatch("match", '"names" or "order"', repr(match), f'match="{close[0]}"'))
    if not 0 <= min_coverage <= 1:
        faults.append(Mismatch("min_coverage", "a share between 0 and 1", str(min_coverage), "min_coverage=0.9"))
    if faults:
        raise TransferError("an argument is wrong", faults)


def guard(report: Transfer, min_coverage: float, sources: Sequence[Spec], targets: Sequence[Spec], match: str) -> None:
    """Refuse a total miss, and less than was asked for.

    Args:
        report: What would be done.
        min_coverage: The least share of the parameters.
        sources: The tensors of the checkpoint that the caller wants.
        targets: The tensors of the model.
        match: The way names were paired.

    Raises:
        CoverageError: If nothing or too little would be loaded.
    """
    counted = [entry for entry in report.targets if entry.parameter] or report.targets
    if not any(entry.taken for entry in counted):
        fault = _total_miss(report, sources, targets, match)
        raise CoverageError(f"a total miss: none of {len(report.sources)} tensors would be loaded", [fault])
    if report.coverage < min_coverage:
        share = percent(report.coverage)
        raise CoverageError(
            f"would load {share} of the parameters, less than min_coverage={min_coverage}", report.faults()
        )


def _total_miss(report: Transfer, sources: Sequence[Spec], targets: Sequence[Spec], match: str) -> Mismatch:
    where = f"{report.source} -> {report.model}"
    refused = [entry for entry in report.sources if entry.bucket == "mismatched"]
    if refused:
        found = f"{len(refused)} names agree, none of their shapes; {refused[0].target}: {refused[0].how}"
        return Mismatch(where, "shapes that agree", found, _shape_remedy(report, sources))
    excluded = report.source_counts.get("excluded", 0)
    if excluded == len(report.sources):
        return Mismatch(where, "something to load", f"all {excluded} tensors left out", "include=, exclude=, scope=")
    if all(is_delta(entry.name) for entry in report.sources):
        return Mismatch(where, "weights", f"{len(report.sources)} deltas without the weights they belong to", WITH_BASE)
    hints = [*_order_hint(sources, targets, match), *_name_hints(sources, targets, {})]
    return Mismatch(where, "names that agree", _examples(sources, targets), "\n".join(hints))


def _shape_remedy(report: Transfer, sources: Sequence[Spec]) -> str:
    """What would load the tensors whose names agree: their rows, or their values times a scale."""
    if _made(sources, "quantised"):
        return 'merge="quantised"'
    shapes = {entry.name: entry.shape for entry in report.targets}
    refused = [e for e in report.sources if e.bucket == "mismatched" and e.target is not None]
    reasons = [e.how for e in refused]
    if policies := list(dict.fromkeys(policy for how in reasons for policy in _POLICY.findall(how))):
        each = _every_row(refused[0].target) + ", " if any(_OF_EACH in how for how in reasons) else ""
        return "\n".join(f'{each}shapes="{policy}"' for policy in policies)
    if any(_ASKS_ROWS.search(how) for how in reasons):
        return _every_row(refused[0].target)
    pairs = [(e.shape, shapes[e.target]) for e in refused if e.target is not None]
    return 'shapes="slice"' if any(len(old) == len(new) and old != new for old, new in pairs) else ""


def _every_row(name: str | None) -> str:
    return f'keep={{"{parent(name or "") or "*"}": [0, 1, None]}}'


def _examples(sources: Sequence[Spec], targets: Sequence[Spec]) -> str:
    left, right = (", ".join(spec.name for spec in specs[:2]) for specs in (sources, targets))
    return f"{left}, ...      in the checkpoint\n{right}, ...      in the model"


def _order_hint(sources: Sequence[Spec], targets: Sequence[Spec], match: str) -> list[str]:
    if match == "order" or len(sources) > _MOST_NAMES:
        return []
    try:
        count = len(pair_by_order(sources, targets))
    except TransferError:
        return []
    return [f'match="order"      all {count} tensors have the same shapes in the same order']


def _name_hints(sources: Sequence[Spec], targets: Sequence[Spec], settled: Mapping[str, str]) -> list[str]:
    """The rules of names that would bring the most together: other words, or another front part."""
    if max(len(sources), len(targets)) > _MOST_NAMES:
        return []
    rules = respellings({s.name: s for s in sources}, {t.name: t for t in targets}, settled)
    count = sum(len(rule.pairs) for rule in rules)
    exchange = prefix_hint(sources, targets)
    if exchange is not None and _telling(exchange, sources, targets) and len(exchange.pairs) >= count:
        return [f"{exchange.rule()}      {len(exchange.pairs)} names would agree"]
    return [f"{rename_text([rule.regex for rule in rules])}      {count} names would agree"] if rules else []


_MOST_NAMES = 20_000
"""Among which a rule is looked for."""


def _telling(exchange: Exchange, sources: Sequence[Spec], targets: Sequence[Spec]) -> bool:
    """Whether a prefix settles more than one tensor, most of a side, and only layers of the same kind and shapes.

    One layer may have other shapes, as that of the classes.
    """
    if len(exchange.pairs) < 2 or 4 * len(exchange.pairs) < min(len(sources), len(targets)):
        return False
    left, free = {spec.name: spec for spec in sources}, {spec.name: spec for spec in targets}
    fitting = [(source, target) for source, target in exchange.pairs if left[source].shape == free[target].shape]
    others = {parent(source) for source, target in exchange.pairs if (source, target) not in fitting}
    one = len({parent(source) for source, _ in exchange.pairs}) == 1
    if one and _DIGITS.findall(exchange.source) != _DIGITS.findall(exchange.target):
        return False  # another layer of the same kind, as `fc1.` and `linear2.`
    if len(others) > 1 or 2 * len(fitting) <= len(exchange.pairs) or not as_many(fitting, left, free):
        return False
    kinds = _kinds(sources), _kinds(targets)
    return all(kinds[0][parent(source)] == kinds[1][parent(target)] for source, target in exchange.pairs)


def _kinds(specs: Sequence[Spec]) -> dict[str, set[tuple[str, int]]]:
    """What a layer is made of, by its name: the last names of its tensors, with their axes; counters do not count."""
    kinds: dict[str, set[tuple[str, int]]] = defaultdict(set)
    for spec in specs:
        leaf = spec.name.rpartition(".")[2]
        kinds[parent(spec.name)] |= {(leaf, len(spec.shape))} if leaf != "num_batches_tracked" else set()
    return kinds


def leftover_hint(report: Transfer, own: Sequence[Spec], merges: Mapping[str, float | None]) -> str:
    """What would bring tensors together that are left on both sides: a merge, or a rule of names; empty if nothing.

    No rule is looked for among more names than any model has.

    Args:
        report: What would be done with what recipes have made.
        own: The tensors that the checkpoint itself holds.
        merges: The kinds of recipes that the caller asks for already.
    """
    if len(report.sources) > _MOST_NAMES:
        return ""
    sources = [Spec(e.name, e.shape, e.dtype) for e in report.sources if e.bucket == "unexpected"]
    targets = [Spec(e.name, e.shape, e.dtype) for e in report.targets if e.bucket == "missing" and not e.expected]
    helpful = _helpful(report, own, sources, targets)
    if helpful:
        return f"{_merge_text(dict.fromkeys(helpful) | dict(merges))}      {'; '.join(helpful.values())}"
    settled = {e.name: e.target for e in report.sources if e.target is not None}
    return "".join(_name_hints(sources, targets, settled)) if sources and targets else ""


def _helpful(report: Transfer, own: Sequence[Spec], sources: Sequence[Spec], targets: Sequence[Spec]) -> dict[str, str]:
    """The kinds of recipes that would settle something, with what they would do."""
    found = {}
    recipes = find_recipes(sources, targets, {"fused": None})
    wanted = {e.name for e in report.sources if e.bucket == "mismatched"} | {n for r in recipes for n in r.sources}
    scaled = wanted & {recipe.sources[0] for recipe in _made(own, "quantised")}
    if scaled:
        found["quantised"] = f"{len(scaled)} weights would be multiplied by their scale"
    deltas = {e.name for e in report.sources if e.bucket == "unexpected" and e.how == "a delta that is not merged"}
    if deltas and deltas == {name for recipe in _made(own, "lora", 1.0) for name in recipe.sources if is_delta(name)}:
        found["lora"] = "adds the deltas to their weights"
    if any(recipe.kind != "weight norm" for recipe in recipes):
        found["fused"] = f"{len(recipes)} tensors would be joined or split"
    return found


def _merge_text(kinds: Mapping[str, float | None]) -> str:
    """The argument that asks for kinds of recipes.

    Example:
        >>> _merge_text({"lora": None, "fused": None}), _merge_text({"lora": 2.0})
        ('merge=["lora", "fused"]', 'merge={"lora": 2.0}')
    """
    if any(scale is not None for scale in kinds.values()):
        pairs = ", ".join(f'"{kind}": {scale}' for kind, scale in kinds.items())
        return f"merge={{{pairs}}}"
    quoted = ", ".join(f'"{kind}"' for kind in kinds)
    return f"merge=[{quoted}]" if len(kinds) > 1 else f"merge={quoted}"


def _made(specs: Sequence[Spec], kind: str, scale: float | None = None) -> list[Recipe]:
    return [recipe for recipe in find_recipes(specs, (), {kind: scale}) if recipe.kind == kind]
