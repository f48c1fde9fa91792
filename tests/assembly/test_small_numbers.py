"""Numbers and inputs that a config cannot mean: each is refused at its place, and nothing is made of it."""

from __future__ import annotations

import pytest
import torch

from autoadapt.assembly import assemble
from autoadapt.errors import AssemblyError

CONFIG = """\
input: {input}
backbone: {backbone}
neck: GlobalAveragePooling
head: {{type: LinearClsHead, {head}}}
loss: CrossEntropyLoss
"""


def config(input="'f32[B, 3, 32, 32]'", backbone="{type: ResNet_CIFAR, depth: 18}", head="num_classes: 10") -> str:
    return CONFIG.format(input=input, backbone=backbone, head=head)


def only_fault(text: str):
    with pytest.raises(AssemblyError) as caught:
        assemble(text)
    (fault,) = caught.value.mismatches
    return fault


@pytest.mark.parametrize(
    ("number", "why"),
    [(0, "`fc.weight` of LinearClsHead would have no values"), (-3, "RuntimeError: Trying to create tensor with neg")],
)
def test_a_number_of_classes_that_there_cannot_be_is_refused_at_its_line(number, why):
    fault = only_fault(config(head=f"num_classes: {number}"))
    assert (fault.where, fault.expected) == ("head.num_classes (line 4)", "a number of at least 1")
    assert (fault.found, fault.remedy) == (str(number), "num_classes: ...  # 1 or more")
    assert fault.why.startswith(why)


def test_of_several_numbers_that_may_be_meant_all_are_shown():
    fault = only_fault(config(backbone="{type: ResNet_CIFAR, depth: 18}", head="num_classes: 0, in_channels: 0"))
    assert fault.where.startswith("head")
    assert "num_classes: 0" in fault.found


def test_a_backbone_without_classes_has_no_classifier_and_is_taken():
    text = config(backbone="{type: 'timm:test_resnet', num_classes: 0}", input="'f32[B, 3, 64, 64]'")
    assert assemble(text).eval()(torch.zeros(1, 3, 64, 64)).shape == (1, 10)


@pytest.mark.parametrize(
    ("written", "found", "remedy"),
    [
        ("3x64x64", "3x64x64", "input: f32[B, 3, 64, 64]"),
        ("'1, 3, 64, 64'", "1, 3, 64, 64", "input: f32[B, 3, 64, 64]"),
        ("[3, 64, 64]", "[3, 64, 64]", "input: f32[B, 3, 64, 64]"),
        ("[1, 3, 64, 64]", "[1, 3, 64, 64]", "input: f32[B, 3, 64, 64]"),
        ("'f32[B, 3, 64'", "f32[B, 3, 64", "input: f32[B, 3, 224, 224]"),
        ("''", "''", "input: f32[B, 3, 224, 224]"),
        ("'f32[B, 3, 0, 64]'", "0", "input: f32[B, 3, 224, 224]"),
        ("'f32[B, 3, 99999, 99999]'", "29,999,400,003", "input: f32[B, 3, 224, 224]"),
    ],
)
def test_an_input_that_is_none_is_refused_at_its_line(written, found, remedy):
    fault = only_fault(config(input=written))
    assert (fault.where, fault.found, fault.remedy) == ("input (line 1)", found, remedy)


@pytest.mark.parametrize(
    ("line", "where"),
    [
        ("targets: {labels: 'i65[B]'}", "targets.labels (line 6)"),
        ("head: {type: LinearClsHead, num_classes: 3, expects: 'f32[B'}", "head.expects (line 6)"),
    ],
)
def test_specs_elsewhere_have_their_place_too(line, where):
    text = config() if not line.startswith("head") else config().replace("head:", "topk: {} #")
    assert only_fault(f"{text}{line}\n").where == where


def test_an_input_that_is_none_is_told_with_the_other_faults():
    with pytest.raises(AssemblyError, match="the config has 2 faults"):
        assemble(config(input="3x64x64").replace("loss:", "los:"))


@pytest.mark.parametrize("text", ["", "  ", "\n", "# nothing\n"])
def test_an_empty_config_is_no_path(text):
    with pytest.raises(AssemblyError) as caught:
        assemble(text)
    (fault,) = caught.value.mismatches
    assert (fault.where, fault.expected, fault.found) == ("config", "a mapping with `input` and `backbone`", "nothing")
    assert fault.remedy == "backbone: {type: timm:resnet18}"
