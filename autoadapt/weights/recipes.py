"""A recipe: a tensor that the model has and the checkpoint keeps in several, or as a part of another.

weight norm   direction and length, fused into a weight, or of another axis; by itself, since it is exact
fused         q, k, v or gate, up: joined or split, as the model has them
lora          a weight and the delta that was trained for it
quantised     numbers of eight bits times their scale

Each sees what those before it have made: rows are joined of weights whose deltas are merged. Recipes are found by
names and shapes alone; `composed.py` carries them out.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias

from autoadapt.errors import Mismatch, TransferError, nearest
from autoadapt.weights.deltas import NOT_BESIDE, find_deltas
from autoadapt.weights.layer_names import Named, ends_in, front_of, layers_of, likeness_to, most_alike
from autoadapt.weights.made_tensors import Recipe
from autoadapt.weights.tensor_specs import Spec

Merge: TypeAlias = "str | Sequence[str] | Mapping[str, float | None]"
"""`"lora"`, `"fused"`, `"quantised"`, or several; `{"lora": 2.0}` says the scale of the deltas."""

MERGES = ("lora", "fused", "quantised")
_TRIPLES = (
    ("q_proj", "k_proj", "v_proj"),
    ("query", "key", "value"),
    ("to_q", "to_k", "to_v"),
    ("wq", "wk", "wv"),
    ("q", "k", "v"),
)
# Heads are interleaved in `query_key_value` and `c_attn` is transposed: not to be joined row by row.
_FUSED: dict[tuple[str, ...], tuple[str, ...]] = {
    **dict.fromkeys(_TRIPLES, ("qkv", "qkv_proj", "in_proj", "to_qkv", "Wqkv")),
    ("gate_proj", "up_proj"): ("gate_up_proj",),
    ("w1", "w2"): ("w12",),
    ("w1", "w3"): ("w13",),
    ("k", "v"): ("kv",),
    ("to_k", "to_v"): ("to_kv",),
    ("q", "kv"): ("qkv",),
    ("to_q", "to_kv"): ("to_qkv",),
}
"""Words of layers, and of the layer that holds their rows one after the other."""
NORMS = (("weight_g", "weight_v"), ("parametrizations.weight.original0", "parametrizations.weight.original1"))
"""The last names of a length and a direction: of the function, and of the parametrization."""

_EIGHT_BITS = ("int8", "float8_e4m3fn", "float8_e5m2")
BLOCK = 128
"""Rows and columns that share a `weight_scale_inv`."""


def read_merge(merge: Merge) -> dict[str, float | None]:
    """Read the argument `merge`.

    Raises:
        TransferError: If a kind is unknown.
    """
    named = [merge] if isinstance(merge, str) else merge
    kinds: dict[str, float | None] = dict(named) if isinstance(named, Mapping) else dict.fromkeys(named)
    unknown = [kind for kind in kinds if kind not in MERGES]
    if unknown:
        close = nearest(unknown[0], MERGES, count=1) or [MERGES[0]]
        fault = Mismatch("merge", f"one of {', '.join(MERGES)}", repr(unknown[0]), f'merge="{close[0]}"')
        raise TransferError("unknown kind of merge", [fault])
    return kinds


def find_recipes(
    sources: Sequence[Spec],
    targets: Sequence[Spec],
    kinds: Mapping[str, float | None],
    *,
    transposed: Collection[str] = (),
    unscaled: str = NOT_BESIDE,
) -> list[Recipe]:
    """What can be made of a checkpoint's tensors that the model has and the checkpoint has not.

    Args:
        sources: All tensors of the checkpoint.
        targets: All tensors of the model.
        kinds: What the caller asks for.
        transposed: Names of the model's weights that lie as `[in, out]`.
        unscaled: Why there is no scale of deltas, where there is none.

    Example:
        >>> old = [Spec(f"attn.{part}.weight", (4, 4)) for part in "qkv"]
        >>> [recipe.spec.name for recipe in find_recipes(old, [Spec("attn.qkv.weight", (12, 4))], {"fused": None})]
        ['attn.qkv.weight']
    """
    by_name = Named((spec.name, spec) for spec in sources)
    names = Named((spec.name, spec) for spec in targets)
    found = list(_weight_norms(by_name, names))
    if "quantised" in kinds:
        found = _then(found, _dequantised(_seen(by_name, found), names))
    if "lora" in kinds:
        found = _then(found, find_deltas(_seen(by_name, found), names, kinds["lora"], transposed, unscaled))
    if "fused" in kinds:
        seen = _unwrapped(_seen(by_name, found))
        found = _then(found, [*_joined(seen, names), *_split(seen, names), *_query_biases(seen, names)])
    return found


def _seen(sources: Named, recipes: Sequence[Recipe]) -> Named:
    """The checkpoint with what recipes make, in place of what they are made of."""
    used = {name for recipe in recipes for name in recipe.sources}
    left = {name: spec for name, spec in sources.items() if name not in used}
    return Named(left | {recipe.spec.name: recipe.spec for recipe in recipes})


def _unwrapped(sources: Named) -> Named:
    """Layers that an adapter wraps by the names that they have without it."""
    short = {name.replace(".base_layer.", "."): spec for name, spec in sources.items()}
    return Named(short | {name: spec for name, spec in sources.items() if ".base_layer." not in name})


def _then(recipes: Sequence[Recipe], later: Iterable[Recipe]) -> list[Recipe]:
    """Recipes, and later ones of what they make."""
    made = {recipe.spec.name: recipe for recipe in recipes}
    found = [recipe.made_of(made) for recipe in later]
    used = {step for recipe in found for step in recipe.steps}
    return [recipe for recipe in recipes if recipe not in used] + found


def _weight_norms(sources: Named, targets: Named) -> Iterator[Recipe]:
    """A weight of its length and direction, in the spelling of the model or fused."""
    normed = {spelling: layers_of(targets, spelling[1]) for spelling in NORMS}
    plain = layers_of(targets, "weight")
    for spelling in NORMS:
        for layer in layers_of(sources, spelling[1]):
            length, direction = (sources.get(front_of(layer) + leaf) for leaf in spelling)
            if length is None or direction is None or not _scales(length.shape, direction.shape):
                continue
            likeness = {other: likeness_to(layer, layers) for other, layers in normed.items()}
            best = max(likeness, key=lambda other: (likeness[other], other == spelling))
            if likeness[best] == (0, 0) or likeness_to(layer, plain) > likeness[best]:
                how = "weight norm fused: direction times length"
                spec = Spec(f"{front_of(layer)}weight", direction.shape, direction.dtype)
                yield Recipe("weight norm", spec, (length, direction), how)
            elif (other := _other_length(layer, length, direction, best, targets, normed[best])) is not None:
                how = "weight norm along other axes"
                yield Recipe("length", other, (length, direction), how)
                spec = Spec(front_of(layer) + best[1], direction.shape, direction.dtype)
                yield Recipe("weight norm", spec, (length, direction), how)
            elif best != spelling:
                for part, leaf in zip((length, direction), best, strict=True):
                    spec = Spec(front_of(layer) + leaf, part.shape, part.dtype)
                    yield Recipe("split", spec, (part,), "weight norm, respelt", (0, (*part.shape, 0)[0]))


def _other_length(
    layer: str, length: Spec, direction: Spec, spelling: tuple[str, str], targets: Named, layers: list[str]
) -> Spec | None:
    """The length that the model has of the same weight, where it is of other axes than the checkpoint's."""
    at = most_alike(layer, layers)
    wanted, whole = (targets.get(front_of(at or "") + leaf) for leaf in spelling)
    if at is None or wanted is None or whole is None or whole.shape != direction.shape:
        return None
    if wanted.shape == length.shape or not _scales(wanted.shape, whole.shape):
        return None
    return Spec(front_of(layer) + spelling[0], wanted.shape, length.dtype)


