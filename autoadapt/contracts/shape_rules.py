"""Shape rules: the results of the commonest operations on the meta device, in microseconds.

PyTorch computes most of these in Python, a thousand times slower than it runs them on small tensors. A rule covers the
plain case, contiguous tensors of one dtype, and returns None for all else: that is left to PyTorch, errors included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["RULES", "ShapeRules", "are_known", "are_plain", "without_values"]

aten = torch.ops.aten
Tensor: TypeAlias = torch.Tensor


class ShapeRules(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Answers by rule where there is one. Enter it before modes that follow operations: these then see all of them.

    Example:
        >>> with ShapeRules():
        ...     torch.nn.functional.gelu(torch.empty(2, 3, device="meta")).shape
        torch.Size([2, 3])
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        rule = RULES.get(func)
        if rule is not None:
            with torch._C.DisableTorchFunction():  # function modes that follow the run must not see this
                made = rule(*args, **(kwargs or {}))
            if made is not None:
                return made
        return func(*args, **(kwargs or {}))


def are_plain(*tensors: Any) -> bool:
    """Whether rules cover these tensors: contiguous floating ones of one dtype on the meta device."""
    dtype = tensors[0].dtype
    return all(_is_known(one) and one.dtype is dtype and _is_contiguous(one) for one in tensors)


def _is_contiguous(x: Tensor) -> bool:
    """Whether a tensor is contiguous, and not in `channels_last` as well, as maps of one cell or one channel can be."""
    if not x.is_contiguous() or x.dim() < 4:
        return x.is_contiguous()
    channels_last = (torch.channels_last, torch.channels_last_3d)[x.dim() == 5]
    return (
        x.dim() > 5
        or not x.is_contiguous(memory_format=channels_last)
        or x.stride() == without_values(x, *x.shape).stride()
    )


def _is_known(value: Any) -> bool:
    """Whether this is a floating tensor or parameter on the meta device, and of no other subclass."""
    return (
        type(value) in (Tensor, nn.Parameter)
        and value.is_meta
        and value.layout is torch.strided
        and value.is_floating_point()
    )


def without_values(like: Tensor, *shape: int) -> Tensor:
    """A tensor of a shape, of the dtype and on the device of another; `new_empty` computes that in Python."""
    return torch.empty(shape, dtype=like.dtype, device=like.device)


def _elementwise(*args: Any, **named: Any) -> Tensor | None:
    """The result has shape and strides of the tensor that all others broadcast to."""
    lead = _lead([*args, *named.values()])
    if lead is None:
        return None
    return without_values(lead, *lead.shape) if lead.is_contiguous() else aten.clone.default(lead)


def _elementwise_backward(gradient: Tensor, x: Tensor, *args: Any, **named: Any) -> Tensor | None:
    return _elementwise(gradient, x, *args, **named) if gradient.shape == x.shape else None


def _written(x: Any, *args: Any, **named: Any) -> Tensor | None:
    """In-place operations: the first argument, if all others broadcast to it."""
    lead = _lead([x, *args, *named.values()])
    return x if lead is not None and lead.shape == x.shape and x.is_contiguous() else None


def _lead(values: Sequence[Any]) -> Tensor | None:
    """The tensor that all others broadcast to; None where there is none, or the rule does not cover them."""
    tensors = [one for one in values if isinstance(one, Tensor)]
    lead = max(tensors, key=lambda one: (one.dim(), one.numel()))
    for one in values:
        if isinstance(one, Tensor):
            if not _is_known(one) or one.dtype is not lead.dtype or not _goes_with(lead, one):
                return None
        elif not (one is None or type(one) in (int, float, str)):
            return None
    return lead


def _goes_with(lead: Tensor, other: Tensor) -> bool:
    """Whether a tensor broadcasts to another without changing the strides of the result."""
    if other.shape == lead.shape:
        return other.stride() == lead.stride() or (other.is_contiguous() and lead.is_contiguous())
    sizes = list(zip(reversed(other.shape), reversed(lead.shape), strict=False))
    row = sum(size > 1 for size, _ in sizes) <= 1
    return (row or (lead.is_contiguous() and other.is_contiguous())) and all(size in (1, most) for size, most in sizes)


def _along(x: Tensor, dim: int, *_dtype: Any) -> Tensor | None:
    """Softmax, which keeps the shape; not where it changes the dtype, as it may for half precision."""
    fits = -x.dim() <= dim < x.dim() and not any(one not in (None, False, x.dtype) for one in _dtype)
    return without_values(x, *x.shape) if fits and are_plain(x) else None


def _along_backward(gradient: Tensor, x: Tensor, _dim: int, dtype: torch.dtype) -> Tensor | None:
    fits = dtype is x.dtype and gradient.shape == x.shape
    return without_values(x, *x.shape) if fits and are_plain(gradient, x) else None


def _addmm(bias: Tensor, left: Tensor, right: Tensor, **_factors: Any) -> Tensor | None:
    made = _mm(left, right)
    return made if made is not None and are_plain(left, bias) and bias.shape == made.shape[1:] else None


def _mm(left: Tensor, right: Tensor) -> Tensor | None:
    """Matrix products, also of transposed matrices, such as the weights of linear layers."""
    fits = are_known(left, right) and left.dim() == right.dim() == 2 and left.shape[1] == right.shape[0]
    return without_values(left, left.shape[0], right.shape[1]) if fits else None


def _bmm(left: Tensor, right: Tensor) -> Tensor | None:
    fits = are_known(left, right) and left.dim() == right.dim() == 3
    if not fits or left.shape[0] != right.shape[0] or left.shape[2] != right.shape[1]:
        return None
    return without_values(left, *left.shape[:2], right.shape[2])


def are_known(*tensors: Any) -> bool:
    """Whether all are floating tensors of one dtype on the meta device, contiguous or not."""
    return all(map(_is_known, tensors)) and len({one.dtype for one in tensors}) == 1


def _convolved(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    transposed: bool,
    _output_padding: Any,
    groups: int,
) -> Tensor | None:
    """Convolutions of batches, as `floor((size + 2 padding - dilation (kernel - 1) - 1) / stride) + 1`."""
    axes = x.dim() - 2
    if transposed or not axes > 0 or not are_plain(x, weight, *_given(bias)) or weight.dim() != x.dim():
        return None
    if any(len(one) != axes for one in (stride, padding, dilation)) or 0 in (*x.shape, *weight.shape):
        return None
    if x.shape[1] != weight.shape[1] * groups or weight.shape[0] % groups:
        return None
    if bias is not None and bias.shape != weight.shape[:1]:
        return None
    rows = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    left = [(size + 2 * pad - apart * (kernel - 1) - 1, step) for size, kernel, step, pad, apart in rows]
    if any(over < 0 or step < 1 for over, step in left) or min(padding) < 0 or min(dilation) < 1:
        return None
    return without_values(x, x.shape[0], weight.shape[0], *(over // step + 1 for over, step in left))


def _given(*tensors: Tensor | None) -> list[Tensor]:
    return [one for one in tensors if one is not None]


def _layer_norm(
    x: Tensor, shape: Sequence[int], weight: Tensor | None, bias: Tensor | None, _eps: float
) -> tuple[Tensor, ...] | None:
    """The result is contiguous, whatever the strides of the input."""
    given, kept = _given(weight, bias), x.dim() - len(shape)
    if not (_is_single(x) and shape and kept >= 0 and list(x.shape[kept:]) == list(shape) and are_plain(*given, x[:0])):
        return None
    if any(list(one.shape) != list(shape) for one in given):
        return None
    moments = (*x.shape[:kept], *(1 for _ in shape))
    return without_values(x, *x.shape), without_values(x, *moments), without_values(x, *moments)


def _is_single(x: Tensor) -> bool:
    """Whether a norm's mean and variance have the dtype of its input, which half precision does not guarantee."""
    return _is_known(x) and x.dtype in (torch.float32, torch.float64)


