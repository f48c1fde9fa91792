"""Linear functions: what the functions of torch that treat all channels alike do to statements about their tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from autoadapt.contracts.capturing.arguments import tensors_in
from autoadapt.swapping.folding.rerouting import function_name
from autoadapt.swapping.folding.shuffles import ORDERING, shuffled
from autoadapt.swapping.folding.statements import NotLinearError, Statement, joined, plain_statement, summed

__all__ = ["SHAPE_ONLY", "Followed", "drops", "follow"]

SHAPE_ONLY = frozenset(
    {"size", "dim", "numel", "stride", "is_floating_point", "__len__", "is_contiguous", "get_device", "element_size"}
)
"""Functions that read no values; the getters of attributes are others."""

_AS_IT_IS = frozenset(
    {"clone", "contiguous", "detach", "to", "float", "half", "bfloat16", "double", "type", "type_as", "cpu", "cuda"}
    | {"dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout", "requires_grad_"}
)
"""They return the same channels at the same places, dropout in eval mode."""

_MOVING = frozenset(
    {"view", "reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis"}
    | {"squeeze", "unsqueeze", "view_as", "reshape_as", "expand", "expand_as", "repeat", "tile", "__get__", "adjoint"}
    | {"interpolate", "upsample", "upsample_nearest", "upsample_bilinear", "pad", "mean", "unfold", "_adaptive_pool"}
    | {f"{name}{n}d" for name in ("avg_pool", "adaptive_avg_pool") for n in (1, 2, 3)}
)
"""They move places, or mix them the same way for every channel."""

_TAKING = frozenset(
    {"__getitem__", "chunk", "split", "split_with_sizes", "tensor_split", "narrow", "index_select", "flip", "roll"}
    | {"channel_shuffle", "native_channel_shuffle", "unsafe_chunk", "unsafe_split"}
)
"""They take some channels, or some places."""

_JOINING = frozenset({"cat", "concat", "concatenate"})
_ADDING = frozenset({"add", "__add__", "__radd__", "__iadd__", "add_"})
_SUBTRACTING = frozenset({"sub", "subtract", "__sub__", "__isub__", "sub_"})
_SCALING = frozenset({"mul", "multiply", "__mul__", "__rmul__", "div", "true_divide", "divide", "__truediv__"})


@dataclass(frozen=True)
class Followed:
    """What is known after a call: of each tensor that it returns, and what has to be done in its place."""

    statements: tuple[Statement | None, ...]
    does: str = ""
    """`join` or `whole`, as a `Reroute` does; empty where the call stays as it is."""
    operands: tuple[Statement, ...] = ()
    """Of the tensors that a rerouted call is given."""
    expands: bool = False


def drops(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> bool:
    """Whether a call is one of dropout that drops something."""
    share = kwargs.get("p", args[1] if len(args) > 1 else 0.5)
    active = kwargs.get("training", kwargs.get("train", args[2] if len(args) > 2 else True))
    return "dropout" in name and bool(active) and share > 0


Known = Callable[[torch.Tensor], Statement | None]


def follow(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, known: Known) -> Followed:
    """What a function of torch does to what is known of tensors among its arguments.

    Args:
        function: The function, which was called.
        args: Its positional arguments.
        kwargs: The others.
        result: What it returned.
        known: What is known of a tensor; None for one that is made of no level.

    Raises:
        NotLinearError: It is not linear over channels, or no function that is known to be.
    """
    name = function_name(function)
    if any(one is not None and one.shuffle is not None for one in map(known, tensors_in((args, kwargs)))):
        return _shuffled(function, args, kwargs, result, known)
    if "out" in kwargs and kwargs["out"] is not None:
        raise NotLinearError("out=")
    if name in _JOINING:
        return _join(args, kwargs, known)
    if name in _ADDING | _SUBTRACTING:
        return _add(args, kwargs, result, known, -1.0 if name in _SUBTRACTING else 1.0)
    if name in _SCALING and len(args) > 1 and kwargs.get("rounding_mode") is None:
        return _scale(name, args, result, known)
    first = args[0] if args else kwargs.get("input")
    stated = known(first) if isinstance(first, torch.Tensor) else None
    if first is None or stated is None or name not in _AS_IT_IS | _MOVING | _TAKING | {"neg"}:
        raise NotLinearError("")
    if name == "neg":
        return Followed((stated.without_constants(),))
    if name in _AS_IT_IS and result.shape == first.shape:
        if not result.is_floating_point():
            raise NotLinearError("it rounds")
        return Followed((stated,))
    if name in ORDERING - _TAKING:
        try:
            return Followed((_moved(function, args, kwargs, first, stated),))
        except NotLinearError:
            return _shuffled(function, args, kwargs, result, known)
    if name not in _TAKING:
        return Followed((_moved(function, args, kwargs, first, stated),))
    return _taken(function, args, kwargs, result, stated)


def _shuffled(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, known: Known) -> Followed:
    """Channels are spread over axes, or on the way back: the tensor as it was is handed on in place of the call."""
    first = args[0] if args and isinstance(args[0], torch.Tensor) else kwargs.get("input")
    stated = known(first) if isinstance(first, torch.Tensor) else None
    if first is None or stated is None or function_name(function) not in ORDERING:
        raise NotLinearError("channels are spread over several axes")
    if any(one is not first for one in tensors_in((args, kwargs))):
        raise NotLinearError("a tensor tells which channels it takes, and may hold other numbers at another call")
    made = shuffled(stated, first, lambda numbers: _on_shadow(function, args, kwargs, numbers))
    return Followed(made, "whole", (stated,))


def _shadow(tensor: torch.Tensor, stated: Statement) -> torch.Tensor:
    """A tensor of the same shape that holds for each place the number of its channel, from 1."""
    numbers = torch.arange(1.0, stated.channels + 1, device=tensor.device)
    along = numbers.repeat_interleave(stated.inner).repeat(stated.outer)
    shape = [1] * tensor.dim()
    shape[stated.axis] = -1
    return along.reshape(shape).expand(tensor.shape).clone()


def _on_shadow(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], shadow: torch.Tensor) -> Any:
    if args and isinstance(args[0], torch.Tensor):
        return function(shadow, *args[1:], **kwargs)
    return function(*args, **{**kwargs, "input": shadow})


def _rows(made: torch.Tensor, prefer: int) -> tuple[int, list[int]] | None:
    """The one axis along which a shadow varies, and the channels along it; None where there is no such axis."""
    order = sorted(range(made.dim()), key=lambda axis: axis != prefer)
    for axis in order:
        flat = made.movedim(axis, 0).reshape(made.shape[axis], -1)
        if flat.numel() and float((flat.amax(1) - flat.amin(1)).max()) < 1e-2:
            values = flat[:, 0]
            whole = values.round()
            if float((values - whole).abs().max()) < 1e-2 and float(whole.min()) >= 1:
                return axis, [int(value) - 1 for value in whole]
    return None


def _moved(
    function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], first: torch.Tensor, stated: Statement
) -> Statement:
    made = _on_shadow(function, args, kwargs, _shadow(first, stated))
    if not isinstance(made, torch.Tensor):
        raise NotLinearError("")
    found = _rows(made, stated.axis)
    if found is None:  # ones do not stay ones: padding with zeros
        twice = _on_shadow(function, args, kwargs, 2 * _shadow(first, stated))
        _check_alike(made, twice, stated)
        return stated.without_constants()
    axis, rows = found
    inner = next((i for i, row in enumerate(rows) if row != rows[0]), len(rows))
    outer = len(rows) // (inner * stated.channels) if stated.channels > 1 else 1
    order = [channel for _ in range(outer) for channel in range(stated.channels) for _ in range(inner)]
    if rows != order:
        raise NotLinearError("it mixes channels with places")
    return replace(stated, axis=axis, outer=outer, inner=inner)


def _check_alike(made: torch.Tensor, twice: torch.Tensor, stated: Statement) -> None:
    """Check that a shadow came out with the same factors for all channels, and twice it twice as large.

    Raises:
        NotLinearError: It did not.
    """
    if made.dim() <= stated.axis or made.shape[stated.axis] != stated.outer * stated.channels * stated.inner:
        raise NotLinearError("it mixes channels with places")
    numbers = torch.arange(1.0, stated.channels + 1, device=made.device)
    along = numbers.repeat_interleave(stated.inner).repeat(stated.outer)
    factors = made.movedim(stated.axis, -1) / along
    if stated.inner == stated.outer == 1:
        spread = float((factors.amax(-1) - factors.amin(-1)).max())
        if not spread < 1e-3 * max(float(factors.abs().max()), 1e-30):
            raise NotLinearError("it mixes channels with places")
    if not torch.allclose(twice, 2 * made, rtol=1e-4):
        raise NotLinearError("it adds a number")


def _taken(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, stated: Statement) -> Followed:
    first = args[0] if args else kwargs["input"]
    _check_told_by_code(function_name(function), args, kwargs, first, stated.axis)
    parts = [result] if isinstance(result, torch.Tensor) else list(result)
    made = _on_shadow(function, args, kwargs, _shadow(first, stated))
    shadows = [made] if isinstance(made, torch.Tensor) else list(made)
    found = [_rows(one, stated.axis) for one in shadows]
    everything = [row for _ in range(stated.outer) for row in range(stated.channels) for _ in range(stated.inner)]
    if all(one is not None and one[1] == everything for one in found):
        return Followed(tuple(replace(stated, axis=one[0]) for one in found if one is not None))
    if stated.outer != 1 or stated.inner != 1:
        raise NotLinearError("it takes some channels where they are merged with places")
    statements = []
    for one, part in zip(found, parts, strict=True):
        sizes = [size for axis, size in enumerate(part.shape) if axis != stated.axis]
        if one is None or part.dim() != first.dim() or one[0] != stated.axis or sizes != _others(first, stated.axis):
            raise NotLinearError("it takes channels and places at once")
        statements.append(stated.of_rows(one[1]))
    return Followed(tuple(statements), "whole", (stated,))


def _check_told_by_code(
    name: str, args: Sequence[Any], kwargs: Mapping[str, Any], first: torch.Tensor, axis: int
) -> None:
    """Check that the channels that are taken are told by the code.

    Raises:
        NotLinearError: They are told by a tensor, as by a buffer, which may hold other numbers tomorrow.
    """
    if all(one is first for one in tensors_in((args, kwargs))):
        return
    if name == "__getitem__" and _index_of(args[1], axis, first.dim()) == slice(None):
        return
    told: Any = args[1] if len(args) > 1 else kwargs.get("dim")
    if name != "index_select" or told % first.dim() == axis:
        raise NotLinearError("a tensor tells which channels it takes, and may hold other numbers at another call")


def _index_of(index: Any, axis: int, dims: int) -> Any:
    """What an index says of an axis, or None where it is not said for it alone."""
    entries = list(index) if isinstance(index, tuple) else [index]
    takes = [_axes_of(one) for one in entries]
    if any(one is Ellipsis for one in entries):
        at = next(i for i, one in enumerate(entries) if one is Ellipsis)
        entries[at : at + 1] = [slice(None)] * (dims - sum(takes))
        takes[at : at + 1] = [1] * (dims - sum(takes))
    starts = [sum(takes[:i]) for i in range(len(takes))]
    found = [one for one, start, taken in zip(entries, starts, takes, strict=True) if start <= axis < start + taken]
    return found[0] if found else slice(None)


def _axes_of(entry: Any) -> int:
    """How many axes an entry of an index stands for; an ellipsis for none of its own."""
    if entry is None or entry is Ellipsis:
        return 0
    return entry.dim() if isinstance(entry, torch.Tensor) and entry.dtype == torch.bool else 1


def _others(tensor: torch.Tensor, axis: int) -> list[int]:
    return [size for number, size in enumerate(tensor.shape) if number != axis]


def _join(args: Sequence[Any], kwargs: Mapping[str, Any], known: Known) -> Followed:
    tensors = list(args[0] if args else kwargs["tensors"])
    axis = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
    axis = axis % tensors[0].dim()
    found = [known(one) for one in tensors]
    told = [one for one in found if one is not None]
    if all(axis != one.axis for one in told):
        if len(told) == len(tensors) and all(one.is_like(told[0]) for one in told):
            return Followed((told[0],))
        raise NotLinearError("it puts other places beside those of an adapted output")
    parts = []
    for one, tensor in zip(found, tensors, strict=True):
        size = tensor.shape[axis]
        inner = told[0].inner
        if one is None and size % inner == 0:
            parts.append(replace(plain_statement(axis, size // inner, size // inner), inner=inner))
        elif one is not None:
            parts.append(one)
    if len(parts) < len(tensors):
        raise NotLinearError("channels stand on different axes, or merged with places")
    return Followed((joined(parts),))


def _add(args: Sequence[Any], kwargs: Mapping[str, Any], result: torch.Tensor, known: Known, sign: float) -> Followed:
    scale = kwargs.get("alpha", 1)
    tensors = [one for one in args if isinstance(one, torch.Tensor)]
    if len(args) != 2 or not isinstance(scale, (int, float)):
        raise NotLinearError("")
    if len(tensors) == 1:
        if any(isinstance(one, (int, float)) and one == 0 for one in args) and (sign > 0 or args[0] is tensors[0]):
            return Followed((known(tensors[0]),))  # as `sum` begins
        raise NotLinearError("it adds a number")
    told = [known(one) for one in args]
    axis = next(one.axis + result.dim() - tensor.dim() for one, tensor in zip(told, args, strict=True) if one)
    parts = [_summand(one, tensor, result, axis) for one, tensor in zip(told, args, strict=True)]
    expands = any(one.dim() < result.dim() or _others(one, axis) != _others(result, axis) for one in args)
    return Followed((summed(parts, (1.0, sign * scale)),), "join", tuple(parts), expands)


def _summand(stated: Statement | None, tensor: torch.Tensor, result: torch.Tensor, axis: int) -> Statement:
    if stated is not None:
        if tensor.dim() != result.dim() or stated.channels != result.shape[axis]:
            raise NotLinearError("it adds a tensor of more axes")
        return stated
    at = axis - (result.dim() - tensor.dim())
    return plain_statement(axis, result.shape[axis], tensor.shape[at] if at >= 0 else 1)


def _scale(name: str, args: Sequence[Any], result: torch.Tensor, known: Known) -> Followed:
    """A factor that is the same for all channels."""
    stated = [known(one) if isinstance(one, torch.Tensor) else None for one in args[:2]]
    told = [one for one in stated if one is not None]
    if len(args) != 2 or len(told) != 1 or ("div" in name and stated[0] is None):
        raise NotLinearError("")
    at = 0 if stated[0] is not None else 1
    tensor, factor = args[at], args[1 - at]
    if isinstance(factor, torch.Tensor):
        axis = told[0].axis - (result.dim() - factor.dim())
        if tensor.shape != result.shape or (axis >= 0 and factor.shape[axis] != 1):
            raise NotLinearError("it multiplies each channel by another value")
    return Followed((told[0].without_constants(),))