def _scales(length: tuple[int, ...], direction: tuple[int, ...]) -> bool:
    """Whether there is a length for all, or for each entry of some axes, of a direction."""
    return all(size in (1, axis) for size, axis in zip(length, direction, strict=False))


def _joined(sources: Named, targets: Named) -> Iterator[Recipe]:
    """Projections that the model has in one layer."""
    ends = {
        ending: {layer.rpartition(".")[2] for layer in layers_of(targets, ending)}
        for fused in set(_FUSED.values())
        for ending in (_fused_name("", word, leaf) for word in fused for leaf in ("weight", "bias"))
    }
    for words, fused_words in _FUSED.items():
        for at in layers_of(sources, f"{words[0]}.weight"):
            parts = [sources.get(f"{front_of(at)}{word}.weight") for word in words]
            weights = [part for part in parts if part is not None and _is_linear(part)]
            last = at.rpartition(".")[2]
            word = next((w for w in fused_words if last in ends[_fused_name("", w, "weight")]), None)
            dtype = _common_dtype(weights)
            if word is None or len(weights) < len(words) or len({w.shape[1:] for w in weights}) > 1 or not dtype:
                continue
            sizes = tuple(weight.shape[0] for weight in weights)
            how = f"joined: {', '.join(words)}"
            spec = Spec(_fused_name(at, word, "weight"), (sum(sizes), *weights[0].shape[1:]), dtype)
            yield Recipe("join", spec, tuple(weights), how, sizes)
            biases = tuple(sources.get(f"{front_of(at)}{w}.bias") for w in words)
            there = [bias for bias in biases if bias is not None]
            dtype = _common_dtype(there or weights)
            if dtype and (there or last in ends[_fused_name("", word, "bias")]):
                without = ", ".join(w for w, bias in zip(words, biases, strict=True) if bias is None)
                how = f"{how}{f', zero for {without}' if without else ''}"
                yield Recipe("join", Spec(_fused_name(at, word, "bias"), (sum(sizes),), dtype), biases, how, sizes)


