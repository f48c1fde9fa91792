"""Configs are data: what is wrong with one is said at once, with its place, and nothing in it is run."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from autoadapt.assembly import assemble
from autoadapt.assembly.documents import read_document
from autoadapt.errors import AssemblyError

INPUT = "input: f32[B, 3, 32, 32]\n"

BAD = {
    "unknown types": (
        "backbone: {type: ResNet_CIFR}\nneck: {type: GlobalAveragePoling}\n",
        [
            "backbone.type (line 2)\n  expected  a registered backbone: MobileNetV2, MobileNetV3, ResNeXt, ResNet",
            "found     `ResNet_CIFR`\n  try       ResNet_CIFAR",
            "neck.type (line 3)",
            "try       GlobalAveragePooling",
        ],
    ),
    "a type of another group": (
        "backbone: GlobalAveragePooling\nneck: CrossEntropyLoss\n",
        [
            "try       neck: {type: GlobalAveragePooling}  # it is a neck",
            "try       loss: {type: CrossEntropyLoss}  # it is a loss",
        ],
    ),
    "the scope that a type would be in": (
        "backbone: resnet18\nneck: Flatten\n",
        ["try       timm:resnet18\n            torchvision:resnet18", "`Flatten`\n  try       torch:Flatten"],
    ),
    "unknown, missing and ill-typed arguments": (
        "backbone: {type: ResNet_CIFAR, dept: 18}\nneck: GlobalAveragePooling\nhead: {type: LinearClsHead}\n"
        "loss: {type: CrossEntropyLoss, loss_weight: 1e-1, reduction: meen}\n",
        [
            "the config has 4 faults",
            "backbone.dept (line 2)\n  expected  an argument of ResNet_CIFAR(depth, in_channels, deep_stem, "
            "num_stages, out_indices, style)",
            "found     `dept`\n  try       depth: 18",
            "head.num_classes (line 4)\n  expected  a value (int)\n  found     nothing\n  try       num_classes: ...",
            "loss.loss_weight (line 5)\n  expected  float\n  found     '1e-1'\n  try       0.1",
            "loss.reduction (line 5)\n  expected  'mean', 'sum' or 'none'\n  found     'meen'\n  try       mean",
        ],
    ),
    "a depth that there is not": (
        "backbone: {type: ResNet_CIFAR, depth: 20}\n",
        ["backbone.depth (line 2)\n  expected  18, 34, 50, 101 or 152\n  found     20\n  try       18"],
    ),
    "a deep stem": (
        "backbone: {type: ResNet_CIFAR, deep_stem: true}\n",
        ["ResNet_CIFAR has no deep stem: leave deep_stem out, or take timm:resnet18d"],
    ),
    "no backbone and an unknown key": (
        "hed: {type: LinearClsHead}\n",
        [
            "the config has 2 faults",
            "backbone\n  expected  a value\n  found     nothing\n  try       backbone: {type: timm:resnet18}",
            "hed (line 2)",
            "try       head",
        ],
    ),
    "a part without a type, and one that is a number": (
        "backbone: ResNet_CIFAR\nhead: {num_classes: 3}\nloss: 3\n",
        [
            "head.type (line 3)\n  expected  a value\n  found     nothing\n  try       head: {type: LinearClsHead}",
            "loss (line 4)\n  expected  a mapping\n  found     3",
        ],
    ),
    "names that no module can have": (
        "backbone: ResNet_CIFAR\nhead: {'a.b': {type: DenseHead, num_classes: 3}, train: {type: DenseHead}}\n",
        ["head.a.b (line 3)", "found     'a.b'\n  try       a_b", "head.train (line 3)", "try       train_"],
    ),
    "a key written twice": (
        "backbone: ResNet_CIFAR\nbackbone: timm:resnet18\n",
        ["backbone (line 3)\n  expected  every key once", "found     `backbone` again"],
    ),
    "a cycle of references": (
        "backbone: ResNet_CIFAR\nneck:\n  a: {type: Identity, from: neck.b}\n  b: {type: Identity, from: neck.a}\n",
        ["expected  what comes before it\n  found     a cycle: neck.a -> neck.b -> neck.a\n  try       from: backbone"],
    ),
    "a value that holds itself": (
        "backbone: &b {type: ResNet_CIFAR, more: *b}\n",
        ["backbone.more (line 2)", "a reference to what holds it"],
    ),
    "references to nothing": (
        "backbone: ResNet_CIFAR\nneck: {type: GlobalAveragePooling, from: backbone.layer4}\n"
        "head: {type: LinearClsHead, num_classes: 10, from: nek}\n",
        [
            "the config has 2 faults",
            "head.from (line 4)\n  expected  one of backbone, neck, head, or a level of it\n  found     `nek`",
            "try       from: neck",
            "neck.from (line 3)\n  expected  a level of backbone: c0, 0, c1, 1, c2, 2, c3, 3\n  found     `layer4`",
        ],
    ),
    "several to take from": (
        "backbone: ResNet_CIFAR\nneck: {a: FPN, b: GlobalAveragePooling}\nhead: {type: DenseHead, num_classes: 10}\n",
        ["head.from (line 4)", "nothing said: neck.a, neck.b\n  try       from: neck.a\n            from: neck.b"],
    ),
    "a loss of several levels": (
        "backbone: ResNet_CIFAR\nneck: FPN\nhead: {type: DenseHead, num_classes: 10}\nloss: CrossEntropyLoss\n",
        ["loss.from (line 5)", "head gives several: p2, p3, p4, p5\n  try       from: head.p2"],
    ),
    "a loss without a head": (
        "backbone: ResNet_CIFAR\nloss: CrossEntropyLoss\n",
        ["loss.from (line 3)", "found     the config has no head\n  try       head: {type: LinearClsHead"],
    ),
    "a target that is not given": (
        "targets: {label: 'i64[B]'}\nbackbone: ResNet_CIFAR\nneck: GlobalAveragePooling\n"
        "head: {type: LinearClsHead, num_classes: 10}\nloss: {type: CrossEntropyLoss, target: lable}\n",
        ["loss.target (line 6)\n  expected  a target that is given: label", "try       target: label"],
    ),
    "a target that does not fit": (
        "targets: {label: 'i64[B, 8, 8]'}\nbackbone: ResNet_CIFAR\nneck: GlobalAveragePooling\n"
        "head: {type: LinearClsHead, num_classes: 10}\nloss: CrossEntropyLoss\n",
        ["loss.target (line 6)\n  expected  a target that fits f32[B, 10]\n  found     label i64[B, 8, 8]"],
    ),
    "a head that gets a map": (
        "backbone: ResNet_CIFAR\nhead: {type: LinearClsHead, num_classes: 10}\n",
        ["head (line 3)\n  expected  a part that takes backbone.c3 f32[B, 512, ceil(H/8)", "put a neck before it"],
    ),
    "channels of another backbone, without adapters": (
        "backbone: timm:resnet18\nneck: GlobalAveragePooling\n"
        "head: {type: LinearClsHead, num_classes: 10, in_channels: 2048}\nadapt: false\n",
        ["head.in_channels (line 4)\n  expected  512, as neck has\n  found     2048\n  try       in_channels: 512"],
    ),
    "strides that a backbone lacks, without adapters": (
        "backbone: ResNet_CIFAR\nneck: FPN\nadapt: false\n",
        ["the config has 2 faults", "expected  backbone to give c5 as f32[B, 512, ceil(H/32), ceil(W/32)]"],
    ),
    "code outside the allowed scopes": (
        "backbone: {type: 'os:system'}\nneck: {type: 'tim:resnet18'}\nhead: {type: 'my_package.models:Head'}\n",
        [
            "the config has 3 faults",
            'found     os:system\n  why       allowed: nothing\n  try       assemble(config, allow=["os"])',
            "try       timm:resnet18",
            'try       assemble(config, allow=["my_package"])',
        ],
    ),
    "an exported file": ("backbone: net.pt2\n", ["backbone.type (line 2)\n  expected  a file of torch.export.save"]),
    "a model that a zoo does not have": (
        "backbone: timm:resnt18\n",
        ["backbone.type (line 2)", "no such model\n  try       timm:resnet18"],
    ),
    "an option that a model does not have": (
        "backbone: {type: 'timm:resnet18', foo: 3}\n",
        ["backbone.type (line 2)", "unexpected keyword argument 'foo'"],
    ),
    "weights without a file": (
        "backbone: ResNet_CIFAR\nweights: [{form: x.pth}]\n",
        ["weights.0.from (line 3)", "weights.0.form (line 3)\n  expected  one of from, to, scope", "try       from"],
    ),
    "weights that are not there": (
        "backbone: ResNet_CIFAR\nweights: [{from: nothing_of_that_name.pth}, {from: x.pth, to: bakbone}]\n",
        [
            "the config has 2 faults",
            "weights.0 (line 3)\n  expected  a file of weights",
            "weights.1.to (line 3)\n  expected  one of backbone\n  found     `bakbone`",
        ],
    ),
    "a contract that is not there": (
        "backbone: ResNet_CIFAR\nadapt: {like: nothing_of_that_name.json}\n",
        ["adapt.like (line 3)\n  expected  a signature file (JSON)"],
    ),
    "a sweep": (
        "backbone: [ResNet_CIFAR, timm:resnet18]\n",
        ["one backbone\n  found     a list of 2", "assembly.compare("],
    ),
    "no mapping": ("- a\n- b\n", ["a config is a mapping"]),
    "no YAML": ("backbone: {type: [\n", ["the config cannot be parsed\nconfig (line 3)"]),
}


@pytest.mark.sampled(12)
@pytest.mark.parametrize("name", BAD)
def test_a_bad_config_is_refused_with_every_fault_its_place_and_a_remedy(name: str) -> None:
    text, expected = BAD[name]
    with pytest.raises(AssemblyError) as caught:
        assemble(text if name == "no mapping" else INPUT + text)
    for part in expected:
        assert _single_spaced(part) in _single_spaced(str(caught.value))
    assert all(fault.expected and fault.found for fault in caught.value.mismatches)


def _single_spaced(text: str) -> str:
    """Errors with one fault stand without its place on a line of its own."""
    return " ".join(text.split())


def test_the_place_of_a_single_fault_is_kept() -> None:
    with pytest.raises(AssemblyError) as caught:
        assemble(INPUT + "backbone: {type: ResNet_CIFAR, depth: 20}\n")
    assert [fault.where for fault in caught.value.mismatches] == ["backbone.depth (line 2)"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("!!python/object/apply:pathlib.Path.touch [{0}]", "the tag !!python/object/apply:pathlib.Path.touch"),
        ("!!python/object/apply:os.system ['touch {0}']", "the tag !!python/object/apply:os.system"),
        ("!!python/object:pathlib.Path {{type: x}}", "the tag !!python/object:pathlib.Path"),
        ("{{type: !!python/name:os.system }}", "the tag !!python/name:os.system"),
        ("{{type: ResNet_CIFAR, depth: \"__import__('pathlib').Path('{0}').touch()\"}}", "18, 34, 50, 101 or 152"),
        ("{{type: \"pathlib:Path.touch\", self: '{0}'}}", "code that is allowed"),
    ],
)
def test_a_python_expression_in_a_config_is_never_run(value: str, expected: str, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    config = tmp_path / "config.yaml"
    config.write_text(INPUT + "backbone: " + value.format(trace) + "\n")
    with pytest.raises(AssemblyError) as caught:
        assemble(config)
    assert expected in str(caught.value)
    assert not trace.exists()


def test_a_pickle_named_by_a_config_is_never_run(tmp_path: Path) -> None:
    trace = tmp_path / "trace"

    class Payload:
        def __reduce__(self) -> tuple[object, tuple[Path]]:
            return Path.touch, (trace,)

    (tmp_path / "weights.pth").write_bytes(pickle.dumps(Payload(), protocol=2))
    config = tmp_path / "config.yaml"
    config.write_text(INPUT + "backbone: ResNet_CIFAR\nweights: [{from: weights.pth, to: backbone}]\n")
    with pytest.raises(AssemblyError, match=r"weights\.0|the config has a fault"):
        assemble(config)
    assert not trace.exists()


def test_aliases_cannot_grow_without_bound() -> None:
    levels = "\n".join(f"  l{i}: &l{i} [{', '.join([f'*l{i - 1}'] * 9)}]" for i in range(1, 9))
    with pytest.raises(AssemblyError, match="too large"):
        assemble(f"{INPUT}backbone:\n  l0: &l0 [1]\n{levels}\n")


def test_merge_keys_and_json_are_read() -> None:
    merged = read_document("a: &a {type: x, depth: 1}\nb: {<<: *a, depth: 2}\n")
    assert merged.data["b"] == {"type": "x", "depth": 2}
    assert read_document('{\n\t"input": "f32[B]",\n\t"backbone": "x"\n}').data == {"input": "f32[B]", "backbone": "x"}


def test_a_config_from_code_holds_plain_data_only() -> None:
    with pytest.raises(AssemblyError, match=r"a config holds plain data only\nbackbone\.type\n  expected  mappings"):
        assemble({"backbone": {"type": object()}})
    with pytest.raises(AssemblyError, match="a config is a mapping"):
        assemble(3)  # type: ignore[arg-type]
    with pytest.raises(AssemblyError, match=r"nothing_of_that_name\.yaml cannot be read"):
        assemble("nothing_of_that_name.yaml")
