"""Linear functions: what the functions of torch that treat all channels alike do to statements about their tensors."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils._pytree import tree_map_only

from autoadapt.contracts.capturing.arguments import tensors_in
from autoadapt.swapping.folding.rerouting import Reroute, function_name, instead
from autoadapt.swapping.folding.shuffles import ORDERING, shuffled
from autoadapt.swapping.folding.statements import STALE, NotLinearError, Statement, joined, plain_statement, summed

LIKE = frozenset(f"{name}_like" for name in ("empty", "full", "ones", "rand", "randn", "zeros"))
"""Functions that make a tensor of another's shape."""
SHAPES = frozenset({"shape", "size", "numel", "__len__"})
"""Functions that tell a shape."""
SHAPE_ONLY = (
    frozenset({"dim", "stride", "is_floating_point", "is_contiguous", "get_device", "element_size"})
    | {f"new_{name}" for name in ("empty", "full", "ones", "tensor", "zeros")}
    | LIKE
    | SHAPES
)
"""Functions that read no values; the getters of other attributes are others."""
_SHAPED_LIKE = frozenset({"to", "type_as", "view_as", "reshape_as", "expand_as"})
"""They read values of their first tensor alone."""

_AS_IT_IS = frozenset(
    {"clone", "contiguous", "detach", "to", "float", "half", "bfloat16", "double", "type", "type_as", "cpu", "cuda"}
    | {"dropout", "dropout1d", "dropout2d", "dropout3d", "feature_dropout", "alpha_dropout", "requires_grad_"}
)
"""They return the same channels at the same places, dropout in eval mode."""

_OF_PLACES = frozenset(
    {"view", "reshape", "flatten", "unflatten", "permute", "transpose", "swapaxes", "swapdims", "movedim", "moveaxis"}
    | {"squeeze", "unsqueeze", "view_as", "reshape_as", "expand", "expand_as", "repeat", "tile", "__get__", "adjoint"}
    | {"interpolate", "upsample", "upsample_nearest", "upsample_bilinear", "pad", "unfold", "fold", "grid_sample"}
    | {"mean", "sum", "cumsum", "_adaptive_pool", "pixel_shuffle", "pixel_unshuffle", "rot90", "masked_fill", "where"}
    | {f"{name}{n}d" for name in ("avg_pool", "adaptive_avg_pool") for n in (1, 2, 3)}
    | {"gather", "scaled_dot_product_attention", "matmul", "__matmul__", "__rmatmul__", "bmm", "einsum", "neg"}
    | {"__neg__", "mul", "multiply", "mul_", "__mul__", "__rmul__", "__imul__", "div", "divide", "true_divide"}
    | {"div_", "__truediv__", "__itruediv__"}
)
"""Of one tensor among their arguments they move, mix or scale places, which has to be the same for every channel."""

_TAKING = frozenset(
    {"__getitem__", "chunk", "split", "split_with_sizes", "tensor_split", "narrow", "index_select", "flip", "roll"}
    | {"channel_shuffle", "native_channel_shuffle", "unsafe_chunk", "unsafe_split"}
)
"""They take some channels, or some places."""

_JOINING = frozenset({"cat", "concat", "concatenate", "stack"})
_ADDING = frozenset({"add", "__add__", "__radd__", "__iadd__", "add_"})
_SUBTRACTING = frozenset({"sub", "subtract", "__sub__", "__isub__", "sub_"})


@dataclass(frozen=True)
class Followed:
    """What is known after a call: of each tensor that it returns, and what has to be done in its place."""

    statements: tuple[Statement | None, ...]
    does: str = ""
    """`join`, `beside` or `whole`, as a `Reroute` does; empty where the call stays as it is."""
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
    told = {id(one): (one, stated) for one in tensors_in((args, kwargs)) if (stated := known(one)) is not None}
    if any(stated.is_stale for _, stated in told.values()):
        raise NotLinearError(STALE)
    if any(stated.shuffle is not None for _, stated in told.values()):
        return _shuffled(function, args, kwargs, result, known)
    if "out" in kwargs and kwargs["out"] is not None:
        raise NotLinearError("out=")
    if function is instead:
        return _again(args, known)
    if name in _JOINING:
        return _join(name, args, kwargs, result, known)
    if name in _ADDING | _SUBTRACTING:
        return _add(args, kwargs, result, known, -1.0 if name in _SUBTRACTING else 1.0)
    if name in _SHAPED_LIKE and id(args[0]) not in told:
        return Followed((None,))
    if len(told) != 1 or name not in _AS_IT_IS | _OF_PLACES | _TAKING or kwargs.get("rounding_mode") is not None:
        raise NotLinearError("")
    ((first, stated),) = told.values()
    if name in _AS_IT_IS and result.shape == first.shape:
        if not result.is_floating_point():
            raise NotLinearError("it rounds")
        return Followed((stated,))
    if name in _TAKING:
        return _taken(function, args, kwargs, first, stated)
    try:
        return Followed((_of_places(function, args, kwargs, first, stated),))
    except NotLinearError:
        if name not in ORDERING:
            raise
        return _shuffled(function, args, kwargs, result, known)


