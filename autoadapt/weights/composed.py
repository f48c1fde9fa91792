"""Composed: a checkpoint seen through recipes, and the report of it told in the checkpoint's own names."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace

import torch
from torch import Tensor

from autoadapt.errors import Mismatch, TransferError
from autoadapt.weights.checkpoints import Checkpoint
from autoadapt.weights.entries import ModelEntry, SourceEntry
from autoadapt.weights.made_tensors import Recipe
from autoadapt.weights.memory import pieces_of
from autoadapt.weights.recipes import BLOCK
from autoadapt.weights.tensor_files import Read, Tensors, read_whole
from autoadapt.weights.tensor_specs import Spec


def without_zeros(tensors: Tensors, recipes: Sequence[Recipe]) -> list[Recipe]:
    """Recipes without those of parts that the model has no place for, which have to be zero.

    Raises:
        TransferError: One is not: the model would lack it.
    """
    unplaced = [recipe for recipe in recipes if recipe.kind == "unplaced"]
    if not unplaced:
        return list(recipes)
    with tensors.reader() as read:
        largest = [float(_carried_out(recipe, read).abs().float().amax()) for recipe in unplaced]
    faults = [
        Mismatch(
            ", ".join(recipe.sources),
            f"zeros for {recipe.spec.name}, which the model has not",
            f"up to {value:g} in rows {recipe.sizes[0]} to {sum(recipe.sizes) - 1}",
            f"a bias in {recipe.spec.name.rpartition('.')[0]}, or exclude={recipe.sources} without the bias of all",
        )
        for recipe, value in zip(unplaced, largest, strict=True)
        if value != 0
    ]
    if faults:
        raise TransferError("a part of a fused bias has no place in the model", faults[:6])
    return [recipe for recipe in recipes if recipe not in unplaced]


def compose(checkpoint: Checkpoint, recipes: Sequence[Recipe]) -> Checkpoint:
    """A checkpoint with what recipes make, in place of what they are made of."""
    if not recipes:
        return checkpoint
    used = {name for recipe in recipes for name in recipe.sources}
    first: dict[str, list[Spec]] = defaultdict(list)
    loose: list[Spec] = []
    for recipe in recipes:
        (first[recipe.sources[0]] if recipe.sources else loose).append(recipe.spec)
    specs: list[Spec] = []
    for spec in checkpoint.specs:
        specs += first.get(spec.name, []) + ([] if spec.name in used else [spec])
    by_name = {recipe.spec.name: recipe for recipe in recipes}
    composed = _Composed(checkpoint.tensors, by_name)
    return replace(checkpoint, tensors=composed, specs=(*specs, *loose), own=checkpoint.specs)


class _Composed:
    """Tensors of which some are made when they are read."""

    def __init__(self, tensors: Tensors, recipes: Mapping[str, Recipe]) -> None:
        self._tensors, self._recipes = tensors, recipes

    @contextmanager
    def reader(self) -> Iterator[Read]:
        """What reads values."""
        with self._tensors.reader() as read:
            made = self._recipes
            yield lambda name: pieces_of(_carried_out(made[name], read)) if name in made else read(name)


def _carried_out(recipe: Recipe, read: Read) -> Tensor:
    """What a recipe makes, of what is read and of what other recipes make first."""
    values = (
        None if part is None else _carried_out(part, read) if isinstance(part, Recipe) else read_whole(read, part)
        for part in recipe.parts
    )
    return _made(recipe, list(values))


def _made(recipe: Recipe, parts: Sequence[Tensor | None]) -> Tensor:
    """Carry out a recipe."""
    there = [part for part in parts if part is not None]
    match recipe.kind:
        case "weight norm":
            length, direction = there
            return _weight_norm(length, direction)
        case "length":
            return _length(_weight_norm(*there), recipe.spec.shape)
        case "split" | "unplaced":
            start, size = recipe.sizes
            return there[0].narrow(0, start, size) if there[0].ndim else there[0]
        case "lora":
            weight, low, high = there
            product = high.flatten(1).float() @ low.flatten(1).float()
            delta = product.T if recipe.transposed else product.reshape(weight.shape)
            return _merged(recipe, weight, weight.float() + recipe.scale * delta)
        case "quantised":
            return _dequantised(recipe, *there)
    dtype = getattr(torch, recipe.spec.dtype)
    zeros = (torch.zeros(size, dtype=dtype) for size in recipe.sizes)
    return torch.cat([z if part is None else part.to(dtype) for z, part in zip(zeros, parts, strict=True)])


def _merged(recipe: Recipe, weight: Tensor, exact: Tensor) -> Tensor:
    """A weight with its delta in the weight's own dtype, which has to hold it."""
    made = exact.to(weight.dtype)
    if exact.isfinite().all() and not made.isfinite().all():
        found = f"up to {float(exact.abs().max()):g}"
        remedy = f'exclude=["{recipe.sources[1]}", "{recipe.sources[2]}"], or a smaller scale'
        fault = Mismatch(recipe.spec.name, f"values that {recipe.spec.dtype} can hold", found, remedy)
        raise TransferError("values would become infinite", [fault])
    return made