def _batch_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    mean: Tensor | None,
    variance: Tensor | None,
    training: bool,
    _momentum: float,
    _eps: float,
) -> tuple[Tensor, ...] | None:
    """Outputs of `native_batch_norm`: `[B, C, ...]`, and mean and inverse deviation `[C]`."""
    given = _given(weight, bias, mean, variance)
    if x.dim() < 2 or not _is_single(x) or not are_plain(x, *given) or 0 in x.shape:
        return None
    if (mean is None) != (variance is None) or (x.numel() == x.shape[1] if training else mean is None):
        return None
    if any(one.shape != x.shape[1:2] for one in given):
        return None
    return without_values(x, *x.shape), without_values(x, x.shape[1]), without_values(x, x.shape[1])


def _group_norm(
    x: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    count: int,
    channels: int,
    _size: int,
    groups: int,
    _eps: float,
) -> tuple[Tensor, ...] | None:
    """Outputs of `native_group_norm`: `[B, C, ...]`, and mean and inverse deviation `[B, groups]`."""
    given = _given(weight, bias)
    if not _is_single(x) or not are_plain(x, *given) or any(one.shape != (channels,) for one in given):
        return None
    if tuple(x.shape[:2]) != (count, channels) or groups < 1 or channels % groups:
        return None
    return without_values(x, *x.shape), without_values(x, count, groups), without_values(x, count, groups)


def _norm_backward(gradient: Tensor, x: Tensor, sizes: Sequence[int], weights: Sequence[Any], wanted: Any) -> Any:
    """Gradients of input, weight and bias, where all three are wanted."""
    if not all(wanted) or any(one is None or list(one.shape) != list(sizes) for one in weights):
        return None
    if not _is_single(x) or not are_plain(x, gradient, *weights) or gradient.shape != x.shape:
        return None
    return without_values(x, *x.shape), without_values(x, *sizes), without_values(x, *sizes)


