"""Transferring: the order of the steps of `transfer`, and nothing else.

read, leave out, pair names, decide shapes, guard, write, report. Nothing is written before the last
check has passed.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal, TypeAlias

from torch import nn

from autoadapt.errors import Mismatch, TransferError, nearest
from autoadapt.weights.checkpoints import Checkpoint, Source, read_checkpoint, refuse_scope
from autoadapt.weights.conversions import Shapes, check_policies
from autoadapt.weights.dialects import DIALECTS, Dialect, Rule
from autoadapt.weights.ledger import Transfer
from autoadapt.weights.names import Pairing, Renaming, pair_by_name, prefix_hint
from autoadapt.weights.order import pair_by_order
from autoadapt.weights.patterns import Pattern, matcher, merged
from autoadapt.weights.selection import Selection
from autoadapt.weights.slots import Slot, model_slots, refuse_unwritable
from autoadapt.weights.specs import Spec
from autoadapt.weights.summary import percent
from autoadapt.weights.verdicts import Expected, Verdicts, decide, model_entries, source_entries
from autoadapt.weights.writing import Move, Written, same_values, write

__all__ = ["Rename", "transfer"]

Rename: TypeAlias = "str | Dialect | Mapping[str, str] | Sequence[str | Dialect | Rule | tuple[str, str]] | None"
"""Rewrite rules (`{regex: replacement}`), the name of a dialect, a dialect, or a list of these."""


def transfer(
    source: Source,
    model: nn.Module,
    *,
    scope: str | None = None,
    include: Sequence[Pattern] | None = None,
    exclude: Sequence[Pattern] | None = None,
    rename: Rename = None,
    match: Literal["names", "order"] = "names",
    shapes: Shapes = "skip",
    min_coverage: float = 0.0,
    expect_missing: Sequence[Pattern] = (),
    expect_unexpected: Sequence[Pattern] = (),
    dry_run: bool = False,
) -> Transfer:
    """Load the weights that fit, and say exactly which they were.

    Everything is checked before anything is written; what was written is compared bit for bit; when
    something fails the model is as it was. Dtype and device of the model are kept.

    Args:
        source: A file (`.pth`, `.pt`, `.bin`, `.safetensors`, a sharded index, a folder with one of
            these), a state dict or what wraps one, or a module.
        model: Takes the weights, in place.
        scope: The part of the source to take: a container (`"ema"`) or the front of its names.
        include: Patterns of names, of the source or of the model, to take; all others stay.
        exclude: Patterns of names to leave.
        rename: Rewrite rules for names of the source, applied before anything else; dialects given
            here are tried instead of the built-in ones.
        match: `"order"` pairs the k-th layer with the k-th, where that is unambiguous.
        shapes: What to do where shapes differ, in all or by pattern; the first that fits counts.
        min_coverage: Share of the parameters below which nothing is loaded.
        expect_missing: Patterns of the model's names that may stay as they are.
        expect_unexpected: Patterns of the source's names that may have no place.
        dry_run: Report only.

    Returns:
        The report; `print` it.

    Raises:
        SourceError: If a file is missing, damaged, or needs code to load.
        TransferError: If nothing fits, less than `min_coverage` does, a name or an argument is
            ambiguous or unknown, or the copy is not bit-equal.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2)
        >>> report = transfer({"state_dict": {"module.weight": torch.ones(2, 3)}}, model)
        >>> report.model_counts, int(model.weight.sum())
        ({'loaded': 1, 'missing': 1}, 6)
    """
    _check_arguments(match, min_coverage)
    selection = Selection.parse(include, exclude, expect_missing, expect_unexpected, check_policies(shapes))
    slots = model_slots(model)
    targets = [slot.spec for slot in slots.values()]
    checkpoint = read_checkpoint(source, scope, targets)
    outside = _outside_scope(checkpoint, scope)
    wanted = [s for s in checkpoint.specs if s.name not in outside and not selection.exclude(s.name)]
    pairing = _pair(wanted, targets, match, _renaming(rename))
    verdicts = _decide(pairing, checkpoint, slots, selection, outside)
    report = _report(checkpoint, model, slots, verdicts, selection, pairing.remarks, dry_run)
    _guard(report, min_coverage, wanted, targets, match)
    moves = _first_of_tied(verdicts, checkpoint)
    refuse_unwritable(model, [move.slot for move in moves])
    if dry_run:
        return report
    return _finish(report, write(moves, checkpoint.tensors), len(verdicts.moves))


def _check_arguments(match: str, min_coverage: float) -> None:
    faults = []
    if match not in ("names", "order"):
        close = nearest(match, ("names", "order"), count=1) or ["names"]
        faults.append(Mismatch("match", '"names" or "order"', repr(match), f'match="{close[0]}"'))
    if not 0 <= min_coverage <= 1:
        faults.append(Mismatch("min_coverage", "a share between 0 and 1", str(min_coverage), "min_coverage=0.9"))
    if faults:
        raise TransferError("an argument is wrong", faults)


def _renaming(rename: Rename) -> Renaming:
    """Read `rename` at the door."""
    parts: Sequence[object]
    match rename:
        case None:
            parts = ()
        case str() | Dialect():
            parts = (rename,)
        case Mapping():
            parts = tuple(rename.items())
        case _:
            parts = tuple(rename)
    rules = tuple(_rule(part) for part in parts if not isinstance(part, str | Dialect))
    dialects = tuple(_dialect(part) for part in parts if isinstance(part, str | Dialect))
    return Renaming(rules, dialects)


def _rule(part: object) -> Rule:
    try:
        match part:
            case Rule():
                rule = part
            case (str(pattern), str(replacement)):
                rule = Rule(pattern=pattern, replacement=replacement)
            case _:
                raise ValueError("neither a rule nor a pair of texts")
        # The replacement can be wrong as well (a group that is not there).
        re.compile(rule.pattern + "|").sub(rule.replacement, "")
    except (re.error, ValueError) as error:
        fault = Mismatch(f"rename, {part!r}", "a regex and its replacement", str(error), 'rename={r"^old\\.": "new."}')
        raise TransferError("a rewrite rule is malformed", [fault]) from error
    return rule


def _dialect(part: str | Dialect) -> Dialect:
    if isinstance(part, Dialect):
        return part
    known = {dialect.name: dialect for dialect in DIALECTS}
    if part not in known:
        close = nearest(part, known, count=1)
        fault = Mismatch(
            "rename", f"one of {', '.join(known)}", repr(part), "\n".join(f'rename="{name}"' for name in close)
        )
        raise TransferError("unknown dialect", [fault])
    return known[part]


def _outside_scope(checkpoint: Checkpoint, scope: str | None) -> dict[str, str]:
    """Why a tensor is outside the scope, by name; empty where the scope was a container."""
    if scope is None or checkpoint.container in (scope, f"{checkpoint.container.rpartition('.')[0]}.{scope}"):
        return {}
    inside = matcher(scope.removeprefix(f"{checkpoint.container}."))
    outside = {spec.name: "outside the scope" for spec in checkpoint.specs if not inside(spec.name)}
    if len(outside) == len(checkpoint.specs):
        raise refuse_scope(scope, checkpoint)
    return outside


def _pair(sources: Sequence[Spec], targets: Sequence[Spec], match: str, renaming: Renaming) -> Pairing:
    if match == "names":
        return pair_by_name(sources, targets, renaming)
    pairing = Pairing({spec.name: spec for spec in sources}, {spec.name: spec for spec in targets})
    pairing.settle(pair_by_order(sources, targets), "order")
    return pairing


def _decide(
    pairing: Pairing,
    checkpoint: Checkpoint,
    slots: Mapping[str, Slot],
    selection: Selection,
    outside: Mapping[str, str],
) -> Verdicts:
    names = [spec.name for spec in checkpoint.specs]
    pairing.remarks += selection.remarks(names, list(slots))
    excluded = selection.left_out(names, pairing.pairs) | dict(outside)
    specs = {spec.name: spec for spec in checkpoint.specs}
    return decide(pairing.pairs, specs, slots, excluded, selection.policy)


def _report(
    checkpoint: Checkpoint,
    model: nn.Module,
    slots: Mapping[str, Slot],
    verdicts: Verdicts,
    selection: Selection,
    remarks: Sequence[str],
    dry_run: bool,
) -> Transfer:
    adapters = _adapters_are_new(checkpoint, slots)
    expected = Expected(
        lambda name: selection.missing(name) or (adapters and name.startswith("adapters.")),
        lambda name: selection.unexpected(name),
    )
    hidden = {name for name, _ in model.named_buffers()} - set(slots)
    also = [f"not taken: {', '.join(checkpoint.also)}"] if checkpoint.also else []
    return Transfer(
        source=checkpoint.name,
        container=checkpoint.container,
        model=type(model).__name__,
        sources=source_entries(checkpoint.specs, verdicts, hidden, expected),
        targets=model_entries(list(slots.values()), verdicts, expected),
        dry_run=dry_run,
        remarks=(*also, *remarks, *_casts(verdicts)),
    )


def _adapters_are_new(checkpoint: Checkpoint, slots: Mapping[str, Slot]) -> bool:
    """Whether the model is an adapted one and the checkpoint is not of such: its adapters cannot be there."""
    adapted = {"adapters", "backbone"} <= {name.split(".")[0] for name in slots}
    return adapted and not any("adapters" in spec.name.split(".") for spec in checkpoint.specs)


def _casts(verdicts: Verdicts) -> list[str]:
    casts = Counter((move.source.dtype, move.slot.spec.dtype) for move in verdicts.moves.values())
    return [f"cast from {old} to {new}: {count}" for (old, new), count in casts.items() if old != new]


def _guard(report: Transfer, min_coverage: float, sources: Sequence[Spec], targets: Sequence[Spec], match: str) -> None:
    """Refuse a total miss, and less than was asked for."""
    floating = [entry for entry in report.targets if entry.parameter] or report.targets
    if not any(entry.taken for entry in floating):
        fault = Mismatch(
            f"{report.source} -> {report.model}",
            "names that agree",
            _examples(sources, targets),
            _hint(sources, targets, match),
        )
        raise TransferError(f"a total miss: none of {len(report.sources)} tensors would be loaded", [fault])
    if report.coverage < min_coverage:
        raise TransferError(
            f"would load {percent(report.coverage)} of the parameters, less than min_coverage={min_coverage}",
            report.faults(),
        )


def _examples(sources: Sequence[Spec], targets: Sequence[Spec]) -> str:
    left, right = (", ".join(spec.name for spec in specs[:2]) for specs in (sources, targets))
    return f"{left or 'nothing'}, ...      in the checkpoint\n{right}, ...      in the model"


def _hint(sources: Sequence[Spec], targets: Sequence[Spec], match: str) -> str:
    """What would load something: an order of layers that runs in parallel, a prefix."""
    lines = []
    if match == "names":
        try:
            count = len(pair_by_order(sources, targets))
            lines.append(f'match="order"      all {count} tensors have the same shapes in the same order')
        except TransferError:
            pass
    exchange = prefix_hint(sources, targets)
    if exchange is not None and exchange.elements and 4 * len(exchange.pairs) >= min(len(sources), len(targets)):
        lines.append(f"{exchange.rule()}      {len(exchange.pairs)} names would agree")
    return "\n".join(lines)


def _first_of_tied(verdicts: Verdicts, checkpoint: Checkpoint) -> list[Move]:
    """One move for each tensor of the model, however many names it has.

    Raises:
        TransferError: If the checkpoint holds different values for the names of one tensor.
    """
    groups: dict[str, list[Move]] = defaultdict(list)
    for move in verdicts.moves.values():
        groups[move.slot.tied or move.slot.spec.name].append(move)
    faults = [
        Mismatch(
            f"{first.slot.spec.name} and {other.slot.spec.name}",
            "equal values, since the model ties them",
            f"{first.source.name} and {other.source.name} differ",
            f'exclude=["{other.source.name}"]',
        )
        for first, *others in groups.values()
        for other in others
        if not same_values(checkpoint.tensors, first.source, other.source)
    ]
    if faults:
        raise TransferError("tied tensors would get two values", faults)
    return [group[0] for group in groups.values()]


def _finish(report: Transfer, written: Written, moves: int) -> Transfer:
    """The report after the copy: what was compared, and values to look at."""
    remarks = report.remarks
    if written.nonfinite:
        names = ", ".join(merged(written.nonfinite)[:6])
        remarks = (*remarks, f"NaN or infinity in {names}")
    return report.model_copy(update={"compared": moves, "remarks": remarks})
