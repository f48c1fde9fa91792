"""What a literal config asks for and the zoo has not is refused with its place."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from literal_configs import LITERAL, SMALL, SWIN, _literal

from autoadapt.assembly import assemble
from autoadapt.errors import AssemblyError

REFUSED = {
    "a depth": ({"depth": 42}, "backbone.depth", "18, 34, 50, 101, 152"),
    "a style": ({"style": "tensorflow"}, "backbone.style", "pytorch or caffe"),
    "a level": ({"out_indices": (4,)}, "backbone.out_indices", "indices below 4, one for each stage"),
    "a level behind the stages": ({"num_stages": 3}, "backbone.out_indices", "indices below 3, one for each stage"),
    "a stage": ({"frozen_stages": 5}, "backbone.frozen_stages", "less than 5"),
    "an argument": ({"out_indeces": (3,)}, "backbone.out_indeces", "an argument of ResNet("),
    "a deformable convolution": ({"dcn": {"type": "DCN"}}, "backbone.dcn", "null"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_a_backbone_does_not_know_is_refused_with_its_place(name: str) -> None:
    changes, where, expected = REFUSED[name]
    with pytest.raises(AssemblyError) as caught:
        assemble(_literal({**LITERAL["backbone"], **changes}))
    assert [fault.where for fault in caught.value.mismatches] == [where]
    assert expected in caught.value.mismatches[0].expected


def test_a_checkpoint_in_the_config_is_refused_unless_it_is_allowed(tmp_path: Path) -> None:
    source = assemble(_literal({"type": "ResNet", "depth": 18}))
    weights = tmp_path / "resnet18.pth"
    torch.save({f"backbone.{name}": value for name, value in source.backbone.body.net.state_dict().items()}, weights)
    start = {"type": "Pretrained", "checkpoint": str(weights), "prefix": "backbone"}
    config = _literal({"type": "ResNet", "depth": 18, "init_cfg": start})
    with pytest.raises(AssemblyError, match=r"backbone\.init_cfg\n  expected  a checkpoint that the caller allows"):
        assemble(config)
    model = assemble(config, allow=[str(weights)])
    found, expected = model.backbone.body.net.conv1.weight, source.backbone.body.net.conv1.weight
    assert torch.equal(found, expected)
    there = {"type": "Pretrained", "checkpoint": "https://a.b/c.pth"}
    with pytest.raises(AssemblyError, match="fetch it first"):
        assemble(_literal({"type": "ResNet", "depth": 18, "init_cfg": there}), allow=["https://a.b/c.pth"])
    with pytest.raises(AssemblyError, match="pretrained"):
        assemble(_literal(pretrained="torchvision://resnet50"))


def test_what_is_left_to_others_is_a_remark() -> None:
    preprocessor = {"num_classes": 10, "mean": [0.0], "std": [1.0]}
    remarks = assemble({"input": SMALL, "model": {**SWIN, "data_preprocessor": preprocessor}}).report.remarks
    assert "`train_cfg` is left out: the training loop does it" in remarks
    assert "`data_preprocessor.num_classes` is left out: the training loop does it" in remarks


def test_targets_without_a_loss_are_an_error() -> None:
    config = _literal()
    del config["head"]["loss"], config["head"]["topk"]
    model = assemble(config)
    images, classes = torch.rand(2, 3, 32, 32), torch.tensor([1, 2])
    for mode in (True, False):
        with pytest.raises(AssemblyError, match=r"loss: \{type: CrossEntropyLoss\}"):
            model.train(mode)(images, classes)
    with pytest.raises(AssemblyError, match="the config asks for no accuracies"):
        model.metrics(images, classes)
