"""Folded and refitted models are written for other runtimes, compiled, saved, and trained on, as any other model."""

import copy

import pytest
import torch
from test_folded_attention import Attending, X as TOKENS, adapted as attending
from test_folding import assert_alike
from test_refits_of_several import X, adapted as both

import autoadapt as aa

LEVELS = ["0", "1"]


def folded_twice():
    made = both()
    folded = made
    for path in ("left", "right"):
        folded = aa.fold(folded, at=path, inputs=X, outputs=LEVELS)
    return made, folded, X


def folded_attention():
    made = attending("self")
    return made, aa.fold(made, inputs=TOKENS), TOKENS


def refitted_attention():
    torch.manual_seed(0)
    made = aa.swap(
        Attending("cross").eval(), "backbone", attending("cross").backbone.backbone, inputs=TOKENS, refit=True
    )
    return made, copy.deepcopy(made), TOKENS


KINDS = [folded_twice, folded_attention, refitted_attention]


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_training_step_moves_every_layer_that_was_merged_into(kind):
    _, folded, x = kind()
    optimiser = torch.optim.SGD(folded.parameters(), lr=0.1)
    named = {
        f"{name}.{one.paths[0]}": folded.get_submodule(one.paths[0])
        for name, part in folded.named_modules()
        for one in getattr(vars(part).get("folded"), "readers", ())
    }
    before = {name: layer.weight.detach().clone() for name, layer in named.items()}
    assert before
    folded.train()
    sum(one.square().mean() for one in folded(x)).backward()
    optimiser.step()
    assert all(not torch.equal(before[name], layer.weight) for name, layer in named.items())


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_exported_and_answers_as_before(kind, suffix, tmp_path):
    made, folded, x = kind()
    done = aa.export(folded, tmp_path / f"model{suffix}", x)
    assert done.compared  # with what the runtime answers
    assert_alike(folded(x), made(x))


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_it_is_compiled(kind):
    made, folded, x = kind()
    assert_alike(torch.compile(folded, fullgraph=True, backend="eager")(x), made(x))
