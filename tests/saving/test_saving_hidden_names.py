"""Attributes that hide a method of every module, as `type` of YOLO's layers: saved is what can be put back."""

import torch
from torch import nn

import autoadapt as aa

X = torch.zeros(1, 3, 16, 16)


class Layer(nn.Module):
    """As ultralytics marks each layer when it reads a model's file."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 3, 2, 1)
        self.i, self.f, self.type = 0, -1, "nn.modules.conv.Conv"

    def forward(self, x):
        return self.conv(x)


class Reading(nn.Sequential):
    """Reads of each layer which outputs it takes."""

    def forward(self, x):
        return super().forward(x) if self[0].i == 0 and self[0].f == -1 else x


def built():
    return Reading(Layer(), nn.Conv2d(8, 4, 1))


def test_a_layer_that_says_its_type_is_restored_in_its_model(tmp_path):
    model = aa.swap(built(), "0", nn.Conv2d(3, 5, 3, 2, 1), inputs=X)
    model[0].type = "nn.modules.conv.Conv"
    report = str(aa.save(model, tmp_path / "model"))
    assert " model.json, parts/ " in report
    assert "config.json" not in report.partition("restore")[0]
    restored = aa.restore(tmp_path / "model", model=built(), new={"0": nn.Conv2d(3, 5, 3, 2, 1)})
    assert (restored[0].i, restored[0].f, restored[0].type) == (0, -1, "nn.modules.conv.Conv")
    assert torch.equal(restored(X), model(X))


def test_what_would_hide_how_a_module_runs_is_told_at_saving_and_not_at_restoring(tmp_path):
    net = aa.adapt(nn.Conv2d(3, 5, 3, 2, 1), like=nn.Conv2d(3, 8, 3, 2, 1), inputs=X)
    vars(net)["type"], vars(net)["zero_grad"] = "Conv", "never"
    report = str(aa.save(net, tmp_path / "net"))
    assert "zero_grad" in report
    restored = aa.restore(tmp_path / "net", new=nn.Conv2d(3, 5, 3, 2, 1))
    assert restored.type == "Conv"
    assert callable(restored.zero_grad)
