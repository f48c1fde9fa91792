"""Real decoders take a narrower and a wider backbone, and nothing of the adapters is left at run time."""

import pytest
import timm
import torch
from folded_models import (
    SMP,
    Oriented,
    WithImage,
    segmenter,
    swapped,
    torchvision_detector,
    torchvision_segmenter,
    worst,
)

import autoadapt as aa
from autoadapt.swapping.folding import fold

pytestmark = pytest.mark.slow

SIZES = [(128, 128), (160, 128), (256, 192)]
MODELS = {
    **{name: (lambda name=name: segmenter(name)) for name in SMP},
    "fcn": lambda: torchvision_segmenter("fcn"),
    "deeplabv3": lambda: torchvision_segmenter("deeplabv3"),
    "fasterrcnn": lambda: torchvision_detector("fasterrcnn"),
    "retinanet": lambda: torchvision_detector("retinanet"),
    "oriented": lambda: (Oriented(WithImage("resnet50")), "base_network"),
}
NEW = {
    "narrower": dict.fromkeys(MODELS, "resnet18") | dict.fromkeys(SMP, "mobilenetv3_small_100"),
    "wider": dict.fromkeys(MODELS, "densenet161") | dict.fromkeys(SMP, "resnet50"),
}


@pytest.mark.parametrize("width", NEW)
@pytest.mark.parametrize("name", MODELS)
def test_adapters_fold_into_a_real_consumer_and_it_answers_as_before_at_three_sizes(name, width):
    torch.manual_seed(0)
    model, at = MODELS[name]()
    x = torch.randn(1, 3, 128, 128)
    model = swapped(model, at, timm.create_model(NEW[width][name], features_only=True), x)
    folded = fold(model, at=at, inputs=x)
    heavy = [one.output for one in folded.get_submodule(at).folded.stays if "heavier" in one.why]
    if heavy:  # named, they are folded all the same
        folded = fold(model, at=at, inputs=x, outputs=[*folded.get_submodule(at).folded.outputs, *heavy])
    stays = folded.get_submodule(at).folded.stays
    assert [one.reader.count("groups=") for one in stays] == [3] * (name == "DeepLabV3Plus")  # depthwise convolutions
    assert bool(list(folded.get_submodule(at).adapters.parameters())) == bool(stays)
    assert worst(model, folded, SIZES) < 1e-5


def test_a_folded_decoder_whose_sums_are_rerouted_is_trained_and_exported_for_all_sizes(tmp_path):
    model, at = segmenter("Linknet")
    x = torch.randn(2, 3, 64, 64)
    folded = fold(swapped(model, at, timm.create_model("resnet50", features_only=True), x), at=at, inputs=x)
    assert folded.get_submodule(at).folded.reroutes
    for name in ("folded.pt2", "folded.onnx"):
        aa.export(folded, tmp_path / name, inputs=x)  # compares at the smallest and at odd sizes
    folded.train()
    folded(x).mean().backward()
    assert all(p.grad is not None for p in folded.decoder.parameters())
