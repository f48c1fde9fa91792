"""Deltas: tensors that an adapter such as LoRA adds to weights, known by their names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from autoadapt.errors import Mismatch, TransferError
from autoadapt.weights.recipes import Recipe
from autoadapt.weights.tensor_specs import Spec

__all__ = ["WITH_BASE", "check_deltas", "is_delta"]

_DELTAS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", "lora_down", "lora_up")

WITH_BASE = 'transfer({**base, **adapter}, model, merge={"lora": 2.0})      states of both; 2.0 is lora_alpha / r'
"""What to do with an adapter that came without the weights that it changes."""


def is_delta(name: str) -> bool:
    """Whether a tensor was trained to be added to a weight."""
    return "lora_" in name and any(word in _DELTAS for word in name.split("."))


def check_deltas(specs: Iterable[Spec], recipes: Sequence[Recipe]) -> None:
    """Refuse deltas that were asked for and would be left out: of several adapters at one layer, and of other kinds.

    Args:
        specs: The tensors of the checkpoint that the caller wants.
        recipes: What is made of them.

    Raises:
        TransferError: With the layers.
    """
    merged = [step for recipe in recipes for step in recipe.steps if step.kind == "lora"]
    taken = {name for recipe in merged for name in recipe.sources}
    several = {name: count for name, count in Counter(recipe.spec.name for recipe in merged).items() if count > 1}
    remedy = 'exclude=["*.other.*"]      of all adapters but one'
    faults = [Mismatch(name, "one adapter", f"{count} adapters", remedy) for name, count in several.items()]
    expected = "lora_A and lora_B beside the weight that they change, of its size"
    specs = list(specs)
    if specs and all(is_delta(spec.name) for spec in specs):
        found = f"{len(specs)} deltas without the weights they belong to"
        raise TransferError("an adapter alone cannot be merged", [Mismatch("merge", "weights", found, WITH_BASE)])
    faults += [
        Mismatch(spec.name, expected, "a delta of another kind, or without its weight", f'exclude=["{spec.name}"]')
        for spec in specs
        if is_delta(spec.name) and spec.name not in taken
    ]
    if faults:
        raise TransferError(f"{len(faults)} deltas cannot be merged", faults[:6])
