"""Costs are exact where they can be checked by hand, and do not touch the module."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from autoadapt.contracts.capturing import bind
from autoadapt.contracts.costs import cost_of, multiply_adds_of, with_values


def test_multiply_adds_of_known_models_are_those_that_are_published() -> None:
    resnet = timm.create_model("resnet18").eval()
    assert cost_of(resnet, torch.zeros(1, 3, 224, 224), repeats=1).multiply_adds == 1_814_073_344
    mobilenet = timm.create_model("mobilenetv3_small_100").eval()
    assert cost_of(mobilenet, torch.zeros(1, 3, 224, 224), repeats=1).multiply_adds == 56_510_400


class Attending(nn.Module):
    """Attention of one head, and, as a choice, code that looks at values, which does not run on meta."""

    def __init__(self, looks: bool) -> None:
        super().__init__()
        self.looks = looks

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.looks and float(x.sum()) == 12345.0:
            return x
        return nn.functional.scaled_dot_product_attention(x, x, x)


@pytest.mark.parametrize("looks", [False, True])
def test_attention_counts_also_where_the_module_runs_only_for_real(looks: bool) -> None:
    found = cost_of(Attending(looks), torch.randn(2, 4, 50, 16), repeats=1)
    assert found.multiply_adds == 2 * (2 * 4 * 50 * 50 * 16)


class Sentences(nn.Module):
    """Queries that are learned and an encoder layer of PyTorch, and, as a choice, code that looks at values."""

    def __init__(self, looks: bool) -> None:
        super().__init__()
        self.looks, self.queries = looks, nn.Parameter(torch.randn(5, 8))
        self.encode = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)
        self.decode = nn.TransformerDecoderLayer(8, 2, 16, batch_first=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        queries = self.queries.expand(len(x), -1, -1)
        made: torch.Tensor = self.decode(queries, self.encode(x))
        return made * 2 if self.looks and float(made.sum()) == 12345.0 else made


@pytest.mark.parametrize("looks", [False, True])
@pytest.mark.parametrize("is_trained", [False, True])
def test_transformers_count_alike_whether_they_are_trained_or_look_at_values(looks: bool, is_trained: bool) -> None:
    module, x = Sentences(looks).eval().requires_grad_(is_trained), torch.randn(2, 6, 8, requires_grad=is_trained)
    attention = 4 * 8 * 8
    found = multiply_adds_of(module, bind(module, x))
    encoder = 6 * (attention + 2 * 6 * 8 + 2 * 8 * 16)
    decoder = 5 * (attention + 2 * 5 * 8 + 2 * 8 * 8 + 2 * 6 * 8 + 2 * 8 * 16) + 6 * 2 * 8 * 8
    assert found == 2 * (encoder + decoder) == cost_of(module, x, repeats=1).multiply_adds
    assert torch.backends.mha.get_fastpath_enabled()


def test_the_peak_counts_what_is_alive_at_once_and_not_what_is_gone() -> None:
    wide_between = nn.Sequential(nn.Conv2d(1, 8, 1), nn.ReLU(inplace=True), nn.Conv2d(8, 1, 1), nn.Conv2d(1, 1, 1))
    found = cost_of(wide_between, torch.zeros(1, 1, 10, 10))
    assert found.peak_bytes == 4 * (800 + 100)
    assert found.weight_bytes == 4 * (16 + 9 + 2)


def test_the_module_is_neither_run_nor_switched() -> None:
    module = nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4))
    before = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    cost_of(module, torch.randn(2, 3, 8, 8))
    assert module.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in module.state_dict().items())


def test_inputs_without_values_are_given_some() -> None:
    given = bind(nn.Embedding(5, 2), torch.empty(3, dtype=torch.int64, device="meta"))
    assert with_values(given).values["input"].tolist() == [0, 0, 0]
    assert cost_of(nn.Linear(4, 2), torch.empty(3, 4, device="meta")).multiply_adds == 3 * 4 * 2