def _common_dtype(parts: Sequence[Spec]) -> str:
    """A dtype that holds the values of all; empty where some are of another kind, as numbers beside a scale are."""
    dtypes = {part.dtype for part in parts}
    if len(dtypes) > 1 and not dtypes <= {"float64", "float32", "float16", "bfloat16"}:
        return ""
    return dtypes.pop() if len(dtypes) == 1 else "float64" if "float64" in dtypes else "float32"


def _is_linear(weight: Spec) -> bool:
    """Whether a weight is that of a linear layer or of a convolution of single cells."""
    return len(weight.shape) >= 2 and all(size == 1 for size in weight.shape[2:])


def _fused_name(layer: str, word: str, leaf: str) -> str:
    return f"{front_of(layer)}{word}{'_' if word == 'in_proj' else '.'}{leaf}"


def _split(sources: Named, targets: Named) -> Iterator[Recipe]:
    """Parts of a layer that the model has one by one; their rows are those of the model."""
    for words, fused_words in _FUSED.items():
        for word in fused_words:
            for at in layers_of(sources, _fused_name("", word, "weight")):
                layer = most_alike(at, layers_of(targets, f"{words[0]}.weight"))
                fused = sources[_fused_name(at, word, "weight")]
                sizes = [targets[n].shape[0] for w in words if (n := f"{front_of(layer or '')}{w}.weight") in targets]
                if layer is None or len(sizes) < len(words) or sum(sizes) != fused.shape[0]:
                    continue
                yield from _parts(fused, at, words, sizes, "weight")
                bias = sources.get(_fused_name(at, word, "bias"))
                if bias is not None:
                    placed = [f"{front_of(layer)}{w}.bias" in targets for w in words]
                    yield from _parts(bias, at, words, sizes, "bias", placed if any(placed) else None)
                else:
                    yield from _zeros(fused, at, words, sizes, targets, layer)


def _parts(
    whole: Spec, at: str, words: Sequence[str], sizes: Sequence[int], leaf: str, placed: Sequence[bool] | None = None
) -> Iterator[Recipe]:
    """Where the model has a bias for some of the layers alone, other parts are zero, or of keys (`_query_biases`)."""
    keys, start = {triple[1] for triple in _TRIPLES}, 0
    there = placed or [True] * len(words)
    left = any(word in keys and not is_there for word, is_there in zip(words, there, strict=True))
    how = f"split: {', '.join(words)}{'; the bias of the keys has no effect' if left else ''}"
    for word, size, is_there in zip(words, sizes, there, strict=True):
        if is_there or word not in keys:
            spec = Spec(f"{front_of(at)}{word}.{leaf}", (size, *whole.shape[1:]), whole.dtype)
            yield Recipe("split" if is_there else "unplaced", spec, (whole,), how, (start, size))
        start += size


def _zeros(
    weight: Spec, at: str, words: Sequence[str], sizes: Sequence[int], targets: Mapping[str, Spec], layer: str
) -> Iterator[Recipe]:
    for word, size in zip(words, sizes, strict=True):
        if f"{front_of(layer)}{word}.bias" in targets:
            spec = Spec(f"{front_of(at)}{word}.bias", (size,), weight.dtype)
            yield Recipe("join", spec, (None,), "zero: there is no bias in the checkpoint", (size,))


