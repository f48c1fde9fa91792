"""Names that torch writes into code it cannot read again end an export with the place of the name."""

import pytest
import torch
from torch import nn

import autoadapt as aa
from autoadapt.errors.printable import visible

IMAGE = torch.zeros(1, 3, 8, 8)


class Named(nn.Module):
    """A convolution under a name, whose output has a key where one is given."""

    def __init__(self, channels, name, key=""):
        super().__init__()
        self.add_module(name, nn.Conv2d(3, channels, 2, stride=2))
        self.name, self.key = name, key

    def forward(self, x):
        made = self._modules[self.name](x)
        return {self.key: made} if self.key else made


class Größe(nn.Conv2d):
    """A class whose name is none of TorchScript's."""


def refused(new, old, path):
    net = aa.adapt(new, like=old, inputs=IMAGE)
    path.write_text("as it was")
    with pytest.raises(aa.ExportError, match="can be read back") as caught:
        aa.export(net, path)
    assert path.read_text() == "as it was"
    assert list(path.parent.iterdir()) == [path]
    return [fault.where for fault in caught.value.mismatches]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("ending", "name"),
    [
        ("pt", "in é"),
        ("pt2", "a\r"),
        ("onnx", "in\udcff"),
        ("onnx", "class"),
        ("pt", "in\udcff"),
        ("pt2", "in\udcff"),
        ("pt", "x\U000e0041"),
        ("pt2", "class"),
        ("onnx", 'q"'),
    ],
)
def test_a_module_whose_name_cannot_be_read_back_is_named(ending, name, tmp_path):
    where = refused(Named(5, name), Named(8, name), tmp_path / f"net.{ending}")
    assert where == [visible(f"backbone.{name}")]


def test_a_class_and_a_key_whose_names_cannot_be_read_back_are_named(tmp_path):
    assert refused(Größe(3, 5, 2, stride=2), nn.Conv2d(3, 8, 2, stride=2), tmp_path / "net.ts") == ["class of backbone"]
    assert refused(Named(5, "c", "ö"), Named(8, "c", "ö"), tmp_path / "net.ts") == ["outputs.ö"]


def test_a_name_that_a_format_can_read_back_is_no_fault(tmp_path):
    assert aa.export(aa.adapt(Named(5, "in é"), like=Named(8, "in é"), inputs=IMAGE), tmp_path / "net.pt2").compared
