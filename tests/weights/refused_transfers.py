"""Transfers that are refused: a small model, its state and the text of the refusal."""

from __future__ import annotations

from typing import Any

import pytest
from torch import Tensor, nn
from weights_models import equal, randomised, snapshot

from autoadapt.errors import AdaptError
from autoadapt.weights import transfer


def net() -> nn.Module:
    return randomised(nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2)), 2)


def state() -> dict[str, Tensor]:
    return dict(randomised(net(), 1).state_dict())


def refusal(source: object, model: nn.Module, **options: Any) -> str:
    """The text of the error, the model proven untouched."""
    before = snapshot(model)
    with pytest.raises(AdaptError) as caught:
        transfer(source, model, **options)
    assert equal(snapshot(model), before)
    return f"{type(caught.value).__name__}: {caught.value}"
