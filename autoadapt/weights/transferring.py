"""Transferring: the order of the steps of `transfer`, and nothing else.

read, leave out, pair names, decide shapes, guard, write, report. Nothing is written before the last
check has passed.
"""

from __future__ import annotations

import contextlib
import re
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from torch import nn

from autoadapt.contracts.instances import check_module
from autoadapt.errors import Mismatch, TransferError
from autoadapt.showing.progress import telling
from autoadapt.weights.checkpoints import Checkpoint, Source, adapter_scale, read_checkpoint, refuse_scope
from autoadapt.weights.composed import compose, own_entries, own_targets, without_zeros
from autoadapt.weights.conversions import SLICES, Shapes, check_policies
from autoadapt.weights.copying import Move, same_values, write
from autoadapt.weights.decisions import Expected, Verdicts, decide, model_entries, source_entries
from autoadapt.weights.deltas import check_deltas, is_delta
from autoadapt.weights.guards import check_arguments, guard, leftover_hint
from autoadapt.weights.keeping import Keep, read_keep
from autoadapt.weights.made_tensors import Recipe
from autoadapt.weights.names import Pairing, pair_by_name
from autoadapt.weights.order import pair_by_order
from autoadapt.weights.patterns import Pattern, matcher, merged
from autoadapt.weights.prefixes import Same
from autoadapt.weights.ranks import Ranks
from autoadapt.weights.recipes import Merge, find_recipes, read_merge
from autoadapt.weights.renaming import Rename, Renaming, read_renaming
from autoadapt.weights.resampling import Grids, read_grids
from autoadapt.weights.results import Transfer
from autoadapt.weights.selection import Selection
from autoadapt.weights.slots import Slot, model_slots, refuse_unwritable
from autoadapt.weights.tensor_specs import Spec, parent

_ADAPTERS = re.compile(r"(?<![^.])adapters\.")


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
    keep: Keep | None = None,
    grid: Grids | None = None,
    merge: Merge = (),
    min_coverage: float = 0.0,
    expect_missing: Sequence[Pattern] = (),
    expect_unexpected: Sequence[Pattern] = (),
    dry_run: bool = False,
) -> Transfer:
    """Load the weights that fit, and say exactly which they were.

    Everything is checked before anything is written; what was written is compared bit for bit; when
    something fails the model is as it was. Dtype and device of the model are kept.

    Of more than 512 MiB no old values are kept. An interruption then waits for the last tensor; a
    file that is changed while it is copied leaves the model half loaded, and the error says so.

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
        keep: Which old row each new one is, by pattern: indices (None for a row without an old one), or the name
            of a change of order such as `"coco->crowdpose"`. Asks for `"slice"`.
        grid: Old grid, new grid and tokens in front of both, by pattern: `{"pos_embed": ((12, 101), (12, 41), 2)}`.
            Asks for `"resample"`.
        merge: What to make of several tensors: `"fused"` joins and splits q, k, v, gate, up and w1, w2 as the model
            has them, a bias that is not there being zero; `"lora"` adds deltas to their weights, `{"lora": 2.0}` with
            their scale, which is read from an `adapter_config.json` beside the file where there is one;
            `"quantised"` multiplies weights of eight bits with the scale beside them (`SCB`, `weight_scale`,
            `weight_scale_inv`); packed ones, as of bitsandbytes' four bits, GPTQ and AWQ, stay mismatched.
        min_coverage: Share of the parameters below which nothing is loaded.
        expect_missing: Patterns of the model's names that may stay as they are.
        expect_unexpected: Patterns of the source's names that may have no place.
        dry_run: Report only.

    Returns:
        The report; `print` it.

    Raises:
        SourceError: If a file is missing, damaged, or needs code to load.
        CoverageError: If nothing fits, or less than `min_coverage` does.
        TransferError: If a name or an argument is ambiguous or unknown, the model takes no copy, or
            the copy is not bit-equal.

    Example:
        >>> import torch
        >>> model = torch.nn.Linear(3, 2)
        >>> report = transfer({"state_dict": {"module.weight": torch.ones(2, 3)}}, model)
        >>> report.model_counts, int(model.weight.sum())
        ({'loaded': 1, 'missing': 1}, 6)
    """
    _check_model(source, model)
    check_arguments(match, min_coverage)
    selection = Selection.parse(
        include,
        exclude,
        expect_missing,
        expect_unexpected,
        check_policies(shapes),
        read_keep(keep or {}),
        read_grids(grid or {}),
    )
    renaming, slots = read_renaming(rename), model_slots(model)
    turns = any(slot.transposed for slot in slots.values())
    merges, unscaled = adapter_scale(source, read_merge(merge), turns=turns)
    ranks = Ranks.of(any(slot.shard is not None for slot in slots.values()))
    with ranks.step(), telling("transfer") as tell:
        tell("reading the checkpoint")
        checkpoint, recipes = _read(source, scope, slots, merges, selection, unscaled)
        outside = _outside_scope(checkpoint, scope)
        unwanted = outside.keys() | {s.name for s in checkpoint.specs if selection.exclude(s.name)}
        wanted = [spec for spec in checkpoint.specs if spec.name not in unwanted]
        targets = [slot.spec for slot in slots.values()]
        tell(f"finding places for {len(wanted)} tensors")
        pairing = _pair(wanted, targets, match, renaming, _same(checkpoint, slots))
        _pair_unwanted(pairing, [spec for spec in checkpoint.specs if spec.name in unwanted], renaming)
        verdicts = _decide(pairing, checkpoint, slots, selection, outside)
        report = _report(checkpoint, model, slots, verdicts, selection, pairing.remarks, dry_run)
        report = _in_own_names(report, checkpoint, recipes, merges)
        guard(report, min_coverage, wanted, targets, match)
        moves = _first_of_tied(verdicts, checkpoint)
        refuse_unwritable(model, [move.slot for move in moves])
    decided = [(move.source, move.slot.spec, move.conversion) for move in moves]
    ranks.agree((dry_run, report.sources, report.targets, decided, recipes))
    if dry_run:
        return report
    return _finish(report, write(moves, checkpoint.tensors, ranks))


