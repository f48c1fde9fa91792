"""Candidates that were built for one image size are weighed as they would read images."""

from __future__ import annotations

from pathlib import Path

import pytest
import timm
import torch
from torch import nn

from autoadapt.errors import RankingError
from autoadapt.ranking import rank


@pytest.mark.slow
def test_the_cost_of_a_candidate_follows_how_it_reads_images(tmp_path: Path) -> None:
    sizes = {"img_size": 32, "patch_size": 8, "embed_dim": 24, "depth": 1, "num_heads": 3}
    new, old = timm.create_model("vit_tiny_patch16_224", **sizes), nn.Conv2d(3, 8, 8, stride=8)
    image, state = torch.zeros(1, 3, 96, 96), tmp_path / "state.jsonl"
    native = rank({"vit": new}, old, inputs=image, state=state).rows[0].multiply_adds
    fixed = rank({"vit": new}, old, inputs=image, resolution="fixed").rows[0].multiply_adds
    assert native > 5 * fixed  # 144 tokens, not 16
    with pytest.raises(RankingError, match="another ranking"):
        rank({"vit": new}, old, inputs=image, resolution="fixed", state=state)
