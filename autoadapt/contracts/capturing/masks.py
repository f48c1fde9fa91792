"""Masks: which inputs hide tokens or samples, found by what stays as it is when hidden values change.

Zeros and ones may be a mask, types of tokens, or features. A mask is what it does: where it hides something, other
values there change nothing of what comes out for the rest, no more than if what is hidden were not there at all, and
where it hides nothing they do. Models that attend show it in every token. Of those that look no further than their
neighbours, or that take statistics over hidden values too, the name of the argument tells, if most of what is hidden
counts no more.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments, parameters_of
from autoadapt.contracts.capturing.devices import is_dear
from autoadapt.contracts.capturing.graph_axes import InputAxes
from autoadapt.contracts.capturing.hiding import Trial, tokens_of
from autoadapt.contracts.capturing.likely_masks import is_added, is_table, may_be_lengths
from autoadapt.contracts.capturing.probing import Work
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import Mask
from autoadapt.contracts.trees import flatten, path_texts, rebuild

RUNS = 5
"""Of a module, to try one argument for one meaning of its ones."""


@dataclass(frozen=True)
class Masks:
    """A module, one call of it, and the axes of its inputs."""

    module: nn.Module
    arguments: Arguments
    axes: InputAxes
    work: Work
    """Of one pass at the example, as far as it is known."""
    outputs: Sequence[Sequence[Dim]]
    """The dims of each output."""
    paths: Sequence[str]
    """Where they stand."""

    def find(self, legal: Collection[str]) -> tuple[Mask, ...]:
        """The masks among what is given, and among what could be given besides: those that are called masks.

        Args:
            legal: The axes that may vary.
        """
        tree, tensors = flatten(self.arguments.values)
        names = path_texts(tree)
        given = {i: likely for i, name in enumerate(names) if (likely := self._likely(i, name, tensors[i]))}
        spare = [] if self._is_dear() else self._spare(names)
        if not given and not spare:
            return ()
        tried = None if self._is_dear() else self._trial(given.keys(), 1 + ("B" in legal))
        found = [self._told(likely, tried, i) for i, likely in given.items()]
        if tried is not None and not any(found):
            found += [self._told(likely, tried, likely[0].argument) for likely in spare]
        return tuple(mask for mask in found if mask is not None and mask.axis in legal)

    def _trial(self, likely: Collection[int], samples: int) -> Trial:
        """A trial of the example, with so many samples at least."""
        arguments, axes, outputs = self.arguments, self.axes, dict(zip(self.paths, self.outputs, strict=True))
        if axes.example.get("B", samples) < samples:
            tree, tensors = flatten(arguments.values)
            rows = zip(tensors, axes.names, strict=True)
            more = [one.repeat_interleave(samples, names.index("B")) if "B" in names else one for one, names in rows]
            arguments = Arguments(rebuild(tree, more), arguments.positional)
            axes = InputAxes(axes.names, {**axes.example, "B": samples})
        return Trial(self.module, arguments, axes, outputs, likely)

    def _told(self, likely: Sequence[Mask], tried: Trial | None, place: int | str) -> Mask | None:
        """What one argument is; None where it is no mask."""
        named = [mask for mask in likely if _is_named(mask)]
        if tried is None:
            return named[0] if len(named) == 1 else None
        hides = dict[Mask, str]()
        for mask in likely:
            hides[mask] = tried.hides(place, mask)
            if hides[mask] == "wholly":
                return tried.described(place, mask)
        loose = [mask.model_copy(update={"loose": hides[mask] == "mostly"}) for mask in named if hides[mask]]
        return next(iter(loose), None)

    def _likely(self, position: int, name: str, tensor: torch.Tensor) -> list[Mask]:
        """What an input may be by its values and axes, as it is usually meant first."""
        row = self.axes.names[position]
        others = [name for i, names in enumerate(self.axes.names) if i != position for name in tokens_of(names)]
        if len(row) == 1 and "B" in row:
            along = [
                axis for axis in dict.fromkeys(others) if axis[0] == "N" and may_be_lengths(tensor, self._size(axis))
            ]
            return [Mask(argument=name, axis=axis, form="lengths") for axis in along]
        if len(row) < 2 or row[-1] not in others or (row[-1] == row[0] and len(row) > 2):
            return []
        shared = row[0] == row[-1]
        usual = counts_by_name(name) is not False
        found = [Mask(argument=name, axis=row[-1], counts=one, shared=shared) for one in (usual, not usual)]
        found = found if is_table(tensor) else []
        return found + [Mask(argument=name, axis=row[-1], form="added", shared=shared)] * is_added(tensor)

    def _size(self, axis: str) -> int:
        return self.axes.example[axis]

    def _spare(self, names: Sequence[str]) -> list[list[Mask]]:
        """Parameters that were not given and are called masks, with the axis of tokens that they may lie along."""
        tokens = [row for row in self.axes.names if len(row) in (2, 3) and any(name[0] == "N" for name in row)]
        if not tokens:
            return []
        axis = next(name for name in tokens[0] if name[0] == "N")
        listed = [one.name for one in parameters_of(self.module, self.arguments) if one.takes_none]
        known = [
            (name, counts) for name in listed if name not in names and (counts := counts_by_name(name)) is not None
        ]
        return [[Mask(argument=name, axis=axis, counts=one) for one in (usual, not usual)] for name, usual in known]

    def _is_dear(self) -> bool:
        return is_dear(self.module, self.work.multiply_adds * RUNS)


_COUNTING, _HIDING = (
    ("mask", "attention_mask"),
    ("padding_mask", "pad_mask", "key_padding_mask", "src_key_padding_mask"),
)


def _is_named(mask: Mask) -> bool:
    """Whether the name of an argument tells that it is this mask."""
    if mask.form == "lengths":
        return "len" in mask.argument.rpartition(".")[2]
    return mask.form == "truth" and mask.counts == counts_by_name(mask.argument)


def counts_by_name(name: str) -> bool | None:
    """Whether ones stand at what counts, by the habit of the field; None where the name is that of no such mask."""
    last = name.rpartition(".")[2]
    return True if last in _COUNTING else False if last in _HIDING else None
