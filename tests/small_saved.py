"""Small adapted modules to save, and a machine that reaches no hub."""

from __future__ import annotations

import pytest
from made_once import made_once
from plan_kinds import texts
from small_models import Plain, image

import autoadapt as aa

ALLOW = ["point_clouds", "small_models"]


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@made_once
def small(**options) -> aa.AdaptedModule:
    """A small module in eval mode, whose backbone autoadapt did not load."""
    return aa.adapt(Plain(), like=texts({"c4": "f32[B, 5, ceil(H/4), ceil(W/4)]"}), inputs=image(), **options).eval()


@made_once
def loaded() -> aa.AdaptedModule:
    """A module whose backbone is made by its name."""
    new = aa.load("small_models:Plain", allow=ALLOW)
    return aa.adapt(new, like=texts({"c4": "f32[B, 5, ceil(H/4), ceil(W/4)]"}), inputs=image()).eval()
