"""Taps in models that list no levels, against `benchmarks/judged_taps.json`: a sample of the zoo benchmark."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from guests import guest
from torch import nn

import autoadapt as aa

judging = pytest.importorskip("benchmarks.zoo_judging", reason="run pytest from the root of the repository")


def outcome(name: str) -> dict[str, Any]:
    """What the zoo benchmark finds, and the strides whose tap is not the one that was judged right."""
    row = judging.trial("unlisted", name, "resnet18")
    wrong = {level["stride"]: level["chosen"] for level in row["judged levels"] if not level["agrees"]}
    return {"outcome": row["outcome"], "wrong taps": wrong, "kept": row["kept"]}


RIGHT = {"outcome": "exact", "wrong taps": {}, "kept": 1.0}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["resnet", "mobilenet_v1", "vit"])
def test_classifiers_of_transformers_are_tapped_where_their_stages_end(name: str) -> None:
    assert outcome(f"transformers/{name}") == RIGHT


@pytest.mark.guest
@pytest.mark.parametrize("name", ["vit_pytorch/vit", "vit_pytorch/xcit", "pytorchcv/resnet18"])
def test_models_of_guests_are_tapped_where_their_stages_end(name: str) -> None:
    guest(name.partition("/")[0])
    assert outcome(name) == RIGHT


def test_every_judged_model_can_be_made_and_has_levels_of_a_resnet_or_a_last_one() -> None:
    from benchmarks.judged_levels import LAST, STRIDES, judged_taps
    from benchmarks.unlisted_models import PYTORCHCV, TRANSFORMERS, ULTRALYTICS, VIT_PYTORCH

    known = {"vit_pytorch": VIT_PYTORCH, "transformers": TRANSFORMERS, "pytorchcv": PYTORCHCV}
    names = [f"{package}/{name}" for package, models in known.items() for name in models]
    assert sorted(judged_taps()) == sorted([*names, *(f"ultralytics/{name}" for name in ULTRALYTICS)])
    assert len(judged_taps()) >= 60
    strides = set(map(str, STRIDES))
    assert all(set(levels) == {LAST} or set(levels) <= strides for levels in judged_taps().values())
    assert all(modules for levels in judged_taps().values() for modules in levels.values())


class Stages(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 4, 2, 2, bias=False)
        self.second = nn.Conv2d(4, 8, 2, 2, bias=False)
        self.head = nn.Linear(8, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.second(self.first(x)).mean((2, 3)))


@pytest.mark.parametrize(("tap", "share"), [("first", 48 / (48 + 128)), ("second", 1.0)])
def test_kept_share_counts_the_parameters_before_the_pooling_that_serve(tap: str, share: float) -> None:
    """48 and 128 weights; the head counts for nothing."""
    from benchmarks.kept_parameters import kept_share

    x = torch.zeros(1, 3, 16, 16)
    model, old = Stages().eval(), nn.Conv2d(3, 6, 4, 4).eval()
    net = aa.adapt(model, like=old, inputs=x, taps={"output": tap})
    assert kept_share(model, net, ["first", "second"], x) == round(share, 4)
