"""A summary: the entries of a transfer as a table of eighty columns."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from autoadapt.showing.tables import columns, human_count, page_width, paragraph, shorten
from autoadapt.weights.entries import ModelEntry, SourceEntry
from autoadapt.weights.patterns import merged
from autoadapt.weights.tensor_specs import shape_text

_GROUPS = 12
_LABEL = 44


def coverage(entries: Iterable[ModelEntry]) -> float:
    """Share of the parameters that came from the checkpoint.

    Buffers count only where there are no parameters.
    """
    counted = list(entries)
    counted = [e for e in counted if e.parameter] or counted
    whole = sum(e.numel for e in counted)
    return sum(e.taken for e in counted) / whole if whole else 1.0


def percent(share: float) -> str:
    """A share as text that never rounds up to all nor down to nothing.

    Example:
        >>> [percent(share) for share in (1.0, 0.9999, 0.5, 0.0001, 0.0)]
        ['100 %', '99.9 %', '50.0 %', '0.1 %', '0 %']
    """
    if share in (0.0, 1.0):
        return f"{share * 100:.0f} %"
    return f"{min(max(int(share * 1000) / 10, 0.1), 99.9):.1f} %"


def module_rows(entries: Sequence[ModelEntry]) -> list[str]:
    """One row a module; modules that came whole, or did not come at all, share one."""
    rows = [_row(label, group) for label, group in module_groups(entries)]
    if len(rows) > 2 * _GROUPS:
        rows = [*rows[: 2 * _GROUPS], (f"and {len(rows) - 2 * _GROUPS} more rows",)]
    return columns(rows, align="lrrl")


def module_groups(entries: Sequence[ModelEntry]) -> list[tuple[str, list[ModelEntry]]]:
    """The rows of `module_rows`: what to call the modules that share one, and all their entries."""
    modules: dict[str, list[ModelEntry]] = defaultdict(list)
    for label, entry in zip(_labels([e.name for e in entries]), entries, strict=True):
        modules[label].append(entry)
    groups: dict[str, list[str]] = defaultdict(list)
    for label, group in modules.items():
        groups[_fate(group) or label].append(label)
    return [
        (", ".join(merged(labels, modules)), [e for label in labels for e in modules[label]])
        for labels in groups.values()
    ]


def _fate(group: Sequence[ModelEntry]) -> str:
    """What became of a whole module, where that is one thing; such modules share a row."""
    fates = {(e.bucket, bool(e.how), e.expected) for e in group}
    known = {("loaded", False, False): " whole", ("missing", False, False): " missing"}
    if all(e.expected and e.bucket != "loaded" for e in group):
        return " expected"
    return known.get(fates.pop(), "") if len(fates) == 1 else ""


def _labels(names: Sequence[str]) -> list[str]:
    """The module of each name: the first segment, more of them inside a module that holds nearly all."""
    labels = [name.split(".")[0] for name in names]
    for depth in range(2, 5):
        label, count = Counter(labels).most_common(1)[0]
        if count < 0.9 * len(names):
            break
        labels = [
            ".".join(name.split(".")[:depth]) if old == label and name.count(".") >= depth else old
            for name, old in zip(names, labels, strict=True)
        ]
    return labels


def _row(label: str, group: Sequence[ModelEntry]) -> tuple[str, ...]:
    loaded = sum(e.bucket == "loaded" for e in group)
    left = [e for e in group if e.bucket != "loaded"]
    share = "-" if left and all(e.expected for e in left) and not loaded else percent(coverage(group))
    return shorten(label, _LABEL), f"{loaded}/{len(group)}", share, notes(group)


def notes(group: Sequence[ModelEntry]) -> str:
    """How many tensors did not come as they were, and why."""
    found = Counter("expected to be left" if e.expected else e.bucket for e in group if e.bucket != "loaded")
    found["converted"] = sum(e.bucket == "loaded" and bool(e.how) and not e.how.startswith("tied") for e in group)
    return ", ".join(f"{count} {what}" for what, count in found.items() if count)


def name_stages(entries: Sequence[SourceEntry]) -> str:
    """How the names were brought together, with counts."""
    stages = Counter(e.stage for e in entries if e.stage)
    return ", ".join(f"{count} {stage}" for stage, count in stages.items())


def sections(sources: Sequence[SourceEntry], targets: Sequence[ModelEntry]) -> list[str]:
    """Converted and mismatched tensors with their shapes, then what only one side has."""
    shapes = {e.name: e.shape for e in targets}
    lines = _shaped("converted", [e for e in sources if e.bucket == "converted"], shapes)
    lines += _shaped("mismatched", [e for e in sources if e.bucket == "mismatched"], shapes)
    if held := [e.name for e in targets if e.bucket == "held"]:
        lines += _listed("held back", len(held), merged(held, shapes))
    for title, count, patterns in on_one_side(sources, targets):
        lines += _listed(title, count, patterns)
    return lines


def on_one_side(sources: Sequence[SourceEntry], targets: Sequence[ModelEntry]) -> list[tuple[str, int, list[str]]]:
    """What only one side has, and what the caller left out: a title, how many tensors, and their names as patterns."""
    missing = [e for e in targets if e.bucket == "missing" and e.how != "excluded"]
    unexpected = [e for e in sources if e.bucket == "unexpected"]
    here, there = [e.name for e in targets], [e.name for e in sources]
    groups = (
        ("only in the checkpoint", [e.name for e in unexpected if not e.expected], there),
        ("only there, expected", [e.name for e in unexpected if e.expected], there),
        ("only in the model", [e.name for e in missing if not e.expected], here),
        ("only here, expected", [e.name for e in missing if e.expected], here),
        ("excluded", [e.name for e in sources if e.bucket == "excluded"], there),
    )
    return [(title, len(names), merged(names, among)) for title, names, among in groups if names]


def _shaped(title: str, entries: Sequence[SourceEntry], shapes: dict[str, tuple[int, ...]]) -> list[str]:
    groups = shape_groups(entries, shapes)
    if not groups:
        return []
    lines = [f" {title}  {len(entries)}"]
    for (change, how), patterns in list(groups.items())[:_GROUPS]:
        more = f" and {len(patterns) - 1} more" if len(patterns) > 1 else ""
        head = f"   {patterns[0]}{more}  {change}"
        whole = f"{head}  {how}"
        lines += [whole] if len(whole) <= page_width() else [head, *paragraph(how, " " * 7, " " * 7)]
    return [*lines, f"   and {len(groups) - _GROUPS} more"] if len(groups) > _GROUPS else lines


def shape_groups(
    entries: Sequence[SourceEntry], shapes: Mapping[str, tuple[int, ...]]
) -> dict[tuple[str, str], list[str]]:
    """Tensors that change in the same way, as patterns, by the change of shape and how it was made or why it was not.

    Args:
        entries: Tensors of the checkpoint that belong to some of the model.
        shapes: Of all tensors of the model, by name.
    """
    groups: dict[tuple[str, str], list[str]] = defaultdict(list)
    for entry in entries:
        target = entry.target or entry.name
        change = f"{shape_text(entry.shape)} -> {shape_text(shapes[target])}"
        groups[change, entry.how].append(target)
    return {change: merged(names, shapes) for change, names in groups.items()}


def _listed(title: str, count: int, patterns: list[str]) -> list[str]:
    shown = ", ".join(patterns[:_GROUPS])
    rest = len(patterns) - _GROUPS
    text = f"{shown}, and {rest} more" if rest > 0 else shown
    label = f" {title}".ljust(24) + human_count(count).rjust(5) + "  "
    first, *others = paragraph(text, " " * len(label), " " * len(label))
    return [label + first.lstrip(), *others]
