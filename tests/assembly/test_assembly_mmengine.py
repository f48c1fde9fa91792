"""The registries of mmengine are read both ways; runs where mmengine is installed."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from guests import guest
from torch import nn

from autoadapt.assembly import assemble, share_with_mmengine
from autoadapt.errors import AssemblyError

TEXT = """
input: f32[B, 3, 32, 32]
backbone: ResNet_CIFAR
neck: {type: "mm:PoolOfATest"}
head: {type: LinearClsHead, num_classes: 10}
"""


@pytest.fixture(scope="module")
def models() -> Any:
    return guest("mmengine.registry").MODELS


@pytest.mark.guest
def test_a_part_of_mmengine_gets_the_tuple_that_it_expects(models: Any) -> None:
    @models.register_module(name="PoolOfATest", force=True)
    class Pool(nn.Module):
        def forward(self, inputs):  # type: ignore[no-untyped-def]  # as parts there are written
            assert isinstance(inputs, tuple)
            return inputs[-1].mean((2, 3))

    assert assemble(TEXT).eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
    with pytest.raises(
        AssemblyError, match=r"a part in mmengine's MODELS\n  found     `PoolOfATst`\n  try       mm:PoolOfATest"
    ):
        assemble(TEXT.replace("PoolOfATest", "PoolOfATst"))


@pytest.mark.guest
def test_our_parts_are_known_to_mmengine(models: Any) -> None:
    share_with_mmengine()
    share_with_mmengine()
    built = models.build({"type": "autoadapt.LinearClsHead", "in_channels": 4, "num_classes": 2})
    assert built.fc.in_features == 4


def test_without_mmengine_the_remedy_is_to_install_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "mmengine.registry", None)
    with pytest.raises(AssemblyError, match="pip install mmengine"):
        assemble(TEXT)
