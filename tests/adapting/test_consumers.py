"""One line swaps the backbone of real detectors and segmenters; they run, and train one step, on a CNN and a ViT."""

from __future__ import annotations

import pytest
import timm
import torch
from consumers import CONSUMERS
from snapshots import snapshot

from autoadapt.errors import SwapError
from autoadapt.swapping import swap

BACKBONES = {
    "cnn": lambda: timm.create_model("resnet10t", features_only=True),
    "vit": lambda: timm.create_model("vit_tiny_patch16_224", img_size=64, depth=4),
}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # the models' own
@pytest.mark.parametrize(
    ("name", "backbone"), [*((name, "cnn") for name in CONSUMERS), *((name, "vit") for name in [*CONSUMERS][::3])]
)
def test_a_real_consumer_runs_and_trains_on_another_backbone(name, backbone):
    consumer = CONSUMERS[name]
    model, new = consumer.make(), BACKBONES[backbone]()
    model = swap(model, consumer.path, new, inputs=consumer.inputs)
    net = model.get_submodule(consumer.path)
    assert {part.training for part in net.modules()} == {model.training}
    assert net.plan.kept.share > 0.95, "also where the old backbone is dilated"
    assert net.plan.kept.depth == 1
    with torch.no_grad():
        model.eval()(consumer.inputs)
    loss = consumer.loss(model.train())
    assert loss.isfinite()
    loss.backward()
    trained = [p for p in net.adapters.parameters() if p.requires_grad]
    assert trained or not net.plan.parameters
    assert all(p.grad is not None for p in trained)
    reached = any(p.grad is not None for p in net.backbone.parameters())
    assert reached == (name != "Detr"), "transformers freezes the backbone of this one alone, not fresh adapters"
    assert all(p.grad is None for p in new.parameters())


@pytest.mark.filterwarnings("ignore")
def test_a_consumer_that_wants_a_mask_from_its_backbone_is_refused_by_name():
    model = CONSUMERS["Detr"].make()
    before = snapshot(model)
    with pytest.raises(SwapError, match=r"can serve `0\.1`") as caught:
        swap(model, "model.backbone", BACKBONES["cnn"](), inputs=CONSUMERS["Detr"].inputs)
    assert "bool[B, ceil(H/32), ceil(W/32)]" in str(caught.value)
    assert 'swap(model, "model.backbone.model", ...)  # a module inside, which makes 0.0' in str(caught.value)
    assert snapshot(model) == before
