"""Weight norm of either spelling: paired, fused and cut."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrizations, weight_norm
from weights_models import prefixed, randomised, snapshot

from autoadapt.weights import transfer

# Weight norm


def old_norm(layer: nn.Module) -> nn.Module:
    with pytest.warns(FutureWarning):
        return weight_norm(layer)


NORMS = {"old": old_norm, "new": parametrizations.weight_norm}
LAYERS = {
    "linear": lambda: nn.Linear(3, 4),
    "convolution": lambda: nn.Conv1d(3, 4, 3),
    "transposed": lambda: nn.ConvTranspose1d(3, 4, 3),
    "one row": lambda: nn.Linear(3, 1),
}


@pytest.mark.parametrize("front", ["", "module."])
@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("spelling", NORMS)
def test_weight_norm_is_fused_into_a_plain_weight_bit_for_bit(spelling: str, layer: str, front: str) -> None:
    torch.manual_seed(0)
    source = nn.Sequential(NORMS[spelling](LAYERS[layer]()), nn.Linear(2, 2))
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    model = nn.Sequential(LAYERS[layer](), nn.Linear(2, 2))
    report = transfer(prefixed(source.state_dict(), front), model)
    source[0](torch.zeros(1, 3) if isinstance(model[0], nn.Linear) else torch.zeros(1, 3, 5))
    assert report.ok
    assert torch.equal(model[0].weight, source[0].weight)
    assert [e.bucket for e in report.sources].count("converted") == 2


@pytest.mark.parametrize(("old", "new"), [("old", "new"), ("new", "old"), ("new", "new"), ("old", "old")])
def test_either_spelling_of_weight_norm_is_paired_by_itself(old: str, new: str) -> None:
    source = randomised(nn.Sequential(NORMS[old](nn.Linear(3, 4)), nn.Linear(4, 2)), 1)
    model = randomised(nn.Sequential(NORMS[new](nn.Linear(3, 4)), nn.Linear(4, 2)), 2)
    report = transfer(source, model)
    assert report.ok
    assert report.share == 1
    x = torch.rand(2, 3)
    assert torch.equal(model(x), source(x))


def test_a_norm_of_one_layer_alone_goes_to_that_layer() -> None:
    source = randomised(nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 3)), nn.Linear(3, 3)), 1)
    model = nn.Sequential(nn.Linear(3, 3), parametrizations.weight_norm(nn.Linear(3, 3)))
    report = transfer(source, model)
    assert torch.equal(model[0].weight, source[0].weight)
    assert {e.name for e in report.sources if e.bucket == "unexpected"} == {"1.weight"}


@pytest.mark.parametrize(("sizes", "dim"), [((1, 4), 1), ((4, 1), 0), ((4, 1), None), ((1, 1), 0)])
def test_a_length_of_one_value_is_that_of_the_axes_that_it_was_taken_of(sizes, dim):
    source = randomised(nn.Sequential(parametrizations.weight_norm(nn.Linear(*sizes), dim=dim)), 1)
    model = randomised(nn.Sequential(nn.Linear(*sizes)), 2)
    transfer(source, model)
    assert torch.equal(model[0].weight, source[0].weight)


AXES = {"rows": 0, "columns": 1, "last": 2, "whole": None}


@pytest.mark.parametrize(
    ("old", "new"), [("rows", "columns"), ("columns", "rows"), ("rows", "whole"), ("whole", "last")]
)
@pytest.mark.parametrize("spelling", NORMS)
def test_weight_norm_of_another_axis_is_the_same_weight(spelling: str, old: str, new: str) -> None:
    layer, x = (nn.Linear, torch.rand(2, 3)) if new != "last" else (nn.Conv1d, torch.rand(2, 3, 5))
    sizes = (3, 4) if layer is nn.Linear else (3, 4, 3)
    source = randomised(nn.Sequential(parametrizations.weight_norm(layer(*sizes), dim=AXES[old])), 1)
    state = source.state_dict()
    if spelling == "old":
        ends = {"parametrizations.weight.original0": "weight_g", "parametrizations.weight.original1": "weight_v"}
        state = {f"0.{ends.get(name[2:], name[2:])}": value for name, value in state.items()}
    model = randomised(nn.Sequential(parametrizations.weight_norm(layer(*sizes), dim=AXES[new])), 2)
    report = transfer(state, model)
    assert report.share == 1
    assert report.source_counts == {"converted": 2, "loaded": 1}
    torch.testing.assert_close(model(x), source(x))


@pytest.mark.parametrize("shapes", ["slice", "inflate", "sum", {"*_v": "slice", "*1": "slice"}])
@pytest.mark.parametrize("spelling", NORMS)
def test_a_direction_is_not_cut_along_what_its_length_counts(spelling: str, shapes: str | dict[str, str]) -> None:
    new = {"inflate": 6, "sum": 1}.get(str(shapes), 2)
    source = nn.Sequential(NORMS[spelling](nn.Conv1d(3, 4, 1)), nn.Linear(4, 2))
    model = nn.Sequential(NORMS[spelling](nn.Conv1d(new, 4, 1)), nn.Linear(4, 2))
    before = snapshot(model)
    report = transfer(source, model, shapes=shapes)
    assert [e.bucket for e in report.sources].count("mismatched") == 2
    assert sum(torch.equal(value, before[name]) for name, value in model.state_dict().items()) == 2


def test_rows_of_weight_norm_are_taken_with_their_lengths() -> None:
    source = randomised(nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 17))), 1)
    model = randomised(nn.Sequential(parametrizations.weight_norm(nn.Linear(3, 14))), 2)
    transfer(source, model, keep={"*": "coco->crowdpose"})
    assert torch.equal(model[0].weight[:12], source[0].weight[5:])
    report = transfer(source, model, shapes={"*original1": "slice", "*bias": "slice"})
    assert report.source_counts == {"mismatched": 2, "converted": 1}