def _check_model(source: object, model: object) -> None:
    """Refuse what is no model, as where it changed places with its checkpoint."""
    if isinstance(source, nn.Module) and not isinstance(model, nn.Module):
        found = f"the model {type(source).__name__} and then {repr(model)[:60]}"
        remedy = "aa.transfer(checkpoint, model)"
        fault = Mismatch("`source`", "the checkpoint first, and then the model", found, remedy)
        raise TransferError("the arguments have changed places", [fault])
    check_module(model, "model", TransferError)


def _read(
    source: Source,
    scope: str | None,
    slots: Mapping[str, Slot],
    merges: Mapping[str, float | None],
    selection: Selection,
    unscaled: str,
) -> tuple[Checkpoint, list[Recipe]]:
    """The checkpoint, with what is made of several of its tensors."""
    targets = [slot.spec for slot in slots.values()]
    storages = {slot.tensor.untyped_storage().data_ptr() for slot in slots.values() if slot.has_memory}
    own = read_checkpoint(source, scope, targets, storages)
    unwanted = {spec.name for spec in own.specs if is_delta(spec.name) and selection.exclude(spec.name)}
    turned = [name for name, slot in slots.items() if slot.transposed]
    wanted = [spec for spec in own.specs if spec.name not in unwanted]
    found = find_recipes(wanted, targets, merges, transposed=turned, unscaled=unscaled)
    recipes = [recipe for recipe in found if not any(map(selection.exclude, recipe.sources))]
    recipes = without_zeros(own.tensors, recipes)
    if "lora" in merges:
        check_deltas([spec for spec in own.specs if not selection.exclude(spec.name)], recipes)
    return compose(own, recipes), recipes


def _in_own_names(
    report: Transfer, checkpoint: Checkpoint, recipes: Sequence[Recipe], merges: Mapping[str, float | None]
) -> Transfer:
    """The report told in the names of the checkpoint's own tensors, with a hint."""
    own = checkpoint.own or checkpoint.specs
    hint = leftover_hint(report, own, merges)
    sources, targets = own_entries(report.sources, own, recipes), own_targets(report.targets, recipes)
    return report.model_copy(update={"hint": hint, "sources": sources, "targets": targets})


def _outside_scope(checkpoint: Checkpoint, scope: str | None) -> dict[str, str]:
    """Why a tensor is outside the scope, by name; empty where the scope was a container."""
    if scope is None or checkpoint.container in (scope, f"{checkpoint.container.rpartition('.')[0]}.{scope}"):
        return {}
    inside = matcher(scope.removeprefix(f"{checkpoint.container}."))
    outside = {spec.name: "outside the scope" for spec in checkpoint.specs if not inside(spec.name)}
    if len(outside) == len(checkpoint.specs):
        raise refuse_scope(scope, checkpoint)
    return outside


def _pair(sources: Sequence[Spec], targets: Sequence[Spec], match: str, renaming: Renaming, same: Same) -> Pairing:
    if match == "names":
        return pair_by_name(sources, targets, renaming, same)
    pairing = Pairing({spec.name: spec for spec in sources}, {spec.name: spec for spec in targets})
    pairing.settle(pair_by_order(sources, targets), "order")
    return pairing


