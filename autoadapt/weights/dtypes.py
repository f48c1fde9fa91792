"""Dtypes: which kind of number may become which, and how a quantised layer is known.

Integers beside a scale are no weights: cast to floats they are wrong by that scale, in the right shape.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch

from autoadapt.weights.tensor_specs import Spec, parent

# What stands beside the numbers of a quantised layer, and the scheme that it tells; the first that is there counts.
_SCHEMES = {
    "SCB": "LLM.int8, SCB",
    "weight.quant_map": "bitsandbytes 4 bit, absmax",
    "weight.absmax": "bitsandbytes, absmax",
    "absmax": "bitsandbytes, absmax",
    "qzeros": "GPTQ or AWQ, qzeros",
    "weight_packed": "compressed-tensors, weight_packed",
    "weight_scale_inv": "weight_scale_inv",
    "weight_scale": "weight_scale",
    "weight_zero_point": "weight_zero_point",
    "scales": "scales",
    "scale": "scale",
}
_WORDS = {"weight", "qweight", "weight_packed"}
_NARROW = ("int8", "uint8")


def quantised_layers(specs: Iterable[Spec]) -> dict[str, str]:
    """The scheme of each quantised layer, by the layer's name.

    Example:
        >>> quantised_layers([Spec("fc.weight", (4, 8), "int8"), Spec("fc.SCB", (4,))])
        {'fc': 'LLM.int8, SCB'}
    """
    specs = list(specs)
    names = {spec.name for spec in specs}
    found: dict[str, str] = {}
    for spec in specs:
        layer, leaf = parent(spec.name), spec.name.rpartition(".")[2]
        if leaf in _WORDS and not is_float(spec.dtype):
            front = f"{layer}." if layer else ""
            known = next((scheme for end, scheme in _SCHEMES.items() if front + end in names), "")
            if known:
                found[layer] = known
    return found


def castable(source: Spec, target: str, *, parameter: bool, schemes: Mapping[str, str]) -> str:
    """Why the numbers of a tensor cannot become those of another dtype; empty if they can.

    Args:
        source: The tensor.
        target: The dtype of its place.
        parameter: Whether its place is a parameter; a buffer may be a count that somebody keeps as a float.
        schemes: Of quantised layers, by their names.

    Example:
        >>> castable(Spec("fc.weight", (4, 8), "int8"), "float32", parameter=True, schemes={"fc": "SCB"})
        'int8 of a quantised layer (SCB) cannot become float32'
        >>> castable(Spec("fc.weight", (4, 8), "float16"), "float32", parameter=True, schemes={})
        ''
    """
    old, new = source.dtype, target
    if old == new or _keeps_meaning(old, new, parameter=parameter):
        return ""
    scheme = schemes.get(parent(source.name), "")
    of = f" of a quantised layer ({scheme})" if scheme else ""
    return f"{old}{of} cannot become {new}"


def _keeps_meaning(old: str, new: str, *, parameter: bool) -> bool:
    before, after = getattr(torch, old, None), getattr(torch, new, None)
    if not (isinstance(before, torch.dtype) and isinstance(after, torch.dtype) and torch.can_cast(before, after)):
        return False
    match is_float(old), is_float(new):
        case (True, True):
            return True
        case (False, True):
            return not parameter and old not in _NARROW and not old.startswith("float")
        case (False, False):
            return not {old[:5], new[:5]} & {"float"} and _holds(before, after)
    return False


def _holds(before: torch.dtype, after: torch.dtype) -> bool:
    """Whether integers of one dtype are integers of another; counts of 64 bits are never too large for 32."""
    if torch.bool in (before, after):
        return before == torch.bool
    small, large = torch.iinfo(before), torch.iinfo(after)
    return min(small.bits, large.bits) >= 32 or (large.min <= small.min and small.max <= large.max)


def is_float(dtype: str) -> bool:
    """Whether numbers of a dtype are values as they stand: real or complex, and not of eight bits beside a scale."""
    return dtype.startswith(("float16", "float32", "float64", "bfloat", "complex"))
