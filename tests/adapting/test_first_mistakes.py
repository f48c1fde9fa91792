"""What people give in their first minutes, and what they are told to give instead; each remedy by its text."""

import numpy as np
import pytest
import torch
from torch import nn

import autoadapt as aa

X = torch.zeros(1, 3, 64, 64)


class Encoder(nn.Sequential):
    """Takes batches of images with three channels alone."""

    def __init__(self, channels=8):
        super().__init__(nn.Conv2d(3, channels, 3, 2, 1), nn.BatchNorm2d(channels))


class Told(Encoder):
    """Tells its own input size, so that it can be captured without an example."""

    def __init__(self, channels=8):
        super().__init__(channels)
        self.default_cfg = {"input_size": (3, 64, 64)}


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        (np.zeros((1, 3, 64, 64), np.uint8), "try       inputs=x.float() / 255  #"),
        (X.to(torch.uint8), "try       inputs=x.float() / 255  #"),
        (X[0], "try       inputs=x[None]  # a batch of one"),
        (X[0].numpy(), "try       inputs=x[None]  # a batch of one"),
        (X.permute(0, 2, 3, 1), "try       inputs=x.permute(0, 3, 1, 2)  # channels before height and width"),
        (X[0].permute(1, 2, 0), "try       inputs=x.permute(2, 0, 1)[None]  # channels before"),
        (torch.zeros(1, 4, 64, 64), "try       inputs=x[:, :3]  # without the further channels"),
        (X[:, :1], "try       inputs=x.expand(-1, 3, -1, -1)  # as three channels"),
        ([X.numpy()], "try       inputs=(x,)  # a list is one argument"),
        ([], "an empty list is no input"),
        (torch.device("cpu"), "a device is no input"),
        (range(4), "a range is no input"),
        (torch.zeros(7), "try       call the model with these inputs first"),  # nothing near it runs
    ],
)
def test_inputs_at_which_a_module_raises_are_told_by_those_at_which_it_runs(given, remedy):
    with pytest.raises(aa.CaptureError) as caught:
        aa.adapt(Encoder(4), like=Encoder(), inputs=given)
    assert remedy in str(caught.value)
    assert "but expected one of" not in str(caught.value)


@pytest.mark.parametrize(("old", "new"), [(torch.bfloat16, torch.float32), (torch.float64, torch.float32)])
def test_a_new_module_of_another_dtype_is_refused_and_not_built_to_raise(old, new):
    with pytest.raises(aa.MatchError, match="cannot be called with the old module's inputs") as caught:
        aa.adapt(Told(4).to(new), like=nn.Sequential(nn.Conv2d(3, 8, 1)).to(old), inputs=X.to(old))
    assert f"try       new.to({old})  # or the old module and its inputs in {new}" in str(caught.value)
    net = aa.adapt(Told(4).to(old), like=nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1)).to(old), inputs=X.to(old))
    assert net(X.to(old)).dtype == old


@pytest.mark.parametrize(
    ("like", "remedy"),
    [
        ("f32[B,64,h//4,w//4]", 'try       "f32[B, 64, floor(H/4), floor(W/4)]"'),
        ("f32[2,64,8,8]", 'try       "f32[B, 64, 8, 8]"  # B for the number of samples'),
        ([64, 128.0], '"f32[B, 128, ceil(H/8), ceil(W/8)]"]'),
        ([np.int64(64), np.float32(96)], '"f32[B, 96, ceil(H/8), ceil(W/8)]"]'),
        ("./x.pt", 'aa.transfer("./x.pt", old) puts these weights into it'),
        ("runs/BEST.pth", "holds weights, and no module"),
        ("vit_small", 'try       like="timm:vit_small_patch'),
    ],
)
def test_contracts_are_mended_in_one_step(like, remedy):
    with pytest.raises(aa.AdaptError) as caught:
        aa.adapt(Encoder(4), like=like, inputs=X)
    assert remedy in str(caught.value)


def test_a_file_that_does_not_exist_asks_for_no_permission(tmp_path):
    (tmp_path / "encoder.pt2").touch()
    with pytest.raises(aa.SourceError, match="does not exist") as caught:
        aa.adapt(str(tmp_path / "encodr.pt2"), like=Encoder(), inputs=X)
    assert f"try       {tmp_path / 'encoder.pt2'}" in str(caught.value)
    with pytest.raises(aa.SourceError, match="may run code when it is read"):
        aa.load(str(tmp_path / "encoder.pt2"))
    with pytest.raises(aa.SourceError, match="holds weights, and no module") as caught:
        aa.adapt("runs/best.pth", like=Encoder(), inputs=X)
    assert 'aa.transfer("runs/best.pth", model)' in str(caught.value)


@pytest.mark.parametrize(
    ("call", "remedy"),
    [
        (lambda net, file: aa.export(net, file, X), "torch.export.export(model, (inputs,))  # for any other module"),
        (lambda net, file: aa.save(net, file), "safetensors.torch.save_model(model, file)  # for any other module"),
        (lambda net, file: aa.to_source(net), "of any other module the source is at hand"),
    ],
)
def test_what_needs_an_adapted_module_says_how_one_is_made_and_what_else_there_is(call, remedy, tmp_path):
    with pytest.raises(aa.SavingError, match="only an adapted module has a plan") as caught:
        call(Encoder(), tmp_path / "net.onnx")
    assert "net = aa.adapt(new, like=old, inputs=inputs)" in str(caught.value)
    assert remedy in str(caught.value)


def test_calibrate_looks_at_what_it_is_to_fit_before_it_loads_the_old_model(monkeypatch):
    monkeypatch.setattr("autoadapt.sources.given_models.load_backbone", lambda *_, **__: pytest.fail("it was loaded"))
    with pytest.raises(aa.CalibrationError):
        aa.calibrate(Encoder(), like="timm:resnet18", data=[X])


def test_a_shell_lists_the_public_names_alone():
    shown = {name for name in dir(aa) if not name.startswith("__")}
    assert shown == set(aa.__all__) - {"__version__"}


def test_saved_results_name_the_old_model_by_its_zoo(tmp_path):
    new, old = Told(4), Encoder()
    signature = aa.capture(old, X).model_copy(update={"origin": "timm:resnet18"})
    report = str(aa.save(aa.adapt(new, like=signature, inputs=X), tmp_path / "net"))
    assert "in the contract of timm:resnet18 (Encoder) (tensor)" in report
