"""Arguments of `export` and places to write to: what they do not take is refused by name, and no file is written."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import autoadapt as aa
from autoadapt.errors import AdaptError, ExportError

X = torch.zeros(2, 3, 16, 16)


def net():
    return aa.adapt(nn.Conv2d(3, 5, 2, 2), like=nn.Conv2d(3, 8, 2, 2), inputs=X)


@pytest.mark.parametrize(
    ("options", "found", "remedy"),
    [
        ({"tolerance": float("nan")}, "expected  a finite number from 0\n  found     nan", "tolerance=1e-4"),
        ({"tolerance": -1}, "found     -1", "tolerance=1e-4"),
        ({"tolerance": float("inf")}, "found     inf", "tolerance=1e-4"),
        ({"tolerance": "small"}, "found     'small'", "tolerance=1e-4"),
        ({"opset_version": "18"}, "`opset_version`\n  expected  a whole number\n  found     '18'", "opset_version=18"),
        ({"ranges": 3}, "expected  sizes by axis\n  found     3", 'ranges={"H": (64, 1024)}'),
        ({"ranges": {"H": (64, 32)}}, "ranges['H']\n  expected  one size, or the smallest", "ranges={'H': (32, 64)}"),
        ({"ranges": {"H": "a"}}, "found     'a'", "ranges={'H': (64, 1024)}"),
        ({"ranges": {"H": (0, 8)}}, "found     (0, 8)", "ranges={'H': (64, 1024)}"),
    ],
)
def test_export_refuses_arguments_that_it_does_not_take(options, found, remedy, tmp_path):
    with pytest.raises(ExportError, match="export does not take these arguments") as caught:
        aa.export(net(), tmp_path / "net.pt2", X, **options)
    assert found in str(caught.value)
    assert str(caught.value).endswith(remedy)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow  # an export to ONNX
def test_an_opset_that_torch_does_not_write_is_refused(tmp_path):
    resized = aa.adapt(nn.Conv2d(3, 5, 4, 4), like=nn.Conv2d(3, 8, 2, 2), inputs=X)
    with pytest.raises(ExportError, match="this opset of ONNX is not written") as caught:
        aa.export(resized, tmp_path / "net.onnx", X, opset_version=3)
    assert "expected  opset 3" in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("write", "argument"),
    [
        (lambda one: aa.export(one, ("net", ".pt2"), X), "path"),
        (lambda one: aa.save(one, None), "folder"),
        (lambda one: aa.write_html(one.plan, "r.html"), "path"),
    ],
)
def test_a_place_to_write_to_that_is_no_path_is_refused(write, argument):
    with pytest.raises(AdaptError, match=f"{argument} is no path, and nothing was done") as caught:
        write(net())
    assert "a text or a pathlib.Path" in str(caught.value)
