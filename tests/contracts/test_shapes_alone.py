"""What runs without values has the shapes, dtypes and memory that it has for real, whichever way these are found."""

import argparse

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import autoadapt as aa
from autoadapt.contracts.capturing.shapes_alone import everywhere_meta
from autoadapt.contracts.made_tables import MadeTables
from autoadapt.contracts.meta_device import not_emptied

X = torch.randn(2, 6, 9, 12)
W12 = torch.randn(5, 12)
W, W1, W3 = torch.randn(4, 3, 3, 2), torch.randn(4, 6, 3), torch.randn(4, 6, 1, 2, 2)

CALLS = {
    "grouped": lambda x: torch.conv2d(x, like(W, x), None, (2, 1), (1, 0), (2, 3), 2),
    "same": lambda x: torch.conv2d(x, like(W[..., :1], x), None, 1, "same", 1, 2),
    "one number": lambda x: F.conv2d(x, like(W, x), stride=3, padding=2, groups=2),
    "one image": lambda x: torch.conv2d(x[0], like(W, x), None, (1, 1), (0, 0), (1, 1), 2),
    "conv1d": lambda x: torch.conv1d(x[..., 0], like(W1, x), None, (2,), (1,), (1,), 1),
    "conv3d": lambda x: torch.conv3d(x[:, :, None], like(W3, x), None, (1, 2, 2), (0, 1, 0), (1, 1, 1), 1),
    "channels last": lambda x: F.relu(x.to(memory_format=torch.channels_last)),
    "turned": lambda x: F.silu(x.transpose(1, 3)),
    "expanded": lambda x: F.gelu(x[:, :1].expand(-1, 6, -1, -1)),
    "approximate": lambda x: F.gelu(x, approximate="tanh"),
    "whole numbers": lambda x: torch.sigmoid(x.to(torch.int32)),
    "leaky": lambda x: F.leaky_relu(x, 0.2),
    "broadcast": lambda x: x + x[:, :1],
    "other dtype": lambda x: x + x.double(),
    "scaled": lambda x: torch.add(x, x, alpha=2),
    "a number": lambda x: x + 1.5,
    "turned sum": lambda x: x.transpose(2, 3) + x.transpose(2, 3),
    "norm of tokens": lambda x: F.layer_norm(x, (12,)),
    "norm of channels": lambda x: F.layer_norm(x.permute(0, 2, 3, 1), (6,)),
    "norm over batches": lambda x: F.batch_norm(x, like(X[0, :, 0, 0], x), like(X[0, :, 0, 0], x)),
    "of channels last": lambda x: F.batch_norm(x.to(memory_format=torch.channels_last), *[like(X[0, :, 0, 0], x)] * 2),
    "of turned axes": lambda x: F.batch_norm(x.transpose(1, 3), *[like(X[0, 0, 0], x)] * 2),
    "half": lambda x: x.half() + x.half(),
    "linear": lambda x: F.linear(x, like(W12, x), like(W12[:, 0], x)),
    "linear without bias": lambda x: F.linear(x, like(W12, x)),
    "linear of turned axes": lambda x: F.linear(x.transpose(2, 3), like(W12[:, :9], x)),
    "linear by name": lambda x: F.linear(x, weight=like(W12, x), bias=None),
    "linear of one row": lambda x: F.linear(x[0, 0, 0], like(W12, x)),
    "attention": lambda x: attended(x, x, x).contiguous(),
    "attention to fewer": lambda x: attended(x, x[:, :, :5], x[:, :, :5, :7]).contiguous(),
    "attention of turned heads": lambda x: attended(*(x.transpose(1, 2),) * 3).contiguous(),
    "attention with a mask": lambda x: attended(x, x, x, x[..., :9]).contiguous(),
    "attention with a mask by name": lambda x: attended(x, x, x, attn_mask=x[:1, :1, :, :9]).contiguous(),
    "attention to what came before": lambda x: attended(x, x, x, None, 0.0, True).contiguous(),
}
attended = F.scaled_dot_product_attention
WRITING = {
    "relu": lambda x: F.relu(x, inplace=True),
    "leaky": lambda x: F.leaky_relu(x, 0.2, True),
    "sum": lambda x: x.add_(torch.ones_like(x)),
    "operator": lambda x: x.__iadd__(torch.ones_like(x)),
    "broadcast": lambda x: x.add_(x[:, :1].clone()),
}