def _same(checkpoint: Checkpoint, slots: Mapping[str, Slot]) -> Same:
    """Whether two tensors of the checkpoint hold the same bits, or two of the model are one."""
    own = {id(spec) for spec in checkpoint.specs}

    def same(first: Spec, second: Spec) -> bool:
        if id(first) in own:
            return first.shape == second.shape and same_values(checkpoint.tensors, first, second)
        return (slots[first.name].tied or first.name) == (slots[second.name].tied or second.name)

    return same


def _pair_unwanted(pairing: Pairing, unwanted: Sequence[Spec], renaming: Renaming) -> None:
    """Find what would belong to the tensors left out, so that the report can say why it is missing."""
    with contextlib.suppress(TransferError):  # where their names are ambiguous the report does without
        found = pair_by_name(unwanted, list(pairing.targets.values()), renaming)
        pairing.pairs |= found.pairs


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
    verdicts = decide(pairing.pairs, specs, slots, excluded, selection.wish, pairing.twins)
    taken_as_is = {n: t for n, (t, _) in pairing.pairs.items() if n in verdicts.moves and not verdicts.changed(n)}
    changed = {name: target for name, (target, _) in pairing.pairs.items() if name not in taken_as_is}
    selection.refuse_idle(taken_as_is, changed)
    return verdicts


def _report(
    checkpoint: Checkpoint,
    model: nn.Module,
    slots: Mapping[str, Slot],
    verdicts: Verdicts,
    selection: Selection,
    remarks: Sequence[str],
    dry_run: bool,
) -> Transfer:
    adapters = _new_adapters(checkpoint, slots)
    expected = Expected(lambda name: name in adapters or selection.missing(name), selection.unexpected)
    hidden = {name for name, _ in model.named_buffers()} - set(slots)
    also = [f"not taken: {', '.join(checkpoint.also)}"] if checkpoint.also else []
    return Transfer(
        source=checkpoint.name,
        container=checkpoint.container,
        model=_class_name(model),
        sources=source_entries(checkpoint.specs, verdicts, hidden, expected),
        targets=model_entries(list(slots.values()), verdicts, expected),
        dry_run=dry_run,
        remarks=(*also, *remarks, *_casts(verdicts), *_other_order(verdicts), *_maybe_blocks(verdicts)),
    )


def _class_name(model: nn.Module) -> str:
    """The name of a model's class; sharding puts a class of its own before it."""
    own = (cls for cls in type(model).__mro__ if not cls.__module__.startswith("torch.distributed.fsdp"))
    return next(own).__name__


def _new_adapters(checkpoint: Checkpoint, slots: Mapping[str, Slot]) -> set[str]:
    """The adapters of adapted modules in the model, where the checkpoint is of a time before them."""
    if any("adapters" in spec.name.split(".") for spec in checkpoint.specs):
        return set()
    owners = {name: _ADAPTERS.split(name)[0] for name in slots if _ADAPTERS.search(name)}
    adapted = {owner for owner in owners.values() if any(name.startswith(f"{owner}backbone.") for name in slots)}
    return {name for name, owner in owners.items() if owner in adapted}


def _casts(verdicts: Verdicts) -> list[str]:
    casts = Counter((move.source.dtype, move.slot.spec.dtype) for move in verdicts.moves.values())
    return [f"cast from {old} to {new}: {count}" for (old, new), count in casts.items() if old != new]


def _other_order(verdicts: Verdicts) -> list[str]:
    """A word where the first rows of one well-known order serve another."""
    for move in verdicts.moves.values():
        cut = move.conversion is not None and move.conversion.policy in SLICES and not move.conversion.kept
        if cut and {(17, 14), (18, 15)} & set(zip(move.source.shape, move.slot.spec.shape, strict=True)):
            keep = f'keep={{"{move.slot.spec.name}": "coco->crowdpose"}}'
            return [f"rows were taken in their order; COCO and CrowdPose order joints differently: {keep}"]
    return []


def _maybe_blocks(verdicts: Verdicts) -> list[str]:
    """A word where the first rows were taken of maps that could be those of several anchors."""
    names = [m.slot.spec.name for m in verdicts.moves.values() if m.conversion is not None and m.conversion.unsure]
    if not names:
        return []
    at = parent(names[0]) or "*"
    more = f" and {len(names) - 1} more" if len(names) > 1 else ""
    return [
        f"the first rows were taken of {names[0]}{more}; if they lie in blocks, as the classes of each anchor do, "
        f'others belong: keep={{"{at}": [...]}} says every row, shapes={{"{at}": "groups"}} that these are right'
    ]


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


def _finish(report: Transfer, nonfinite: Sequence[str]) -> Transfer:
    """The report after the copy: what was compared, and values to look at."""
    compared = sum(entry.bucket in ("loaded", "converted") for entry in report.sources)
    remarks = [f"NaN or infinity in {', '.join(merged(nonfinite)[:6])}"] if nonfinite else []
    return report.model_copy(update={"compared": compared, "remarks": (*report.remarks, *remarks)})
