"""Deltas: tensors that an adapter such as LoRA adds to weights, known by their names."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from autoadapt.errors import Mismatch, TransferError
from autoadapt.weights.layer_names import Named, front_of, layers_of, most_alike
from autoadapt.weights.made_tensors import Recipe
from autoadapt.weights.tensor_specs import Spec, parent

_DELTAS = ("lora_A", "lora_B", "lora_embedding_A", "lora_embedding_B", "lora_magnitude_vector", "lora_down", "lora_up")

WITH_BASE = 'transfer({**base, **adapter}, model, merge={"lora": 2.0})      states of both; 2.0 is lora_alpha / r'
"""What to do with an adapter that came without the weights that it changes."""
NOT_BESIDE = "it is lora_alpha / r, of the adapter's config, which is not beside the file"
UNTOLD = "the adapter_config.json beside the file tells no lora_alpha and r that give one"


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


def find_deltas(
    sources: Mapping[str, Spec], targets: Named, scale: float | None, transposed: Collection[str], unscaled: str
) -> Iterator[Recipe]:
    """Weights with the deltas that belong to them.

    Args:
        sources: The tensors of the checkpoint.
        targets: Those of the model.
        scale: Of the deltas.
        transposed: Names of the model's weights that lie as `[in, out]`, which is not how deltas lie.
        unscaled: Why there is no scale, where there is none.

    Raises:
        TransferError: If there are deltas and no scale.
    """
    turned = {parent(name) for name in transposed}
    layers = layers_of(targets, "weight") if turned else []
    faults = []
    for name, low in sources.items():
        layer, _, rest = name.partition(".lora_A.")
        high = sources.get(f"{layer}.lora_B.{rest}")
        weight = _changed_weight(sources, layer)
        magnitude = any(other.startswith(f"{layer}.lora_magnitude_vector") for other in sources)
        if high is None or weight is None or magnitude:
            continue
        turn = most_alike(parent(weight.name).replace(".base_layer", ""), layers) in turned
        if not _multiplies(high, low, weight.shape[::-1] if turn else weight.shape):
            continue
        if scale is None:
            faults.append(Mismatch("merge", "the scale of the deltas", "none", *_remedy(unscaled)))
            break
        how = f"LoRA merged: W + {scale:g} * {'(B A)^T' if turn else 'B A'}"
        yield Recipe("lora", weight, (weight, low, high), how, scale=scale, transposed=turn)
    if faults:
        raise TransferError("the scale of the deltas is not known", faults)


def _remedy(unscaled: str) -> tuple[str, str]:
    """What to do without a scale, and why there is none."""
    if unscaled in (NOT_BESIDE, UNTOLD):
        return 'merge={"lora": 2.0}', unscaled
    return "peft_model.merge_and_unload()      in PEFT, and save what comes back", unscaled


def _multiplies(high: Spec, low: Spec, shape: tuple[int, ...]) -> bool:
    """Whether the product of two factors is a weight, all but the first axes of each flattened."""
    if not high.shape or not low.shape:
        return False
    rows, columns = high.shape[0], math.prod(low.shape[1:])
    fits = bool(shape) and rows == shape[0] and rows * columns == math.prod(shape)
    return math.prod(high.shape[1:]) == low.shape[0] and fits


def _changed_weight(sources: Mapping[str, Spec], layer: str) -> Spec | None:
    """The weight that a delta was trained for: beside it, or by its name in the base model, without PEFT's front."""
    for at in (layer, layer.removeprefix("base_model.model."), layer.removeprefix("base_model.")):
        for ending in ("base_layer.weight", "weight"):
            if (weight := sources.get(front_of(at) + ending)) is not None:
                return weight
    return None