def _dequantised(sources: Named, targets: Named) -> Iterator[Recipe]:
    """Weights of eight bits times the scale beside them, where the scheme is one of four that are known.

    LLM.int8 keeps the largest value of each row (`SCB`), which 127 stands for, and may say how its bytes lie
    (`weight_format`, 0 where row by row); `weight_scale` of a tensor or of its
    rows is a factor, less `weight_zero_point` where there is one; `weight_scale_inv` is a factor for each block of
    128 x 128, as DeepSeek-V3 stores it.
    """
    for layer in layers_of(sources, "weight"):
        front = front_of(layer)
        weight = sources[f"{front}weight"]
        kept = any(f"{front}{leaf}" in targets for leaf in ("SCB", "weight_scale", "weight_scale_inv"))
        if weight.dtype not in _EIGHT_BITS or len(weight.shape) < 2 or kept:
            continue
        rows, columns = weight.shape[0], weight.shape[1]
        blocks = (-(-rows // BLOCK), -(-columns // BLOCK))
        fitting = {
            "SCB": [(rows,), (rows, 1)],
            "weight_scale": [(), (1,), (rows,), (rows, 1), (rows, *[1] * (len(weight.shape) - 1))],
            "weight_scale_inv": [(), (1,), blocks],
        }
        leaf = next((leaf for leaf in fitting if f"{front}{leaf}" in sources), "")
        scale, zero = sources.get(f"{front}{leaf}"), sources.get(f"{front}weight_zero_point")
        offset = any(spec.startswith(front) and "zero" in spec[len(front) :] for spec in sources)
        if leaf == "weight_scale" and zero is None and offset:
            continue  # a zero point by a name that no scheme here has
        if not leaf or scale is None or tuple(scale.shape) not in fitting[leaf] or (leaf == "SCB" and offset):
            continue
        beside = sources.get(f"{front}weight_format") if leaf == "SCB" else zero
        parts = (weight, scale, *([beside] if beside is not None else []))
        how = f"dequantised: {weight.dtype} times {leaf}{' / 127' if leaf == 'SCB' else ''}"
        spec = Spec(weight.name, weight.shape, "float32")
        yield Recipe("quantised", spec, parts, how, scale=1 / 127 if leaf == "SCB" else 1.0)


def _query_biases(sources: Named, targets: Named) -> Iterator[Recipe]:
    """`q_bias` and `v_bias` beside a fused weight, as in BEiT, and the bias of one layer; that of the keys is zero.

    A bias of the keys adds the same to every score of a query, which the softmax takes out: leaving it is exact.
    """
    for at in layers_of(sources, "q_bias"):
        query, value = sources[f"{front_of(at)}q_bias"], sources.get(f"{front_of(at)}v_bias")
        fused = f"{front_of(at)}qkv.bias"
        if value is not None and ends_in(targets, fused):
            sizes = (*query.shape, *query.shape, *value.shape)
            spec = Spec(fused, (sum(sizes),), query.dtype)
            yield Recipe("join", spec, (query, None, value), "joined: q_bias, v_bias, zero for the keys", sizes)
        for words in _TRIPLES:
            if f"{front_of(at)}qkv.weight" in sources and ends_in(targets, f"{front_of(at)}{words[0]}.bias"):
                yield from _renamed(sources, at, {"q_bias": f"{words[0]}.bias", "v_bias": f"{words[2]}.bias"})
    for words in _TRIPLES:
        for at in layers_of(sources, f"{words[0]}.bias"):
            if ends_in(targets, f"{front_of(at)}q_bias") and ends_in(targets, f"{front_of(at)}qkv.weight"):
                yield from _renamed(sources, at, {f"{words[0]}.bias": "q_bias", f"{words[2]}.bias": "v_bias"})
    for at in layers_of(sources, "qkv.bias"):
        fused_spec = sources[f"{front_of(at)}qkv.bias"]
        size = fused_spec.shape[0] // 3
        for leaf, start in (("q_bias", 0), ("v_bias", 2 * size)) if ends_in(targets, f"{front_of(at)}q_bias") else ():
            spec = Spec(f"{front_of(at)}{leaf}", (size,), fused_spec.dtype)
            yield Recipe("split", spec, (fused_spec,), "split: the bias of the keys has no effect", (start, size))


def _renamed(sources: Mapping[str, Spec], at: str, names: Mapping[str, str]) -> Iterator[Recipe]:
    for old, new in names.items():
        part = sources.get(f"{front_of(at)}{old}")
        if part is not None:
            spec = Spec(f"{front_of(at)}{new}", part.shape, part.dtype)
            yield Recipe("split", spec, (part,), f"as {new}", (0, *part.shape))
