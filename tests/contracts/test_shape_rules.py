"""Where a rule says what an operation returns on the meta device, PyTorch says the same, with values and without."""

import contextlib
import warnings

import pytest
import torch
from hypothesis import find, given, settings, strategies as st
from torch.utils._pytree import tree_flatten, tree_map

from autoadapt.contracts.shape_rules import RULES

aten = torch.ops.aten
DTYPES = (torch.float32, torch.float32, torch.float32, torch.float64, torch.bfloat16, torch.int64, torch.complex64)
LAYOUTS = (
    lambda x: x,
    lambda x: x,
    lambda x: x.transpose(0, -1) if x.dim() > 1 else x,
    lambda x: x[..., ::2] if x.dim() else x,
    lambda x: x.to(memory_format=torch.channels_last) if x.dim() == 4 else x,
    lambda x: x[:1].expand(3, *x.shape[1:]) if x.dim() > 1 else x,
)
SHAPES = st.lists(st.sampled_from((1, 2, 3, 4, 6)), min_size=0, max_size=4)


@st.composite
def tensors(draw, shape=SHAPES, dtype=None, layouts=LAYOUTS):
    sizes = draw(shape) if isinstance(shape, st.SearchStrategy) else shape
    made = torch.zeros(sizes, dtype=draw(st.sampled_from(DTYPES)) if dtype is None else dtype)
    return draw(st.sampled_from(layouts))(made)


@st.composite
def alike(draw, shape=SHAPES, count=2):
    """Tensors that mostly have one shape, one dtype and one layout."""
    first = draw(tensors(shape))
    found = [first]
    for _ in range(count - 1):
        kind = draw(st.sampled_from(("same", "same", "row", "narrow", "number", "any")))
        if kind == "any":
            found.append(draw(tensors()))
        elif kind == "number":
            found.append(torch.zeros((), dtype=first.dtype))
        elif kind == "row":
            found.append(torch.zeros(first.shape[-1:], dtype=first.dtype))
        elif kind == "narrow":
            found.append(torch.zeros([1 if draw(st.booleans()) else n for n in first.shape], dtype=first.dtype))
        else:
            found.append(draw(st.sampled_from((first, first.clone(), first.contiguous()))))
    return tuple(found[::-1] if draw(st.booleans()) else found)


numbers = st.sampled_from((0, 1, 2, 0.5, -1.5, True, 1 + 2j))
dims = st.sampled_from((-1, 1, 0, -2, 3, -4))
few = st.lists(st.integers(0, 3), min_size=1, max_size=2)


