"""Shape rules: the results of the commonest operations on the meta device, in microseconds.

PyTorch computes most of these in Python, a thousand times slower than it runs them on small tensors. A rule covers the
plain case, contiguous tensors of one dtype, and returns None for all else: that is left to PyTorch, errors included.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from autoadapt.contracts.meta_tensors import alike, are_known, are_plain, is_dense, is_known, without_values
from autoadapt.contracts.norm_rules import (
    batch_norm,
    batch_norm_backward,
    group_norm,
    group_norm_backward,
    layer_norm,
    layer_norm_backward,
)

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


def _elementwise(*args: Any, **named: Any) -> Tensor | None:
    """The result lies as the tensor that all others broadcast to, or as the first one, or is contiguous as all are."""
    tensors = _tensors([*args, *named.values()])
    if tensors is None:
        return None
    first, lead = tensors[0], _longest(tensors)
    if all(_goes_with(lead, one) for one in tensors):
        return without_values(lead, *lead.shape) if lead.is_contiguous() else alike(lead)
    shape = _broadcast(tensors)
    if shape is not None and (first.shape == shape and 1 not in shape and is_dense(first)):
        return alike(first)
    return without_values(lead, *shape) if shape is not None and are_plain(*tensors) else None


def _broadcast(tensors: Sequence[Tensor]) -> tuple[int, ...] | None:
    """The common shape of tensors with as many axes; None where there is none."""
    if len({one.dim() for one in tensors}) > 1:
        return None
    found = [{size for size in sizes if size != 1} for sizes in zip(*(one.shape for one in tensors), strict=True)]
    return None if any(len(sizes) > 1 for sizes in found) else tuple(next(iter(sizes), 1) for sizes in found)


def _longest(tensors: Sequence[Tensor]) -> Tensor:
    return max(tensors, key=lambda one: (one.dim(), one.numel()))


def _elementwise_backward(gradient: Tensor, x: Tensor, *args: Any, **named: Any) -> Tensor | None:
    lies_alike = gradient.shape == x.shape and _goes_with(gradient, x)
    return _elementwise(gradient, x, *args, **named) if lies_alike else None


def _written(x: Any, *args: Any, **named: Any) -> Tensor | None:
    """In-place operations: the first argument, if all others broadcast to it."""
    lead = _lead([x, *args, *named.values()])
    return x if lead is not None and lead.shape == x.shape and x.is_contiguous() else None


def _lead(values: Sequence[Any]) -> Tensor | None:
    """The tensor that all others broadcast to; None where there is none, or the rule does not cover them."""
    tensors = _tensors(values)
    lead = None if tensors is None else _longest(tensors)
    return lead if lead is not None and all(_goes_with(lead, one) for one in tensors or ()) else None


def _tensors(values: Sequence[Any]) -> list[Tensor] | None:
    """The tensors among arguments, the others of which are plain numbers; None where rules do not cover them."""
    tensors = [one for one in values if isinstance(one, Tensor)]
    numbers = (one for one in values if not isinstance(one, Tensor))
    fits = are_known(*tensors) and all(one is None or type(one) in (int, float, str) for one in numbers)
    return tensors if fits else None


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
    return made if made is not None and are_plain(made, bias) and bias.shape == made.shape[1:] else None


def _mm(left: Tensor, right: Tensor) -> Tensor | None:
    """Matrix products, also of transposed matrices, such as the weights of linear layers."""
    fits = are_known(left, right) and left.dim() == right.dim() == 2 and left.shape[1] == right.shape[0]
    return without_values(left, left.shape[0], right.shape[1]) if fits else None


def _bmm(left: Tensor, right: Tensor) -> Tensor | None:
    fits = are_known(left, right) and left.dim() == right.dim() == 3
    if not fits or left.shape[0] != right.shape[0] or left.shape[2] != right.shape[1]:
        return None
    return without_values(left, *left.shape[:2], right.shape[2])


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
    if (
        transposed
        or not axes > 0
        or not are_plain(x, weight, *([] if bias is None else [bias]))
        or weight.dim() != x.dim()
    ):
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


def _stacked(tensors: Sequence[Tensor], dim: int = 0) -> Tensor | None:
    """The output of `stack`."""
    first = tensors[0]
    if not are_plain(*tensors) or not -first.dim() - 1 <= dim <= first.dim():
        return None
    if any(one.shape != first.shape for one in tensors):
        return None
    at = dim % (first.dim() + 1)
    return without_values(first, *first.shape[:at], len(tensors), *first.shape[at:])


def _copied(x: Tensor, *, memory_format: torch.memory_format | None = None) -> Tensor | None:
    """The output of `clone`."""
    if memory_format is torch.contiguous_format:
        return without_values(x, *x.shape) if is_known(x) else None
    return alike(x) if memory_format in (None, torch.preserve_format) and is_known(x) and is_dense(x) else None


def _rolled(x: Tensor, shifts: Sequence[int], dims: Sequence[int] = ()) -> Tensor | None:
    fits = are_plain(x) and len(shifts) == len(dims) > 0 and all(-x.dim() <= one < x.dim() for one in dims)
    return without_values(x, *x.shape) if fits else None


def _filled(x: Tensor, mask: Tensor, value: Any) -> Tensor | None:
    """The output of `masked_fill`."""
    fits = are_plain(x) and type(mask) is Tensor and mask.is_meta and mask.dtype is torch.bool and mask.is_contiguous()
    return without_values(x, *x.shape) if fits and mask.shape == x.shape and type(value) in (int, float) else None


def _compared(x: Tensor, other: Any) -> Tensor | None:
    fits = are_plain(x) and type(other) in (int, float)
    return torch.empty(x.shape, dtype=torch.bool, device=x.device) if fits else None


def _looked_up(x: Tensor, indices: Sequence[Tensor | None]) -> Tensor | None:
    """The output of indexing by one tensor of integers: rows of a table."""
    rows = indices[0] if len(indices) == 1 else None
    if type(rows) is not Tensor or not rows.is_meta or rows.dtype is not torch.int64 or not rows.is_contiguous():
        return None
    return without_values(x, *rows.shape, *x.shape[1:]) if x.dim() and are_plain(x) and 0 not in x.shape else None


def _reduced(x: Tensor, dims: Sequence[int] | None, keepdim: bool = False, *, dtype: Any = None) -> Tensor | None:
    """The output of `mean` or `sum` over some axes; of a tensor that is not contiguous where one axis is left."""
    axes = x.dim()
    if not dims or dtype is not None or not is_known(x) or not all(-axes <= one < axes for one in dims):
        return None
    left_out = {one % axes for one in dims}
    if len(left_out) < len(dims) or not (are_plain(x) or len(left_out) == axes - 1):
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
    **dict.fromkeys(_overloads("eq.Scalar ne.Scalar lt.Scalar gt.Scalar"), _compared),
    aten.clone.default: _copied,
    aten.stack.default: _stacked,
    aten.roll.default: _rolled,
    aten.masked_fill.Scalar: _filled,
    aten.index.Tensor: _looked_up,
    aten.addmm.default: _addmm,
    aten.mm.default: _mm,
    aten.bmm.default: _bmm,
    aten.cat.default: _joined,
    aten.convolution.default: _convolved,
    aten.native_layer_norm.default: layer_norm,
    aten.native_batch_norm.default: batch_norm,
    aten.native_group_norm.default: group_norm,
    aten.native_layer_norm_backward.default: layer_norm_backward,
    aten.native_batch_norm_backward.default: batch_norm_backward,
    aten.native_group_norm_backward.default: group_norm_backward,
}
"""By operation, a function that returns its result, or None where the rule does not apply."""
