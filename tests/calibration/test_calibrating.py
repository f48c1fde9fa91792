"""The command: models by name, pictures of a folder, adapters in a file."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from autoadapt.adapting import adapt
from autoadapt.calibration.command import calibrate_command
from autoadapt.errors import AdaptError
from autoadapt.sources import load_backbone
from autoadapt.sources.images import preprocessing_of, read_images

pytest.importorskip("timm", reason="timm is not installed; it is in the zoo extra")
Image = pytest.importorskip("PIL.Image", reason="Pillow is not installed; it comes with the zoo extra")
RESNET, VIT = "timm:test_resnet", "timm:test_vit"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("pictures")
    generator = np.random.default_rng(0)
    for number in range(12):
        coarse = Image.fromarray(generator.integers(0, 256, (9, 12, 3), dtype=np.uint8))
        coarse.resize((320, 240), Image.Resampling.BICUBIC).save(made / f"{number}.jpg")
    return made


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    made = tmp_path_factory.mktemp("weights") / "resnet.safetensors"
    torch.manual_seed(0)
    save_file(load_backbone(RESNET).state_dict(), made)
    return made


def test_the_adapters_in_the_file_make_a_model_of_the_same_weights_the_old_one(folder, weights, tmp_path):
    out = tmp_path / "adapters.safetensors"
    found = calibrate_command(RESNET, like=RESNET, images=folder, new_weights=weights, like_weights=weights, out=out)
    assert found.images == 12
    assert min(fit.r2 for fit in found.outputs) > 1 - 1e-4
    assert "pictures of 160x160, mean 0.5, 0.5, 0.5, std 0.5, 0.5, 0.5 (as timm says)" in found.remarks
    old = load_backbone(RESNET).eval()
    old.load_state_dict(load_file(weights))
    net = adapt(old, like=old, project="always").eval()
    missing, unexpected = net.load_state_dict(load_file(out), strict=False)
    assert not unexpected
    assert not any(name.startswith("adapters") for name in missing)
    (batch,) = read_images(folder, preprocessing_of(old), count=4)
    for left, right in zip(net(batch), old(batch), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0.03 * float(right.detach().abs().max()))
    with safe_open(out, framework="pt") as file:
        assert json.loads(file.metadata()["autoadapt"])["like"] == RESNET


def test_the_rest_of_a_bigger_model_is_the_head(folder):
    torch.manual_seed(0)
    found = calibrate_command(
        RESNET, like="calibration_models:segmenter", at="backbone", images=folder, count=8, pretrained=False
    )
    assert found.head is not None
    assert found.images == 8
    assert any("assumed" in remark for remark in found.remarks)


def test_a_head_can_be_named(folder):
    call = {"like": RESNET, "images": folder, "pretrained": False}
    found = calibrate_command(RESNET, head="calibration_models:last_level_head", **call)
    assert found.head.agreement is not None
    with pytest.raises(AdaptError, match="the head is no module") as caught:
        calibrate_command(RESNET, head="calibration_models:pictures_of_one", **call)
    assert "Tensor of calibration_models:pictures_of_one" in str(caught.value)


def test_nothing_is_loaded_for_a_call_that_cannot_be_carried_out(tmp_path):
    with pytest.raises(AdaptError) as caught:
        calibrate_command("timm:no_such", like="timm:no_such", images=tmp_path / "none", out=tmp_path / "no" / "a.pt")
    text = str(caught.value)
    for said in ("a folder of pictures", "a.safetensors"):
        assert said in text


def test_a_weights_file_of_another_model_is_refused(folder, weights, tmp_path):
    out = tmp_path / "adapters.safetensors"
    with pytest.raises(AdaptError, match="a total miss"):
        calibrate_command(VIT, like=RESNET, images=folder, new_weights=weights, like_weights=weights, out=out)
    assert not out.exists()


def test_adapters_that_were_not_fitted_are_not_saved(folder, tmp_path):
    out = tmp_path / "adapters.safetensors"
    found = calibrate_command("calibration_models:noise", like="calibration_models:smooth", images=folder, out=out)
    assert not found
    assert not out.exists()