@st.composite
def convolutions(draw):
    channels, groups = draw(st.sampled_from((1, 2, 4, 6))), draw(st.sampled_from((1, 2)))
    x = draw(
        tensors([draw(st.integers(1, 2)), channels, draw(st.integers(1, 7)), draw(st.integers(1, 7))], torch.float32)
    )
    made = [
        draw(st.sampled_from((1, 2, 4))),
        draw(st.sampled_from((channels // groups, channels // groups, 1))),
        *draw(few),
        2,
    ]
    weight, bias = (
        draw(tensors(made[:4], torch.float32)),
        draw(st.sampled_from((None, torch.zeros(made[0]), torch.zeros(5)))),
    )
    stride, padding, dilation = ([draw(st.sampled_from((1, 2, low))) for _ in "HW"] for low in (0, -1, 0))
    return x, weight, bias, stride, padding, dilation, draw(st.sampled_from((False, False, True))), [0, 0], groups


@st.composite
def normed(draw, op, backward=False):
    x = draw(tensors(st.lists(st.sampled_from((1, 2, 4)), min_size=2, max_size=4)))
    y = draw(st.sampled_from((x.clone(), x.contiguous(), x[:1].contiguous())))
    size = {"layer": x.shape[-1:], "batch": x.shape[1:2], "group": x.shape[1:2]}[op]
    vectors = [None, torch.zeros(size, dtype=x.dtype), torch.zeros(size, dtype=x.dtype), torch.zeros(3)]
    w, b, m, v = (draw(st.sampled_from(vectors)) for _ in range(4))
    if backward:
        wanted = draw(st.sampled_from(([True] * 3, [True] * 3, [True, False, True])))
    kept, train = (*x.shape[:-1], 1), draw(st.booleans())
    made = {
        "layer": (x, list(size), w, b, 1e-5),
        "batch": (x, w, b, m, v, train, 0.1, 1e-5),
        "group": (x, w, b, x.shape[0], x.shape[1], x[0, 0].numel(), draw(st.sampled_from((1, 2))), 1e-5),
    }[op]
    if not backward:
        return made
    moments = {"layer": kept, "batch": size, "group": (x.shape[0], made[-2] if op == "group" else 1)}[op]
    a, b2 = torch.zeros(moments, dtype=x.dtype), torch.zeros(moments, dtype=x.dtype)
    return {
        "layer": (y, x, list(size), a, b2, w, b, wanted),
        "batch": (y, x, w, a, b2, a, b2, train, 1e-5, wanted),
        "group": (y, x, a, b2, w, *made[3:7], wanted),
    }[op]


SPECIAL = {
    "convolution": convolutions(),
    "native_layer_norm": normed("layer"),
    "native_batch_norm": normed("batch"),
    "native_group_norm": normed("group"),
    "native_layer_norm_backward": normed("layer", backward=True),
    "native_batch_norm_backward": normed("batch", backward=True),
    "native_group_norm_backward": normed("group", backward=True),
    "addmm": st.tuples(
        tensors(st.sampled_from(([4], [2], [1], [2, 4])), torch.float32),
        tensors(st.sampled_from(([2, 3], [1, 3], [3])), torch.float32),
        tensors(st.sampled_from(([3, 4], [3, 1], [2, 4])), torch.float32),
    ),
    "mm": st.tuples(tensors([2, 3]), tensors(st.sampled_from(([3, 4], [2, 4])))),
    "bmm": st.tuples(tensors([2, 2, 3]), tensors(st.sampled_from(([2, 3, 4], [2, 2, 4], [3, 3, 4])))),
    "cat": st.tuples(alike(count=3), dims),
    "mean": st.tuples(tensors(), st.lists(dims, min_size=1, max_size=2), st.booleans()),
    "sum": st.tuples(tensors(), st.lists(dims, min_size=1, max_size=2), st.booleans()),
    "_softmax": st.tuples(tensors(), dims, st.sampled_from((False, False, True))),
    "_log_softmax": st.tuples(tensors(), dims, st.sampled_from((False, False, True))),
    "_safe_softmax": st.tuples(tensors(), dims),
    "_softmax_backward_data": st.tuples(tensors([2, 3]), tensors([2, 3]), st.just(1), st.sampled_from(DTYPES)),
    "_log_softmax_backward_data": st.tuples(tensors([2, 3]), tensors([2, 3]), st.just(1), st.sampled_from(DTYPES)),
    "stack": st.tuples(alike(count=3), dims),
    "clone": st.tuples(tensors()),
    "roll": st.tuples(tensors(), st.lists(st.integers(-2, 2), max_size=2), st.lists(dims, max_size=2)),
    "masked_fill": st.tuples(tensors(), tensors(dtype=torch.bool), numbers),
    "index": st.tuples(
        tensors(), st.lists(st.one_of(st.none(), tensors(st.just([2, 3]), torch.int64)), min_size=1, max_size=2)
    ),
    "clamp": st.tuples(tensors(), numbers, numbers),
    "pow": st.tuples(tensors(), numbers),
    "threshold_backward": alike().map(lambda both: (*both, 0)),
    "hardtanh_backward": alike().map(lambda both: (*both, -1, 1)),
}


def arguments(func):
    name = func.overloadpacket.__name__
    if name in SPECIAL:
        return SPECIAL[name]
    if name.startswith(("upsample", "_upsample")):
        axes = int(next(letter for letter in name if letter in "123"))
        x = tensors(st.lists(st.sampled_from((1, 2, 3)), min_size=axes + 2, max_size=axes + 2))
        size = st.lists(st.integers(0, 4), min_size=axes, max_size=axes)
        return st.tuples(x, size) if "nearest" in name else st.tuples(x, size, st.booleans())
    count = sum("Tensor" in str(one.type) and "Optional" not in str(one.type) for one in func._schema.arguments)
    if count == 1 and len(func._schema.arguments) > 1 and func._overloadname == "Scalar":
        return st.tuples(tensors(), numbers)
    if count == 1:
        return st.tuples(tensors(), numbers) if "clamp_min" in name else st.tuples(tensors())
    return alike(count=count)


def told(value):
    """Shapes, dtypes and where cells lie in memory, which of an axis of one cell says nothing."""
    found = [one for one in tree_flatten(value)[0] if isinstance(one, torch.Tensor)]
    strides = [[step for step, size in zip(one.stride(), one.shape, strict=True) if size > 1] for one in found]
    return [(one.shape, one.dtype, steps if one.numel() else []) for one, steps in zip(found, strides, strict=True)]


def on_meta(value):
    """The same with tensors that lie alike and have no values."""
    if not isinstance(value, torch.Tensor):
        return value
    return torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device="meta")


def answer(func, args):
    with torch.no_grad():
        return RULES[func](*tree_map(on_meta, args))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("func", RULES, ids=str)
def test_a_rule_says_what_pytorch_says(func):
    @settings(max_examples=40, deadline=None, database=None)
    @given(arguments(func))
    def check(args):
        found = answer(func, args)
        if found is not None:
            with torch.no_grad(), warnings.catch_warnings():
                warnings.simplefilter("ignore")
                assert told(found) == told(func(*tree_map(on_meta, args)))
                with contextlib.suppress(NotImplementedError):  # of halves on the processor
                    count = 1 if func is aten.native_batch_norm.default else None  # the others serve its backward pass
                    assert told(found)[:count] == told(func(*args))[:count]

    check()
    args = find(arguments(func), lambda args: answer(func, args) is not None, settings=settings(max_examples=2000))
    without = tree_map(on_meta, args)
    assert (RULES[func](*without) is tree_flatten(without)[0][0]) is func._schema.is_mutable
