"""Real decoders take a narrower and a wider backbone, and nothing of the adapters is left at run time."""

from functools import partial

import pytest
import timm
import torch
from folded_models import (
    SMP,
    Oriented,
    WithImage,
    calibrated,
    lived_in,
    segmenter,
    tensors,
    torchvision_detector,
    torchvision_segmenter,
    worst,
)

import autoadapt as aa
from autoadapt.contracts.capturing import bind
from autoadapt.contracts.costs import multiply_adds_by_part, multiply_adds_of
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


@pytest.mark.parametrize(
    ("name", "width"),
    [*((name, "narrower") for name in MODELS), *((name, "wider") for name in ("Unet", "DeepLabV3Plus", "fcn"))],
)
def test_adapters_fold_into_a_real_consumer_and_it_answers_as_before_at_three_sizes(name, width, monkeypatch):
    torch.manual_seed(0)
    model, at = MODELS[name]()
    x = torch.randn(1, 3, 128, 128)
    model = calibrated(model, at, timm.create_model(NEW[width][name], features_only=True), x)
    if name == "MAnet":  # large scores in the softmax of its attention make more of rounding than 1e-5 in 32 bits
        monkeypatch.setattr(torch, "randn", partial(torch.randn, dtype=torch.float64))
        model, x = model.double(), x.double()
    folded, stays = folded_whole(model, at, x)  # depthwise convolutions keep theirs
    assert [one.count("groups=") for one, _ in stays] == [3] * (name == "DeepLabV3Plus")
    assert bool(list(folded.get_submodule(at).adapters.parameters())) == bool(stays)
    assert worst(model, folded, SIZES) < 1e-5


def oriented():
    return Oriented(WithImage("resnet101"))


def test_the_first_layers_of_a_folded_decoder_cost_what_they_cost_by_hand_and_a_channel_of_ones():
    x, new = torch.randn(1, 3, 128, 128), timm.create_model("resnet18", features_only=True)
    folded = fold(calibrated(oriented(), "base_network", new, x), inputs=x)
    first = {one.paths[0]: one for one in folded.base_network.folded.readers}
    assert list(first) == ["dec_c4.up.0", "dec_c4.cat.0", "dec_c3.cat.0", "dec_c2.cat.0"]
    by_hand = aa.swap(oriented(), "base_network", new, inputs=x, refit=True)
    channels = [by_hand.get_submodule(path).in_channels for path in first]
    assert channels == [512, 1024 + 256, 512 + 128, 256 + 64]  # the numbers that one edits
    counted, expected = (multiply_adds_by_part(one, bind(one, x), first) for one in (folded, by_hand))
    for path, reader in first.items():
        assert counted[path] == expected[path] * reader.channels // (reader.channels - reader.ones)
    assert {path: one.ones for path, one in first.items()} == dict.fromkeys(first, 0) | {"dec_c4.up.0": 1}
    assert counted[""] - expected[""] == folded.base_network.folded.multiply_adds_of_ones


def test_the_narrowed_decoder_costs_what_the_one_costs_that_is_edited_by_hand():
    x, new = torch.randn(1, 3, 128, 128), timm.create_model("resnet18", features_only=True)
    narrowed = aa.swap(oriented(), "base_network", new, inputs=x, refit="shrink")
    by_hand = Oriented(WithImage("resnet18"), (64, 128, 256, 512)).eval()
    shapes = [
        {name: p.shape for name, p in one.named_parameters() if "base" not in name} for one in (narrowed, by_hand)
    ]
    assert shapes[0] == shapes[1]
    costs = {line.state: line.whole[1] for line in narrowed.base_network.swapped.costs}
    assert costs["as by hand"] == multiply_adds_of(by_hand, bind(by_hand, x))
    assert costs["as by hand"] < costs["readers rebuilt"] < costs["adapted"] < costs["old"]


@pytest.mark.parametrize(
    ("name", "refit"),
    [
        *((name, True) for name in ("Unet", "DeepLabV3Plus", "fcn")),
        *((name, "shrink") for name in ("UnetPlusPlus", "FPN", "DeepLabV3Plus", "MAnet", "PAN", "Linknet", "fcn")),
    ],
)
def test_a_real_consumer_is_refitted_and_trains(name, refit):
    model, at = MODELS[name]()
    x = torch.randn(2, 3, 128, 128)
    model = aa.swap(
        lived_in(model), at, timm.create_model(NEW["narrower"][name], features_only=True), inputs=x, refit=refit
    )
    found = model.get_submodule(at).folded
    assert found.outputs
    assert found.untrained
    for size in SIZES:
        assert all(one.isfinite().all() for one in tensors(model(torch.randn(1, 3, *size))))
    model.train()
    sum(one.float().mean() for one in tensors(model(x))).backward()
    named = dict(model.named_parameters())
    assert all(named[f"{path}.weight"].grad is not None for path in found.untrained)


def folded_whole(model, at, x):
    """With every output that can be folded, also where that makes the model heavier, and what reads the others."""
    names = projected(model.get_submodule(at).plan)
    try:
        return fold(model, at=at, inputs=x, outputs=names), []
    except BuildError as error:
        stays = {fault.where.removeprefix("output "): (fault.found, fault.why) for fault in error.mismatches}
        names = [name for name in names if name not in stays]
        return fold(model, at=at, inputs=x, outputs=names), list(stays.values())
