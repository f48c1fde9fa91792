"""Nothing that a config names is run unless a registry of mmengine's has it, or the caller allows it."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from guests import guest
from torch import nn

from autoadapt.assembly import assemble
from autoadapt.errors import AssemblyError

pytestmark = pytest.mark.guest

RUN = {"type": "os.system", "command": "touch RAN"}
PLAIN = {
    "input": "f32[B, 3, 32, 32]",
    "neck": "GlobalAveragePooling",
    "head": {"type": "LinearClsHead", "num_classes": 5},
}
NET = {"type": "mm:standtypes.TypedNet"}


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A registry with a backbone that builds whatever its arguments say, and a model around it."""
    root, model = guest("mmengine.registry").MODELS, guest("mmengine.model")
    models = type(root)("model", parent=root, scope="standtypes")

    class TypedNet(model.BaseModule):  # type: ignore[misc]
        def __init__(self, plugins=(), pretrained=None, init_cfg=None) -> None:  # type: ignore[no-untyped-def]
            super().__init__(init_cfg)
            self.a = nn.Conv2d(3, 8, 3, 4)
            for plugin in plugins:
                models.build(plugin["cfg"])

        def forward(self, x):  # type: ignore[no-untyped-def]
            return (self.a(x),)

    class TypedModel(model.BaseModel):  # type: ignore[misc]
        def __init__(self, backbone, neck=None, head=None, data_preprocessor=None) -> None:  # type: ignore[no-untyped-def]
            super().__init__(data_preprocessor)
            self.backbone = models.build(backbone)
            self.neck, self.head = (models.build(part) if part else None for part in (neck, head))

        def forward(self, inputs, data_samples=None, mode="tensor"):  # type: ignore[no-untyped-def]
            return self.backbone(inputs)

    class TypedNeck(nn.Module):
        def __init__(self, loss=None) -> None:  # type: ignore[no-untyped-def]
            super().__init__()
            self.loss = models.build(loss) if loss else None

        def forward(self, inputs):  # type: ignore[no-untyped-def]
            return inputs

    for part in (TypedNet, TypedModel, TypedNeck):
        models.register_module(module=part)
    monkeypatch.chdir(tmp_path)
    yield models
    del root.children["standtypes"]


def refused(config: dict[str, Any], said: str, **kwargs: Any) -> None:
    with pytest.raises(AssemblyError, match=said):
        assemble(config, **kwargs)
    assert not Path("RAN").exists(), "it was run"


@pytest.mark.parametrize("named", ["mm:os.system", "os.system"])
@pytest.mark.parametrize("group", ["backbone", "neck", "head", "loss", "preprocessor"])
def test_a_part_that_no_registry_has_is_not_called(registry: Any, group: str, named: str) -> None:
    refused({**PLAIN, "backbone": NET, group: {**RUN, "type": named}}, "os.system")


@pytest.mark.parametrize(
    ("inside", "where"),
    [
        ({"init_cfg": RUN}, "backbone.init_cfg.type"),
        (
            {"init_cfg": [{"type": "Constant", "layer": "Conv2d", "val": 1, "override": {**RUN, "name": "a"}}]},
            "override",
        ),
        ({"plugins": [{"cfg": RUN}]}, r"backbone\.plugins\.0\.cfg\.type"),
        ({"plugins": [{"cfg": {"type": "TypedNeck", "_scope_": "evilpkg"}}]}, r"cfg\._scope_"),
    ],
)
def test_what_a_part_would_build_itself_is_looked_up_before(registry: Any, inside: Any, where: str) -> None:
    evil_package()
    refused({**PLAIN, "backbone": {**NET, **inside}}, where)
    refused({"input": PLAIN["input"], "type": "mm:standtypes.TypedModel", "backbone": {**NET, **inside}}, where)


@pytest.mark.parametrize("key", ["neck", "head", "data_preprocessor"])
@pytest.mark.parametrize("part", [RUN, {**RUN, "type": "mm:os.system"}, {"type": "TypedNeck", "loss": RUN}])
def test_the_parts_of_a_whole_are_looked_up_before(registry: Any, key: str, part: Any) -> None:
    config = {"input": PLAIN["input"], "type": "mm:standtypes.TypedModel", "backbone": NET, key: part}
    refused(config, f"whole.{key}.*\n.*a type that a registry of mmengine has")


def evil_package() -> None:
    Path("evilpkg").mkdir()
    for name in ("__init__", "registry", "models"):
        Path("evilpkg", f"{name}.py").write_text("open('RAN', 'w')\nclass Foo: pass\n")