def like(weight, x):
    return weight.to(x.device)


def made(call, x):
    with torch.no_grad(), everywhere_meta(x.is_meta, MadeTables(torch.device("cpu"))):
        return call(x)


@pytest.mark.parametrize("name", CALLS)
def test_a_call_gives_what_it_gives_for_real(name):
    real, alone = made(CALLS[name], X), made(CALLS[name], X.to("meta"))
    assert alone.is_meta
    assert (alone.shape, alone.dtype, alone.stride()) == (real.shape, real.dtype, real.stride())


@pytest.mark.parametrize("name", WRITING)
def test_what_is_written_to_counts_as_written_to(name):
    x, y = X.clone(), X.to("meta")
    assert (made(WRITING[name], x) is x, made(WRITING[name], y) is y) == (True, True)
    assert x._version > 0
    assert y._version > 0


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda x: torch.conv2d(x, W.to("meta"), None, (1, 1), (0, 0), (1, 1), 1), "channel"),
        (lambda x: torch.conv2d(x[:, :, :1], W.to("meta"), None, (1, 1), (0, 0), (1, 1), 2), "Kernel size"),
        (lambda x: x + x[:, :2], "(?i)mismatch|must match"),
        (lambda x: x.add_(torch.ones(2, 2, *x.shape)), "shape"),
        (lambda x: F.linear(x, W12[:, 1:].to("meta")), "reduction dim|shape"),
        (lambda x: F.linear(x, W12.to("meta"), W12[0].to("meta")), "(?i)size|expand"),
        (lambda x: attended(x, x[..., :5], x), "(?i)size"),
        (lambda x: attended(x, x[:, :, :5], x), "(?i)size"),
    ],
)
def test_what_is_refused_for_real_is_refused(call, said):
    with pytest.raises(RuntimeError, match=said):
        made(call, X.to("meta"))


class AddsPositions(nn.Module):
    """Adds activations and sums of what is made of sizes alone, kept for the last size."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 2, 2)

    def forward(self, x):
        maps = self.conv(x)
        size = maps.shape[-1]
        if TABLES.size != size:
            TABLES.size, TABLES.table = size, F.relu(torch.arange(size) - 3.0).add_(torch.ones(size)) + 2.0
        return maps + TABLES.table


TABLES = argparse.Namespace(size=0)  # an object of a class that is not the model's, where nobody looks


def test_tables_made_by_activations_and_sums_get_their_values():
    module, x = AddsPositions(), torch.randn(1, 3, 12, 20)
    aa.capture(module, x, confirm=False)
    TABLES.table = TABLES.table.clone()  # has values
    with torch.no_grad():
        assert torch.equal(TABLES.table, F.relu(torch.arange(TABLES.size) - 3.0) + 3)
        assert torch.equal(module(x), module.conv(x) + torch.tensor([3.0, 3, 3, 3, 4, 5, 6, 7, 8, 9]))


@pytest.mark.parametrize("axes", [1, 2, 3])
def test_a_convolution_that_returns_axes_of_0_is_refused_as_with_values(axes: int) -> None:
    convolution = (torch.conv1d, torch.conv2d, torch.conv3d)[axes - 1]
    image, kernel, nothing = (torch.empty(1, 3, *[size] * axes, device="meta") for size in (8, 16, 0))
    with pytest.raises(RuntimeError, match="Kernel size can't be greater"):  # as torch 2.5 returned it there
        not_emptied(convolution, (image, kernel), nothing)
    assert not_emptied(convolution, (nothing, kernel), nothing) is nothing
    with everywhere_meta(True), pytest.raises(RuntimeError, match="Kernel size can't be greater"):
        convolution(image, kernel)


def test_what_is_followed_or_trained_on_goes_through_every_operation():
    x, weight = X.to("meta"), W12.to("meta").requires_grad_()
    with everywhere_meta(True):
        assert F.linear(x, weight).grad_fn is not None
    seen = list[str]()

    class Seen(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    for followed in (False, True):
        seen.clear()
        with torch.no_grad(), everywhere_meta(True, followed=followed), Seen():
            F.linear(x, weight), attended(x, x, x)
        assert any("mm" in name for name in seen) is followed
