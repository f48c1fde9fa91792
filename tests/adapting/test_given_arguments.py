"""What people pass for `like=`, `new=` and `inputs=`: names and arrays are understood, and mistakes told."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from torch import nn

import autoadapt as aa

OLD, NEW, X = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(3, 5, 2, stride=2), torch.zeros(1, 3, 16, 16)


@pytest.mark.parametrize(
    ("like", "said", "remedy"),
    [
        (
            [64, 128, 256, 512],
            "a number does not describe a tensor",
            '["f32[B, 64, ceil(H/4), ceil(W/4)]", "f32[B, 128',
        ),
        ([64, 64, 128, 256, 512], "a number does not describe a tensor", '["f32[B, 64, ceil(H/2), ceil(W/2)]", "f32[B'),
        (["f32[B, 8, H//4, W//4]", 3], "expected  a text with dtype and sizes", '["f32[B, 8, H//4, W//4]", "f32[B, 3'),
        ({"c4": 256}, "a number does not describe a tensor", '{"c4": "f32[B, 256, ceil(H/4), ceil(W/4)]"}'),
        ({}, "a signature without outputs", '["f32[B, 256, ceil(H/4)'),
        ((), "a signature without outputs", '["f32[B, 256, ceil(H/4)'),
        ([None], "a signature without outputs", '["f32[B, 256, ceil(H/4)'),
        ({1.5: "f32[B]"}, "keys that no path can name", '"1.5"'),
        ("resnet18", "'resnet18' has no scheme", 'like="timm:resnet18"'),
        ("resnet5O", "'resnet5O' has no scheme", 'like="timm:resnet50'),
        (nn.Conv2d, "expected  an instance, not a class", "like=Conv2d(...)"),
        (5, "found     5, of type int", "pass the model itself"),
        (["f32[B, 8, H/4, W/4]"], "'H/4' is not a dim", "H//4, which rounds down, or ceil(H/4), which rounds up"),
        (["f33[B, 8]"], "unknown dtype", "f32"),
        ("no/such/file.json", "cannot be read", 'aa.capture(old, inputs).save("no/such/file.json")'),
        ([np.int64(64)], "a number does not describe a tensor", '["f32[B, 64, ceil(H/4), ceil(W/4)]"]'),
        (["64"], "a number does not describe a tensor", '["f32[B, 64, ceil(H/4), ceil(W/4)]"]'),
        ([True, -1, 8.5], "a number does not describe a tensor", '["f32[B, 256, ceil(H/4), ceil(W/4)]", "f32[B, 256'),
        (torch.zeros(1, 8, 4, 4), "a tensor is no contract", "like=old  # the module itself"),
        ([torch.zeros(1, 8, 4, 4)], "found     a tensor of the shape (1, 8, 4, 4)", "like=old  # the module itself"),
        (OLD.state_dict(), "a tensor is no contract", "like=old  # the module itself"),
        ("", "'' has no scheme", 'like="timm:resnet18"'),
        (" ", "' ' has no scheme", 'like="timm:resnet18"'),
        ("64", "a number does not describe a tensor", '["f32[B, 64, ceil(H/4), ceil(W/4)]"]'),
        ("64, 128", "a number does not describe a tensor", '["f32[B, 64, ceil(H/4), ceil(W/4)]", "f32[B, 128'),
        ("microsoft/resnet-50", "'microsoft/resnet-50' has no scheme", 'like="hf:microsoft/resnet-50"'),
        ("timm/resnet18", "'timm/resnet18' has no scheme", 'like="timm:resnet18"'),
        ("tim:resnet18", "unknown scheme `tim`", "timm:resnet18"),
        ("foo:bar", "unknown scheme `foo`", 'like=aa.load("foo:bar", allow=["foo"])  # if it is a package of yours'),
        ("mine.py:build", "there is no file mine.py", "check the path and the working folder"),
        (
            [(64, 4), (128, 8)],
            "a number does",
            '["f32[B, 64, ceil(H/4), ceil(W/4)]", "f32[B, 128, ceil(H/8), ceil(W/8)]"]',
        ),
        (torch.Size([2, 8, 16, 16]), "a number does not describe a tensor", '"f32[B, 8, ceil(H/4), ceil(W/4)]"'),
        ([(1, 8, 56, 56), (1, 16, 28, 28)], "\n0, 1\n", '["f32[B, 8, ceil(H/4), ceil(W/4)]", "f32[B, 16, ceil(H/8)'),
        ([torch.Size([1, 8, 4, 6])], "\n0\n", '["f32[B, 8, ceil(H/4), ceil(W/4)]"]'),
        ({"c2": (64, 8)}, "\nc2\n", '{"c2": "f32[B, 64, ceil(H/8), ceil(W/8)]"}'),
        ([{"num_chs": 64, "reduction": 2, "module": "act1"}], "\n0\n", '["f32[B, 64, ceil(H/2), ceil(W/2)]"]'),
        ([[64, 128]], "\n0.0, 0.1\n", '["f32[B, 64, ceil(H/4), ceil(W/4)]", "f32[B, 128, ceil(H/8), ceil(W/8)]"]'),
        ([64] * 5, "\n0, 1, 2, ...\n", '["f32[B, 64, ceil(H/2), ceil(W/2)]"'),
        ("tests", "tests is a folder", 'like=aa.restore("tests")'),
    ],
)
def test_a_contract_that_is_none_is_refused_with_the_text_to_write(like: object, said: str, remedy: str) -> None:
    with pytest.raises(aa.AdaptError) as caught:
        aa.adapt(NEW, like=like, inputs=X)
    assert said in str(caught.value)
    assert f"try       {remedy}" in str(caught.value)
    assert "pydantic" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said", "remedy"),
    [
        ("f32[N, 8, H//4, W//4]", "found     N", '"f32[B, 8, floor(H/4), floor(W/4)]"'),
        ("f32[B, 8, h//4, W//4]", "found     h", '"f32[B, 8, floor(H/4), floor(W/4)]"'),
        ("f32[B, 8, H//4, Q]", "expected  axes of the inputs: B, H, W\n  found     Q", ""),
        ("f32[2, 8, H//4, W//4]", "the target has no axis B for them", ""),
        ("f32[B, 8, 16, 16]", "axes of fixed size 8, 16, 16, the source 5: none is made of axes that vary", ""),
    ],
)
def test_a_contract_with_axes_that_there_are_not_says_which(text: str, said: str, remedy: str) -> None:
    with pytest.raises(aa.MatchError) as caught:
        aa.adapt(NEW, like=text, inputs=X)
    assert said in str(caught.value)
    assert not remedy or f"try       {remedy}" in str(caught.value)


def test_the_text_that_is_told_is_one_that_works() -> None:
    with pytest.raises(aa.SignatureError) as caught:
        aa.adapt(NEW, like=[8], inputs=X)
    net = aa.adapt(NEW, like=eval(caught.value.mismatches[0].remedy), inputs=X)
    assert net(torch.zeros(1, 3, 18, 20))[0].shape == (1, 8, 5, 5)


@pytest.mark.parametrize(
    "text",
    ["float32[B, 8, H//4, W//4]", "torch.float32[B, 8, floor(H/4), floor(W/4)]", "float[B, 8, H//4, W//4]"],
)
def test_names_of_torch_are_understood_in_texts(text: str) -> None:
    assert aa.TensorSpec.parse(text) == aa.TensorSpec.parse("f32[B, 8, floor(H/4), floor(W/4)]")
    assert aa.adapt(NEW, like=text, inputs=X)(torch.zeros(1, 3, 22, 16)).shape == (1, 8, 5, 4)


def test_every_dtype_is_read_by_its_name_in_torch() -> None:
    for name in ("bfloat16", "int64", "uint8", "bool", "complex64", "float16"):
        assert aa.TensorSpec.parse(f"{name}[B]").torch_dtype == getattr(torch, name)


def test_a_name_is_taken_for_the_new_module_wherever_a_module_is() -> None:
    net = aa.adapt("timm:test_resnet", like=OLD, inputs=X)
    assert net(torch.zeros(2, 3, 40, 24)).shape == (2, 8, 10, 6)
    assert aa.build("timm:test_resnet", net.plan)(torch.zeros(2, 3, 40, 24)).shape == (2, 8, 10, 6)
    model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 2, 1))
    swapped = aa.swap(model, "0", "timm:test_resnet", inputs=torch.zeros(1, 3, 64, 64))
    assert swapped(torch.zeros(1, 3, 40, 24)).shape == (1, 2, 10, 6)


@pytest.mark.parametrize(
    ("new", "said", "remedy"),
    [
        (nn.Conv2d, "expected  an instance, not a class", "new=Conv2d(...)"),
        ("resnet18", "'resnet18' has no scheme", 'new="timm:resnet18"'),
        ("foo:bar", "unknown scheme `foo`", 'new=aa.load("foo:bar", allow=["foo"])  # if it is a package of yours'),
        ("torchvision.models:resnet18", "would run code", 'new=aa.load("torchvision.models:resnet18", allow=["torch'),
        ("timm:resnt18", "timm has no model `resnt18`", "timm:resnet18"),
        (nn.Identity().forward, "`new` is a function", "new=forward()  # what it returns"),
        (None, "found     nothing", "pass the model itself"),
    ],
)
def test_what_is_no_new_module_is_refused_with_the_text_to_write(new: object, said: str, remedy: str) -> None:
    with pytest.raises(aa.AdaptError) as caught:
        aa.adapt(new, like=OLD, inputs=X)
    assert said in str(caught.value)
    assert f"try       {remedy}" in str(caught.value)


VERBS = {
    "capture": lambda given: aa.capture(given, X),
    "build": lambda given: aa.build(given, aa.adapt(NEW, like=OLD, inputs=X).plan),
    "verify": lambda given: aa.verify(given, aa.capture(OLD, X)),
    "swap": lambda given: aa.swap(nn.Sequential(OLD), "0", given, inputs=X),
    "swap model": lambda given: aa.swap(given, "0", NEW, inputs=X),
    "calibrate": lambda given: aa.calibrate(aa.adapt(NEW, like=OLD, inputs=X), like=given, data=[X]),
    "calibrate net": lambda given: aa.calibrate(given, like=OLD, data=[X]),
    "save": lambda given: aa.save(given, "nowhere"),
    "to_source": lambda given: aa.to_source(given),
    "export": lambda given: aa.export(given, "nowhere.pt2"),
    "fold": lambda given: aa.fold(given, at="0", inputs=X),
}


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_says_that_a_class_is_no_model(verb: str) -> None:
    with pytest.raises(aa.AdaptError, match="an instance, not a class") as caught:
        VERBS[verb](nn.Conv2d)
    assert "=Conv2d(...)" in str(caught.value)
    with pytest.raises(aa.AdaptError, match="5, of type int"):
        VERBS[verb](5)


def test_signatures_are_asked_for_where_modules_are_given() -> None:
    with pytest.raises(aa.VerificationError, match=r"try       aa\.verify\(net, aa\.capture\(old, inputs\)"):
        aa.verify(OLD, OLD, inputs=X)
    with pytest.raises(aa.PlanError, match="`source` is a module"):
        aa.plan(OLD, OLD)


def test_a_generated_layer_that_there_is_not_may_be_a_model_without_its_scheme() -> None:
    with pytest.raises(aa.SwapError, match=re.escape('swap(..., "timm:resnet18")')):
        aa.swap(nn.Sequential(OLD), "0", "resnet18", inputs=X)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "inputs",
    [
        np.zeros((1, 3, 16, 16)),
        {"input": np.ones((1, 3, 16, 16))},
        np.zeros((1, 3, 16, 16), np.float32),
        (np.zeros((1, 3, 16, 16)),),
    ],
    ids=["float64", "dict", "float32", "tuple"],
)
def test_arrays_are_taken_as_inputs_by_every_verb(inputs: object) -> None:
    assert aa.capture(OLD, inputs).outputs == aa.capture(OLD, X).outputs
    assert aa.adapt(NEW, like=OLD, inputs=inputs).verify(inputs).passed
    model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 2, 1))
    if not isinstance(inputs, dict):
        assert aa.swap(model, "0", NEW, inputs=inputs, dry_run=True).passed


def test_arrays_keep_their_values_and_the_dtype_of_the_model() -> None:
    array = np.arange(4, dtype=np.float64).reshape(1, 1, 2, 2)
    layer = nn.Conv2d(1, 1, 1).double()
    assert str(aa.capture(layer, array).inputs.leaves[0]) == "f64[B, 1, H, W]"
    assert str(aa.capture(nn.Embedding(9, 4), np.array([[1, 2, 3]])).outputs.leaves[0]).startswith("f32[B")


@pytest.mark.sampled
@pytest.mark.parametrize(
    ("inputs", "what", "remedy"),
    [
        ((1, 3, 64, 64), "a shape", "inputs=torch.zeros(1, 3, 64, 64)"),
        ([1, 3, 64, 64], "a shape", "inputs=torch.zeros(1, 3, 64, 64)"),
        (torch.Size([2, 3, 64, 64]), "a shape", "inputs=torch.zeros(2, 3, 64, 64)"),
        ((3, 64, 64), "a shape", "inputs=torch.zeros(1, 3, 64, 64)"),
        ((224, 224), "a shape", "inputs=torch.zeros(1, 3, 224, 224)"),
        (224, "a size", "inputs=torch.zeros(1, 3, 224, 224)"),
        ("f32[1, 3, 64, 64]", "a text", "inputs=torch.zeros(1, 3, 224, 224)"),
        (torch.Tensor, "a class", "inputs=torch.zeros(1, 3, 224, 224)"),
        (True, "a truth value", "inputs=torch.zeros(1, 3, 224, 224)"),
        (torch.rand, "a function", "inputs=torch.zeros(1, 3, 224, 224)"),
        (torch.utils.data.DataLoader([X]), "a DataLoader", "inputs=next(iter(loader))"),
        (iter([X]), "a list_iterator", "inputs=next(iter(loader))"),
        (((2, 3, 8, 8),), "a shape", "inputs=torch.zeros(2, 3, 8, 8)"),
        ({"x": (2, 3, 8, 8)}, "a shape", "inputs={'x': torch.zeros(2, 3, 8, 8)}"),
    ],
)
@pytest.mark.parametrize("verb", ["capture", "adapt", "adapt to a text", "adapt to a name", "swap", "verify"])
def test_a_shape_is_no_input(verb: str, inputs: object, what: str, remedy: str) -> None:
    calls = {
        "capture": lambda: aa.capture(OLD, inputs),
        "adapt": lambda: aa.adapt(NEW, like=OLD, inputs=inputs),
        # timm's models tell their own input size, by which the wrong inputs were passed over
        "adapt to a text": lambda: aa.adapt("timm:test_resnet", like="f32[B, 8, H, W]", inputs=inputs),
        "adapt to a name": lambda: aa.adapt("timm:test_resnet", like="timm:test_resnet", inputs=inputs),
        "swap": lambda: aa.swap(nn.Sequential(OLD), "0", NEW, inputs=inputs),
        "verify": lambda: aa.verify(OLD, aa.capture(OLD, X), inputs=inputs),
    }
    if verb == "swap" and callable(inputs):
        return  # a callable is a training step
    with pytest.raises(aa.AdaptError) as caught:
        calls[verb]()
    assert f"{what} is no input" in str(caught.value)
    assert f"try       {remedy}" in str(caught.value)


def test_a_dtype_that_torch_has_not_is_said() -> None:
    with pytest.raises(aa.CaptureError, match="dtype <U1"):
        aa.capture(OLD, np.array(["a"]))


class Numbers(nn.Module):
    def forward(self, x: torch.Tensor) -> list[int]:
        return [64, 128]


def test_a_module_that_returns_numbers_alone_has_a_plan_that_prints() -> None:
    signature = aa.capture(Numbers(), X)
    made = aa.plan(signature, signature)
    assert "contract of Numbers" in str(made)
    assert "none" in str(made)


@pytest.mark.parametrize(
    ("given", "remedy"),
    [
        ("resnet18", 'signature=aa.capture(aa.load("timm:resnet18"), inputs)'),
        ("f32[B, 2]", "signature=aa.Signature.parse('f32[B, 2]', inputs=\"f32[B, 3, H, W]\")"),
    ],
)
def test_a_text_in_the_place_of_a_signature_is_told_what_makes_one_of_it(given, remedy):
    with pytest.raises(aa.VerificationError) as caught:
        aa.verify(nn.ReLU(), given)
    assert caught.value.mismatches[0].remedy == remedy


def test_a_contract_in_the_place_of_a_module_that_has_to_run_is_no_unknown_model():
    net = aa.adapt(NEW, like=OLD, inputs=X)
    with pytest.raises(aa.SourceError, match="`like` is a contract, where a module has to run"):
        aa.calibrate(net, like="f32[B, 3]", data=[torch.zeros(1, 3, 8, 8)])