def test_a_name_of_another_registry_is_not_imported_as_a_module(registry: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("ConstantLR.py").write_text("open('RAN', 'w')")  # a schedule of mmengine's
    monkeypatch.syspath_prepend(".")
    refused({**PLAIN, "backbone": {**NET, "plugins": [{"cfg": {"type": "ConstantLR"}}]}}, "cfg.type")


@pytest.mark.parametrize("kind", ["mm:evilpkg.Foo", "mm:evilpkg.models.Foo", "evilpkg.Foo", "mm:evilpkg"])
def test_a_name_imports_no_package(registry: Any, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    evil_package()
    monkeypatch.syspath_prepend(".")
    refused({**PLAIN, "backbone": {"type": kind}}, "Foo|evilpkg")
    refused({"input": PLAIN["input"], "type": kind, "backbone": NET}, "Foo|evilpkg")
    nested = {**NET, "plugins": [{"cfg": {"type": kind}}]}
    refused({**PLAIN, "backbone": nested}, "cfg.type")
    whole = {"input": PLAIN["input"], "type": "mm:standtypes.TypedModel", "backbone": NET, "default_scope": "evilpkg"}
    assemble(whole)
    assert not Path("RAN").exists()
    assert "evilpkg" not in sys.modules


def test_what_the_caller_allows_is_built(registry: Any) -> None:
    made = {**NET, "plugins": [{"cfg": {"type": "torch.nn.Linear", "in_features": 1, "out_features": 1}}]}
    refused({**PLAIN, "backbone": made}, "torch.nn.Linear")
    assert assemble({**PLAIN, "backbone": made}, allow=["torch.nn"]).eval()(torch.zeros(2, 3, 32, 32)).shape == (2, 5)


@pytest.mark.parametrize(
    "start",
    [
        {"type": "mmengine.Pretrained", "checkpoint": "p.pth"},
        {"type": "mmengine.model.weight_init.PretrainedInit", "checkpoint": "p.pth"},
        {"type": "PretrainedInit", "checkpoint": "p.pth"},
        {"type": "Normal", "override": {"type": "Pretrained", "name": "a", "checkpoint": "p.pth"}},
    ],
)
def test_a_checkpoint_needs_the_word_of_the_caller_however_it_is_spelt(registry: Any, start: dict[str, Any]) -> None:
    refused({**PLAIN, "backbone": {**NET, "init_cfg": start}}, "a checkpoint that the caller allows")
    refused({**PLAIN, "backbone": {**NET, "init_cfg": [start]}}, "a checkpoint that the caller allows")


def test_a_part_that_would_load_a_file_by_itself_needs_the_word_too(registry: Any) -> None:
    config = {**PLAIN, "backbone": {**NET, "pretrained": "p.pth"}}
    refused(config, r"backbone\.pretrained\n  expected  a checkpoint that the caller allows")
    assemble(config, allow=["p.pth"])


class Runs:
    def __reduce__(self) -> Any:
        return (open, ("RAN", "w"))


@pytest.mark.parametrize("kind", ["Pretrained", "mmengine.Pretrained"])
def test_an_allowed_checkpoint_is_read_without_running_it(registry: Any, kind: str) -> None:
    torch.save({"a.weight": torch.ones(8, 3, 3, 3), "a.bias": torch.ones(8)}, "p.pth")
    torch.save({"a.weight": Runs()}, "evil.pth")
    good, evil = ({**NET, "init_cfg": {"type": kind, "checkpoint": name}} for name in ("p.pth", "evil.pth"))
    assert bool((assemble({**PLAIN, "backbone": good}, allow=["p.pth"]).backbone.a.weight == 1).all())
    refused({**PLAIN, "backbone": evil}, "a pickle runs what it names", allow=["evil.pth"])


@pytest.mark.parametrize("kind", ["ImageClassifier", "standtypes.ImageClassifier", "mm:standtypes.ImageClassifier"])
def test_the_classifier_of_a_registry_is_taken_and_the_report_says_so(registry: Any, kind: str) -> None:
    class ImageClassifier(registry.get("TypedModel")):  # type: ignore[misc]
        pass

    registry.register_module(module=ImageClassifier)
    parts = {"backbone": {"type": "TypedNet"}, "neck": {"type": "TypedNeck"}, "head": {"type": "TypedNeck"}}
    model = assemble({"input": PLAIN["input"], "default_scope": "standtypes", "model": {"type": kind, **parts}})
    assert isinstance(model.whole, ImageClassifier)
    said = f"`{kind}` is mm:standtypes.ImageClassifier of mmengine's registry, not ours"
    assert (said in model.report.remarks) == (not kind.startswith("mm:"))
    parts["head"] = {"type": "LinearClsHead", "num_classes": 5}
    if not kind.startswith("mm:"):
        model = assemble({"input": PLAIN["input"], "model": {"type": kind, **parts, "neck": PLAIN["neck"]}})
        said = f"`{kind}` is put together here, not mm:standtypes.ImageClassifier: it has no `LinearClsHead`"
        assert said in model.report.remarks


def test_a_classifier_that_no_registry_has_is_put_together_here_and_the_report_says_so(registry: Any) -> None:
    model = assemble({**PLAIN, "backbone": NET, "type": "mmpretrain.ImageClassifier"})
    assert "`mmpretrain.ImageClassifier` is put together here: no registry of mmengine's has it" in model.report.remarks
