"""Verdicts: what happens to each tensor, decided before anything is written."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from autoadapt.errors import Mismatch, TransferError
from autoadapt.weights.conversions import SLICES, Wish, plan
from autoadapt.weights.copying import Move
from autoadapt.weights.deltas import is_delta
from autoadapt.weights.dtypes import castable, quantised_layers
from autoadapt.weights.entries import ModelBucket, ModelEntry, SourceBucket, SourceEntry
from autoadapt.weights.recipes import NORMS
from autoadapt.weights.slots import Slot
from autoadapt.weights.tensor_specs import Spec, parent
from autoadapt.weights.widths import READ, Widths

_NORM = ("weight", "bias", "running_mean", "running_var")
_COUNTER = "num_batches_tracked"


@dataclass(frozen=True)
class Refusal:
    """A pair of tensors that is not loaded, and why.

    Args:
        target: Name in the model.
        stage: How the names were brought together.
        reason: Why.
        held: Whether it fits, and stays away because what it belongs to does.
    """

    target: str
    stage: str
    reason: str
    held: bool = False


@dataclass
class Verdicts:
    """What happens to the tensors that have found their counterpart, and to those left out.

    Args:
        moves: By source name, what is copied.
        refused: By source name, what found its place and is not copied.
        excluded: By source name, why the caller does not want it.
        held: Targets of what the caller does not want.
        twins: By source name, the source of the same values that was taken instead.
        schemes: Of quantised layers of the checkpoint, by their names.
        places: By target name, the move that fills it; also under the other names of a tied tensor.
    """

    moves: dict[str, Move] = field(default_factory=dict)
    refused: dict[str, Refusal] = field(default_factory=dict)
    excluded: dict[str, str] = field(default_factory=dict)
    held: dict[str, str] = field(default_factory=dict)
    twins: dict[str, str] = field(default_factory=dict)
    schemes: dict[str, str] = field(default_factory=dict)
    places: dict[str, Move] = field(default_factory=dict)

    def changed(self, name: str) -> bool:
        """Whether a tensor of the checkpoint that is taken is converted on its way."""
        return self.moves[name].conversion is not None


@dataclass(frozen=True)
class Expected:
    """Differences that are known: tests of names."""

    missing: Callable[[str], bool]
    unexpected: Callable[[str], bool]


def decide(
    pairs: Mapping[str, tuple[str, str]],
    specs: Mapping[str, Spec],
    slots: Mapping[str, Slot],
    excluded: Mapping[str, str],
    wish: Callable[[str, str], Wish],
    twins: Mapping[str, str],
) -> Verdicts:
    """Decide about every pair of names.

    Args:
        pairs: Target and stage, by source name.
        specs: The tensors of the checkpoint.
        slots: The places of the model.
        excluded: Why the caller does not want a tensor, by source name.
        wish: What to do where shapes differ, for a source and a target name.
        twins: What was left for another name of the same values, by source name.

    Raises:
        TransferError: If a shape differs where the policy says `error`.
    """
    schemes = quantised_layers(specs.values())
    verdicts = Verdicts(excluded=dict(excluded), twins=dict(twins), schemes=schemes)
    widths = _widths(pairs, specs, slots)
    faults = []
    for name, (target, stage) in pairs.items():
        source, slot = specs[name], slots[target]
        if name in excluded:
            verdicts.held[target] = name
            continue
        chosen = wish(name, target)
        move = _move(source, slot, stage, chosen, schemes, widths)
        if isinstance(move, Move):
            verdicts.moves[name] = move
        else:
            verdicts.refused[name] = Refusal(target, stage, move)
            if chosen.policy == "error":
                faults.append(Mismatch(target, _fact(slot.spec), _fact(source), f'shapes={{"{target}": "skip"}}', move))
    if faults:
        raise TransferError("shapes differ, which the policy calls an error", faults)
    _keep_norms_whole(verdicts, slots)
    _keep_lengths_true(verdicts, slots)
    _spread_ties(verdicts, slots)
    return verdicts


def _fact(spec: Spec) -> str:
    return f"{spec.dtype}{list(spec.shape)}"


def _widths(pairs: Mapping[str, tuple[str, str]], specs: Mapping[str, Spec], slots: Mapping[str, Slot]) -> Widths:
    """What the layers of checkpoint and model yield and read."""
    both = [(specs[name].shape, slots[target]) for name, (target, _) in pairs.items()]
    axes = [
        (name, (old[at], slot.spec.shape[at]), "height" in slot.axes)
        for old, slot in both
        if len(old) == len(slot.spec.shape)
        for at, name in enumerate(slot.axes)
    ]
    outputs = [(sizes, is_map) for name, sizes, is_map in axes if name == "output"]
    read = [sizes for name, sizes, _ in axes if name in READ]
    return Widths.of((sizes for sizes, _ in outputs), read, (sizes for sizes, is_map in outputs if is_map))


def _move(source: Spec, slot: Slot, stage: str, wish: Wish, schemes: Mapping[str, str], widths: Widths) -> Move | str:
    """The move for a pair, or why there is none."""
    if reason := castable(source, slot.spec.dtype, parameter=slot.parameter, schemes=schemes):
        return reason
    if source.shape == slot.spec.shape:
        return Move(source, slot, stage)
    planned = plan(wish, source, slot.spec, slot.axes, slot.groups, widths, patches=slot.patches)
    return planned if isinstance(planned, str) else Move(source, slot, stage, planned)


def _keep_norms_whole(verdicts: Verdicts, slots: Mapping[str, Slot]) -> None:
    """A norm's weight means nothing beside another's statistics: they move together or not at all.

    The count of batches means something only to a norm that averages over all of them, without a momentum.
    """
    by_target = {move.slot.spec.name: name for name, move in verdicts.moves.items()}
    for name in slots:
        if not name.endswith("running_mean"):
            continue
        prefix = name.removesuffix("running_mean")
        members = [prefix + leaf for leaf in _NORM if prefix + leaf in slots]
        left = [m for m in members if m not in by_target]
        for member in members if left else ():
            if (source := by_target.get(member)) is not None:
                move = verdicts.moves.pop(source)
                reason = f"moves together with {left[0]}, which is not loaded"
                verdicts.refused[source] = Refusal(member, move.stage, reason)
        counter = by_target.get(prefix + _COUNTER)
        if left and counter is not None and getattr(slots[name].owner, "momentum", None) is None:
            move = verdicts.moves.pop(counter)
            verdicts.refused[counter] = Refusal(prefix + _COUNTER, move.stage, "held back with its norm", held=True)


def _keep_lengths_true(verdicts: Verdicts, slots: Mapping[str, Slot]) -> None:
    """The length and the direction of weight norm are one weight: neither is loaded without the other.

    A direction of other values along an axis that the length counts would be scaled to the old length.
    """
    by_target = {move.slot.spec.name: name for name, move in verdicts.moves.items()}
    for name in slots:
        pairs = [(name, name.removesuffix(old) + new) for old, new in NORMS if name.endswith(old)]
        for pair in pairs if pairs and pairs[0][1] in slots else ():
            loaded = [member for member in pair if member in by_target]
            length, direction = (verdicts.moves.get(by_target.get(member, "")) for member in pair)
            reason = ""
            if length is None or direction is None:
                reason = f"moves together with {next((m for m in pair if m not in loaded), '')}, which is not loaded"
            elif not _scaled_alike(length, direction):
                reason = "weight norm counts all values of a row: slice a plain weight, and norm it again"
            for member in loaded if reason else ():
                move = verdicts.moves.pop(by_target[member])
                verdicts.refused[by_target[member]] = Refusal(member, move.stage, reason)


def _scaled_alike(length: Move, direction: Move) -> bool:
    """Whether the rows that are taken of a direction are whole, and those of its length."""
    old, new, counted = direction.source.shape, direction.slot.spec.shape, length.slot.spec.shape
    if direction.conversion is None:
        return length.conversion is None
    if direction.conversion.policy not in SLICES:
        return False
    axes = [axis for axis in range(len(new)) if old[axis] != new[axis]]
    taken = [
        [rows for rows in move.conversion.rows if rows.axis in axes] if move.conversion else None
        for move in (length, direction)
    ]
    return all(counted[axis : axis + 1] == new[axis : axis + 1] for axis in axes) and taken[0] == taken[1]


def _spread_ties(verdicts: Verdicts, slots: Mapping[str, Slot]) -> None:
    """A tensor with several names is filled under all of them."""
    groups: dict[str, list[str]] = defaultdict(list)
    for name, slot in slots.items():
        groups[slot.tied or name].append(name)
    by_target = {move.slot.spec.name: move for move in verdicts.moves.values()}
    for group in groups.values():
        filled = [by_target[name] for name in group if name in by_target]
        verdicts.places |= {name: by_target.get(name, filled[0]) for name in group if filled}


def source_entries(
    specs: Iterable[Spec], verdicts: Verdicts, hidden: set[str], expected: Expected
) -> tuple[SourceEntry, ...]:
    """One entry for each tensor of the checkpoint."""
    return tuple(_source_entry(spec, verdicts, hidden, expected) for spec in specs)


def _source_entry(spec: Spec, verdicts: Verdicts, hidden: set[str], expected: Expected) -> SourceEntry:
    made = partial(SourceEntry, name=spec.name, shape=spec.shape, dtype=spec.dtype)
    if (move := verdicts.moves.get(spec.name)) is not None:
        target = move.slot.spec.name
        if move.conversion is None:
            return made(bucket="loaded", target=target, stage=move.stage)
        return made(bucket="converted", target=target, stage=move.stage, how=move.conversion.how)
    if (refusal := verdicts.refused.get(spec.name)) is not None:
        known = refusal.held or expected.missing(refusal.target) or expected.unexpected(spec.name)
        bucket: SourceBucket = "held" if refusal.held else "mismatched"
        how = refusal.reason
        return made(bucket=bucket, target=refusal.target, stage=refusal.stage, how=how, expected=known)
    if (reason := verdicts.excluded.get(spec.name)) is not None:
        return made(bucket="excluded", how=reason, expected=True)
    how = "a buffer that the model does not save" if spec.name in hidden else ""
    if (twin := verdicts.twins.get(spec.name)) is not None:
        how = f"the same values as {twin}"
    scheme = verdicts.schemes.get(parent(spec.name), "")
    told = "a delta that is not merged" if is_delta(spec.name) else scheme and f"of a quantised layer ({scheme})"
    return made(bucket="unexpected", how=how or told, expected=bool(how) or expected.unexpected(spec.name))


def model_entries(slots: Sequence[Slot], verdicts: Verdicts, expected: Expected) -> tuple[ModelEntry, ...]:
    """One entry for each tensor of the model."""
    refused = {refusal.target: (name, refusal) for name, refusal in verdicts.refused.items()}
    return tuple(_model_entry(slot, verdicts, refused, expected) for slot in slots)


def _model_entry(
    slot: Slot, verdicts: Verdicts, refused: Mapping[str, tuple[str, Refusal]], expected: Expected
) -> ModelEntry:
    spec = slot.spec
    numel = 0 if slot.tied else spec.numel
    made = partial(ModelEntry, name=spec.name, shape=spec.shape, dtype=spec.dtype, parameter=slot.parameter)
    if (move := verdicts.places.get(spec.name)) is not None:
        other = move.slot.spec.name
        written = Spec(other, move.conversion.region).numel if move.conversion else spec.numel
        how = move.conversion.how if move.conversion else ""
        how = how if other == spec.name else f"tied to {other}"
        taken = 0 if slot.tied else written
        return made(numel=numel, bucket="loaded", source=move.source.name, taken=taken, how=how)
    if spec.name in refused:
        source, refusal = refused[spec.name]
        known = refusal.held or expected.missing(spec.name) or expected.unexpected(source)
        bucket: ModelBucket = "held" if refusal.held else "mismatched"
        return made(numel=numel, bucket=bucket, source=source, how=refusal.reason, expected=known)
    how = _why_missing(spec.name, verdicts)
    return made(numel=numel, bucket="missing", how=how, expected=bool(how) or expected.missing(spec.name))


def _why_missing(name: str, verdicts: Verdicts) -> str:
    """Why common sense expects a tensor to be missing; empty if it does not."""
    if name in verdicts.held:
        return "excluded"
    if name.endswith("." + _COUNTER) and f"{parent(name)}.running_mean" in verdicts.places:
        return "old checkpoints have no such counter"
    return ""
