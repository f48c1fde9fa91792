"""A folded model is saved with what was folded into what, and restored into a freshly built one."""

import copy
import json

import pytest
import torch
from torch import nn

import autoadapt as aa
from autoadapt.adapting import adapt

X = torch.randn(2, 3, 16, 16)


class Model(nn.Module):
    """Reads a level by a padded convolution, by a sum with another tensor, and through a normalisation."""

    def __init__(self):
        super().__init__()
        self.backbone, self.stem = nn.Conv2d(3, 8, 2, stride=2), nn.Conv2d(3, 8, 2, stride=2)
        self.read, self.add, self.norm = nn.Conv2d(8, 4, 3, padding=1), nn.Conv2d(8, 4, 1), nn.BatchNorm2d(8)

    def forward(self, x):
        level = self.backbone(x)
        return self.read(level) + self.add(level + self.stem(x).relu()), self.norm(level)


def new():
    return nn.Conv2d(3, 5, 2, stride=2)


def folded():
    torch.manual_seed(0)
    model = Model().eval()
    model.backbone = adapt(new(), like=model.backbone, inputs=X)
    nn.init.normal_(model.backbone.get_parameter("adapters.output.project.bias"))
    made = aa.fold(model, inputs=X)
    for left, right in zip(made(X), model(X), strict=True):
        torch.testing.assert_close(left, right, rtol=1e-5, atol=1e-5)
    done = made.backbone.folded
    assert done.ones
    assert done.fronts
    assert done.reroutes
    assert not done.stays
    return made


def test_it_comes_back_bit_for_bit_with_what_was_said_of_it(tmp_path):
    model = folded()
    aa.save(model, tmp_path / "kept")
    back = aa.restore(tmp_path / "kept", model=Model(), new=new())
    for left, right in zip(back(X), model(X), strict=True):
        assert torch.equal(left, right)
    assert back.backbone.folded == model.backbone.folded
    assert "channel of ones" in str(back.backbone.folded)
    again = aa.restore(tmp_path / "kept", model=Model(), new=new())
    aa.save(again, tmp_path / "again")
    back.train()
    sum(one.mean() for one in back(X)).backward()
    assert back.read.weight.grad is not None


def test_a_model_without_the_layers_is_refused_and_stays_as_it_was(tmp_path):
    aa.save(folded(), tmp_path)
    other = Model()
    other.read = nn.Identity()
    before = copy.deepcopy(other.state_dict())
    with pytest.raises(aa.SavingError, match="the model is not the one that was saved"):
        aa.restore(tmp_path, model=other, new=new())
    assert other.state_dict().keys() == before.keys()
    assert type(other.read) is nn.Identity


def test_what_was_folded_stands_in_the_file_as_data(tmp_path):
    aa.save(folded(), tmp_path)
    (part,) = json.loads((tmp_path / "model.json").read_text())["parts"]
    assert [one["paths"] for one in part["folding"]["readers"]] == [["read"], ["add"]]