def _layer_norm_backward(gradient: Tensor, x: Tensor, shape: Sequence[int], *rest: Any) -> Any:
    """As a contiguous gradient lies, however the axes of the input do."""
    _mean, _rstd, weight, bias, wanted = rest
    fits = shape and list(x.shape[-len(shape) :]) == list(shape) and gradient.shape == x.shape
    if not fits or not are_known(gradient, x):
        return None
    return _norm_backward(gradient, gradient, shape, (weight, bias), wanted)


def _batch_norm_backward(gradient: Tensor, x: Tensor, weight: Any, *rest: Any) -> Any:
    return _norm_backward(gradient, x, x.shape[1:2], (weight,), rest[-1])


def _group_norm_backward(gradient: Tensor, x: Tensor, *rest: Any) -> Any:
    _mean, _rstd, weight, count, channels, _size, groups, wanted = rest
    fits = tuple(x.shape[:2]) == (count, channels) and groups > 0 and channels % groups == 0
    return _norm_backward(gradient, x, x.shape[1:2], (weight,), wanted) if fits else None


def _joined(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    """The output of `cat`."""
    first = tensors[0]
    if not are_plain(*tensors) or first.dim() < 2 or not -first.dim() <= dim < first.dim():
        return None
    at = dim % first.dim()
    others = {(*one.shape[:at], *one.shape[at + 1 :]) for one in tensors}
    if len(others) > 1 or any(one.dim() != first.dim() for one in tensors):
        return None
    return without_values(first, *first.shape[:at], sum(one.shape[at] for one in tensors), *first.shape[at + 1 :])


def _reduced(x: Tensor, dims: Sequence[int] | None, keepdim: bool = False, *, dtype: Any = None) -> Tensor | None:
    """The output of `mean` or `sum` over some axes."""
    axes = x.dim()
    if not dims or dtype is not None or not are_plain(x) or not all(-axes <= one < axes for one in dims):
        return None
    left_out = {one % axes for one in dims}
    if len(left_out) < len(dims):
        return None
    kept = [1 if at in left_out else size for at, size in enumerate(x.shape) if keepdim or at not in left_out]
    return without_values(x, *kept)


def _resized(x: Tensor, size: Sequence[int], *_rest: Any) -> Tensor | None:
    fits = are_plain(x) and len(size) == x.dim() - 2 and min(size) > 0 and math.prod(x.shape) > 0
    return without_values(x, *x.shape[:2], *size) if fits else None


def _overloads(names: str) -> list[Any]:
    """The aten overloads of these names, without those that this version of PyTorch lacks."""
    found = []
    for name in names.split():
        packet, _, overload = name.partition(".")
        one = getattr(getattr(aten, packet, None), overload or "default", None)
        found += [one] if one is not None else []
    return found


_ACTIVATIONS = "relu gelu silu hardswish hardsigmoid hardtanh leaky_relu elu mish sigmoid tanh exp sqrt rsqrt neg abs"
_SUMS = "add.Tensor sub.Tensor mul.Tensor div.Tensor"
_ELEMENTWISE = (
    f"{_ACTIVATIONS} {_SUMS} add.Scalar sub.Scalar mul.Scalar div.Scalar clamp clamp_min pow.Tensor_Scalar erf"
)
_BACKWARD = (
    "gelu_backward silu_backward hardswish_backward hardsigmoid_backward hardtanh_backward threshold_backward"
    " sigmoid_backward tanh_backward mish_backward"
)
_WRITTEN = (
    "add_.Tensor sub_.Tensor mul_.Tensor div_.Tensor silu_ hardswish_ hardtanh_ leaky_relu_ mul_.Scalar add_.Scalar"
)
_RESIZED = (
    "upsample_nearest1d upsample_nearest2d upsample_nearest3d upsample_linear1d upsample_bilinear2d upsample_bicubic2d"
    " upsample_trilinear3d _upsample_bilinear2d_aa _upsample_bicubic2d_aa _upsample_nearest_exact2d"
)

RULES: Mapping[Any, Callable[..., Any]] = {
    **dict.fromkeys(_overloads(_ELEMENTWISE), _elementwise),
    **dict.fromkeys(_overloads(_BACKWARD), _elementwise_backward),
    **dict.fromkeys(_overloads(_WRITTEN), _written),
    **dict.fromkeys(_overloads(_RESIZED), _resized),
    **dict.fromkeys(_overloads("mean.dim sum.dim_IntList"), _reduced),
    **dict.fromkeys(_overloads("_softmax _log_softmax _safe_softmax"), _along),
    **dict.fromkeys(_overloads("_softmax_backward_data _log_softmax_backward_data"), _along_backward),
    aten.addmm.default: _addmm,
    aten.mm.default: _mm,
    aten.bmm.default: _bmm,
    aten.cat.default: _joined,
    aten.convolution.default: _convolved,
    aten.native_layer_norm.default: _layer_norm,
    aten.native_batch_norm.default: _batch_norm,
    aten.native_group_norm.default: _group_norm,
    aten.native_layer_norm_backward.default: _layer_norm_backward,
    aten.native_batch_norm_backward.default: _batch_norm_backward,
    aten.native_group_norm_backward.default: _group_norm_backward,
}
"""By operation, a function that returns its result, or None where the rule does not apply."""
