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

from autoadapt.errors import BuildError
from autoadapt.swapping.folding import fold
from autoadapt.swapping.folding.settling import projected

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
    folded, stays = folded_whole(model, at, x)
    assert [one.count("groups=") for one in stays] == [3] * (name == "DeepLabV3Plus")  # depthwise convolutions
    assert bool(list(folded.get_submodule(at).adapters.parameters())) == bool(stays)
    assert worst(model, folded, SIZES) < 1e-5


def folded_whole(model, at, x):
    """With every output that can be folded, also where that makes the model heavier, and what reads the others."""
    names = projected(model.get_submodule(at).plan)
    try:
        return fold(model, at=at, inputs=x, outputs=names), []
    except BuildError as error:
        stays = {fault.where.removeprefix("output "): fault.found for fault in error.mismatches}
        names = [name for name in names if name not in stays]
        return fold(model, at=at, inputs=x, outputs=names), list(stays.values())