def _dequantised(recipe: Recipe, weight: Tensor, scale: Tensor, beside: Tensor | None = None) -> Tensor:
    """Numbers of eight bits times the scale of their tensor, row or block; beside them a zero point, or their layout.

    Raises:
        TransferError: If the bytes lie in tiles, as bitsandbytes stores them for some GPUs.
    """
    is_layout = recipe.scale != 1 and beside is not None
    if is_layout and beside is not None and bool(beside.any()):
        found = f"weight_format {', '.join(map(str, beside.flatten().tolist()))}, tiles of it"
        remedy = f'exclude=["{recipe.spec.name}"], or save it anew by the library that wrote it'
        fault = Mismatch(recipe.spec.name, "numbers row by row (weight_format 0)", found, remedy)
        raise TransferError("the layout of eight-bit weights is not known", [fault])
    zero = None if is_layout else beside
    values = weight.float()
    per_row = [-1, *[1] * (weight.ndim - 1)]
    if zero is not None:
        values = values - zero.float().reshape(per_row)
    if scale.ndim == 2 and tuple(scale.shape) != (weight.shape[0], 1):
        blocks = scale.float().repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
        return values * blocks[: weight.shape[0], : weight.shape[1]]
    return values * (scale.float().reshape(per_row) * recipe.scale)


def _weight_norm(length: Tensor, direction: Tensor) -> Tensor:
    """The weight that a layer with weight norm runs with, by the function that it runs."""
    kept = [axis for axis, size in enumerate(length.shape) if size > 1]
    whole = length.ndim == 0 or (not kept and direction.shape[0] > 1)
    made: Tensor = torch._weight_norm(direction, length, -1 if whole else (kept or [0])[0])
    return made


def _length(weight: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The length of a weight in the shape that weight norm of some axes keeps it in."""
    axes = [axis for axis, size in enumerate(shape) if size == 1] or None
    whole: Tensor = torch.linalg.vector_norm(weight, dim=axes if shape else None, keepdim=bool(shape))
    return whole


def own_entries(
    entries: Sequence[SourceEntry], specs: Sequence[Spec], recipes: Sequence[Recipe]
) -> tuple[SourceEntry, ...]:
    """One entry for each tensor that the checkpoint itself holds."""
    made = {entry.name: entry for entry in entries}
    by_part: dict[str, list[Recipe]] = defaultdict(list)
    for recipe in recipes:
        for name in recipe.sources:
            by_part[name].append(recipe)
    return tuple(_own_entry(spec, made, by_part.get(spec.name, [])) for spec in specs)


def _own_entry(spec: Spec, made: Mapping[str, SourceEntry], recipes: Sequence[Recipe]) -> SourceEntry:
    if not recipes:
        return made[spec.name]
    fates = [(made[recipe.spec.name], recipe) for recipe in recipes]
    left = [fate for fate in fates if fate[0].bucket not in ("loaded", "converted")]
    entry, recipe = (left or fates)[0]
    how = f"{recipe.how}; {entry.how}" if entry.how else recipe.how
    bucket = entry.bucket if left else "converted"
    changes = {"name": spec.name, "shape": spec.shape, "dtype": spec.dtype, "bucket": bucket, "how": how}
    return entry.model_copy(update=changes)


def own_targets(entries: Sequence[ModelEntry], recipes: Sequence[Recipe]) -> tuple[ModelEntry, ...]:
    """The model's entries with the checkpoint's own names as sources."""
    by_name = {recipe.spec.name: recipe for recipe in recipes}
    return tuple(_own_target(entry, by_name.get(entry.source or "")) for entry in entries)


def _own_target(entry: ModelEntry, recipe: Recipe | None) -> ModelEntry:
    if recipe is None:
        return entry
    how = f"{recipe.how}; {entry.how}" if entry.how else recipe.how
    return entry.model_copy(update={"source": ", ".join(recipe.sources) or None, "how": how})