def _shuffled(function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], result: Any, known: Known) -> Followed:
    """Channels are spread over axes, or on the way back: the tensor as it was is handed on in place of the call."""
    first = args[0] if args and isinstance(args[0], torch.Tensor) else kwargs.get("input")
    stated = known(first) if isinstance(first, torch.Tensor) else None
    if first is None or stated is None or function_name(function) not in ORDERING:
        raise NotLinearError("channels are spread over several axes")
    if any(one is not first for one in tensors_in((args, kwargs))):
        raise NotLinearError("a tensor tells which channels it takes, and may hold other numbers at another call")
    made = shuffled(stated, first, lambda numbers: _with_another(function, args, kwargs, {id(first): numbers}))
    return Followed(made, "whole", (stated,))


def _shadow(tensor: torch.Tensor, stated: Statement) -> torch.Tensor:
    """A tensor of the same shape that holds for each place the number of its channel, from 1."""
    shape = [1] * tensor.dim()
    shape[stated.axis] = -1
    return _numbers(stated, tensor.device).reshape(shape).expand(tensor.shape).clone()


def _numbers(stated: Statement, device: torch.device) -> torch.Tensor:
    numbers = torch.arange(1.0, stated.channels + 1, device=device, dtype=torch.float64)
    return numbers.repeat_interleave(stated.inner).repeat(stated.outer)


def _with_another(
    function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], instead: Mapping[int, torch.Tensor]
) -> Any:
    """What a function returns when it is given other tensors, by the identity of those in whose place they are."""
    made = tree_map_only(torch.Tensor, lambda one: instead.get(id(one), one), (tuple(args), dict(kwargs)))
    try:
        return function(*made[0], **made[1])
    except (RuntimeError, TypeError, ValueError, IndexError) as error:
        raise NotLinearError("it takes no other numbers") from error


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


