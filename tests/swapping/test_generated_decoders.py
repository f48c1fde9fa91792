"""Whatever decoder is generated from linear steps: all adapters fold into its layers, and it answers as before."""

import copy
import pickle

import pytest
import torch
from generated_decoders import Decoder, Levels, programs
from hypothesis import HealthCheck, example, given, settings, strategies as st
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.swapping.folding import fold

X = torch.randn(2, 3, 16, 16)
LEVELS = ["0", "1", "2"]  # named, so that they are folded where that makes the model heavier


def adapted(program, widths):
    torch.manual_seed(0)
    model = Decoder(program).eval()
    model.backbone = adapt(Levels(*widths), like=model.backbone, inputs=X, project="always")
    for parameter in model.backbone.adapters.parameters():
        nn.init.normal_(parameter, std=0.5)
    return model


def assert_folded(program, widths):
    model = adapted(program, widths)
    folded = fold(model, inputs=X, outputs=LEVELS)
    assert not folded.backbone.folded.stays
    assert not list(folded.backbone.adapters.parameters())
    for size in (16, 24, 40):
        assert_alike(folded, model, torch.randn(1, 3, size, size + 8))


def assert_alike(folded, model, x):
    for a, b in zip(folded(x), model(x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5 * float(b.detach().abs().max()))


@pytest.mark.slow
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(programs, st.sampled_from([(3, 4, 5), (9, 16, 12), (8, 6, 12)]))
@example([("add", 0, 0), ("chunk", 0, 0), ("cat", 1, 1)], (3, 4, 5))
def test_every_adapter_folds_into_a_generated_decoder(program, widths):
    assert_folded(program, widths)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "program",
    [
        [("cat", 2, 0), ("cat", 1, 0), ("conv", 0, 0)],
        [("padded pool", 0, 0), ("scale", 0, 0), ("transposed", 2, 0)],
        [("warp", 0, 0), ("beside", 0, 2), ("tokens", 0, 0)],
        [("unshuffle", 0, 0), ("attention", 0, 0), ("unfold", 0, 0)],
        [("mask", 0, 0), ("map", 1, 0), ("stack", 1, 0), ("product", 1, 0), ("mirror", 2, 0)],
        [("chunk", 2, 0), ("add", 0, 2)],
        [("conv", 0, 0), ("add", 0, 1)],
        [("padded pool", 0, 0), ("padded pool", 0, 0), ("padded pool", 0, 0)],
        [("conv", 0, 0), ("sub", 0, 1)],
    ],
)
def test_a_decoder_of_a_few_steps_is_folded(program):
    assert_folded(program, (3, 9, 5))


SUMS = [("conv", 0, 0), ("add", 0, 1), ("chunk", 0, 0)]


def test_a_rerouted_module_keeps_its_class_and_is_copied_pickled_and_trained():
    model = adapted(SUMS, (3, 9, 5))
    folded = fold(model, inputs=X, outputs=LEVELS)
    assert {one.does for one in folded.backbone.folded.reroutes[""]} == {"join", "whole"}
    assert isinstance(folded, Decoder)
    assert type(folded).__name__ == "Decoder"
    assert type(model) is Decoder
    for one in (copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))):
        assert_alike(one, model, X)
    folded.train()
    sum(one.mean() for one in folded(X)).backward()
    assert all(p.grad is not None for p in folded.layers.parameters())


@pytest.mark.slow
def test_a_rerouted_module_is_compiled_and_exported():
    model = adapted(SUMS, (3, 9, 5))
    folded = fold(model, inputs=X, outputs=LEVELS)
    assert_alike(torch.compile(folded, fullgraph=True, backend="eager"), model, X)
    assert_alike(torch.export.export(folded, (X,)).module(), model, X)


def test_a_path_that_was_not_followed_is_refused_where_it_is_taken():
    model = adapted(SUMS, (3, 9, 5))
    folded = fold(model, inputs=X, outputs=LEVELS)
    folded.program = [SUMS[0], ("add", 2, 0)]
    with pytest.raises(RuntimeError, match="fold with inputs= that take this path"):
        folded(X)