def _of_places(
    function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], first: torch.Tensor, stated: Statement
) -> Statement:
    """The statement after a function that does the same to every channel, which numbers in the tensor's stead show.

    Other tensors that it is given are others in each call: they do not tell channels apart whatever they hold.

    Raises:
        NotLinearError: It does something else.
    """
    index = next((one for one in tensors_in((args[2:], kwargs)) if function_name(function) == "gather"), None)
    if index is not None and index.shape[stated.axis] > 1 and index.stride(stated.axis) != 0:
        raise NotLinearError("it takes other places of each channel; an index that is expanded takes the same")
    drawn = torch.Generator().manual_seed(0)
    others = {id(one): _drawn(one, drawn) for one in tensors_in((args, kwargs)) if one is not first}
    numbers = _shadow(first, stated)
    ones, made, scaled = (
        _with_another(function, args, kwargs, {**others, id(first): given})
        for given in (torch.ones_like(numbers), numbers, -2.5 * numbers)
    )
    if not isinstance(made, torch.Tensor) or not made.is_floating_point():
        raise NotLinearError("")
    if not torch.allclose(scaled, -2.5 * made):
        raise NotLinearError("it adds a number, or is not linear")
    for axis in sorted(range(made.dim()), key=lambda one: one != stated.axis):
        merged, rest = divmod(made.shape[axis], stated.channels)
        for inner in (one for one in range(1, merged + 1) if not rest and merged % one == 0):
            after = replace(stated, axis=axis, inner=inner, outer=merged // inner)
            along = ones.movedim(axis, -1)
            each = along.unflatten(-1, (after.outer, stated.channels, inner))
            alike = torch.allclose(each, each[..., :1, :].expand_as(each))
            if alike and torch.allclose(made.movedim(axis, -1), along * _numbers(after, made.device)):
                is_constant = not others and torch.allclose(ones, torch.ones_like(ones))
                return after if is_constant else after.without_constants()
    raise NotLinearError("it is not the same for all channels, or mixes them with places")


def _drawn(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Random numbers in the place of a tensor of numbers or truth values; others, as indexes, stay."""
    if not (tensor.is_floating_point() or tensor.dtype == torch.bool):
        return tensor
    made = torch.rand(tensor.shape, generator=generator, dtype=torch.float64).to(tensor.device)
    return made if tensor.is_floating_point() else made < 0.5


def _taken(
    function: Any, args: Sequence[Any], kwargs: Mapping[str, Any], first: torch.Tensor, stated: Statement
) -> Followed:
    _check_told_by_code(function_name(function), args, kwargs, first, stated.axis)
    made = _with_another(function, args, kwargs, {id(first): _shadow(first, stated)})
    shadows = [made] if isinstance(made, torch.Tensor) else list(made)
    found = [_rows(one, stated.axis) for one in shadows]
    everything = [row for _ in range(stated.outer) for row in range(stated.channels) for _ in range(stated.inner)]
    if all(one is not None and one[1] == everything for one in found):
        return Followed(tuple(replace(stated, axis=one[0]) for one in found if one is not None))
    if stated.outer != 1 or stated.inner != 1:
        return _taken(function, args, kwargs, first, stated.flat())
    order = torch.arange(first.numel(), device=first.device, dtype=torch.float64).reshape(first.shape)
    places = order.narrow(stated.axis, 0, 1)
    moved = _with_another(function, args, kwargs, {id(first): places.expand_as(first)})
    statements = []
    for one, part in zip(found, [moved] if isinstance(moved, torch.Tensor) else moved, strict=True):
        sizes = [size for axis, size in enumerate(part.shape) if axis != stated.axis]
        is_there = one is not None and part.dim() == first.dim() and sizes == _others(first, stated.axis)
        if one is None or not is_there or one[0] != stated.axis or not torch.equal(part, places.expand_as(part)):
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


def _join(name: str, args: Sequence[Any], kwargs: Mapping[str, Any], result: torch.Tensor, known: Known) -> Followed:
    tensors = list(args[0] if args else kwargs["tensors"])
    axis = _joined_axis(args, kwargs) % result.dim()
    found = [known(one) for one in tensors]
    told = [one for one in found if one is not None]
    if name == "stack" or axis != told[0].axis:
        return _beside(found, tensors, name == "stack" and axis <= told[0].axis)
    inner = told[0].inner if all((one.outer, one.inner) == (1, told[0].inner) for one in told) else 1
    sizes = [one.shape[axis] for one in tensors]
    inner = inner if all(size % inner == 0 for size in sizes) else 1
    plain = (replace(plain_statement(axis, size // inner, size // inner), inner=inner) for size in sizes)
    return Followed((joined([one or other for one, other in zip(found, plain, strict=True)]),))


def _joined_axis(args: Sequence[Any], kwargs: Mapping[str, Any]) -> int:
    axis: int = args[1] if len(args) > 1 else kwargs.get("dim", kwargs.get("axis", 0))
    return axis


def _again(given: Sequence[Any], known: Known) -> Followed:
    """A call that was rerouted already, when another output was folded."""
    reroute: Reroute = given[0]
    _, _, args, kwargs = given
    tensors = list(tensors_in((args, kwargs)))[: len(reroute.channels)]
    widths = [one.shape[reroute.axis] for one in tensors]
    pairs = zip(tensors, widths, strict=True)
    parts = [known(one) or plain_statement(reroute.axis, width, width) for one, width in pairs]
    if reroute.does == "wide":
        raise NotLinearError("it tells a number of channels")
    if reroute.does == "whole":
        return Followed((parts[0],) * max(reroute.results, 1), "whole", tuple(parts))
    made = joined(parts)
    if reroute.does == "beside":
        dims = tensors[0].dim() + 1
        is_new_before = reroute.function == "stack" and _joined_axis(args, kwargs) % dims <= reroute.axis
        made = replace(made.without_constants(), axis=reroute.axis + is_new_before)
    return Followed((made,), reroute.does, tuple(parts), reroute.expands)


def _beside(found: Sequence[Statement | None], tensors: Sequence[torch.Tensor], is_new_before: bool) -> Followed:
    """Places beside places: where channels are made in several ways, each way keeps channels of its own."""
    first = next(one for one in found if one is not None)
    after = first.axis + is_new_before
    if all(one is not None and one.is_like(first) for one in found):
        return Followed((replace(first, axis=after),))
    sizes = [one.shape[first.axis] for one in tensors]
    pairs = zip(found, sizes, strict=True)
    parts = [one.flat() if one else plain_statement(first.axis, first.flat().channels, size) for one, size in pairs]
    made = summed(parts, [1.0] * len(parts)).without_constants()
    return Followed((replace(made, axis=after),), "beside", tuple(parts))


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
        if tensor.dim() != result.dim() or tensor.shape[axis] != result.shape[axis]:
            raise NotLinearError("it adds a tensor of more axes or channels")
        return stated.flat()
    at = axis - (result.dim() - tensor.dim())
    return plain_statement(axis, result.shape[axis], tensor.shape[at] if at >= 0 else 1)
