"""An exported file says what it holds: model, contract, range of sizes, versions; it is read as data."""

from __future__ import annotations

import zipfile
from pathlib import Path

import pytest
import torch
from torch import nn

import autoadapt as aa
from autoadapt.errors import ExportError
from autoadapt.saving.exporting.records import record_of

X = torch.zeros(2, 3, 16, 16)
ENDINGS = [".pt2", ".pt", pytest.param(".onnx", marks=pytest.mark.slow)]


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_file_says_what_export_said(ending: str, tmp_path: Path) -> None:
    net = aa.adapt(nn.Conv2d(3, 5, 2, 2), like=nn.Conv2d(3, 8, 2, 2), inputs=X)
    path = tmp_path / f"net{ending}"
    told = aa.export(net, path, X, ranges={"H": (8, 64), "W": 16})
    assert record_of(path) == told.model_copy(update={"compared": ()})
    assert "beside the module" in str(told)
    assert "beside the module" not in str(record_of(path))  # a file holds no comparisons
    assert str(tmp_path) not in path.read_bytes().decode(errors="replace").partition("autoadapt.json")[2][:4000]
    assert record_of(path).made is not None


def _archive(path: Path, text: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("net/extra/autoadapt.json", text)


@pytest.mark.parametrize(
    ("write", "said"),
    [
        (lambda path: path.write_bytes(b"nothing"), "File is not a zip file"),
        (lambda path: _archive(path, "{"), "Invalid JSON"),
        (lambda path: _archive(path, "{}"), "nothing at path"),
        (lambda path: _archive(path, '{"a": "' + "b" * (1 << 21)), "Invalid JSON"),
        (lambda path: path.mkdir(), "Is a directory"),
        (lambda path: torch.save({}, path), "a program of another maker, or of an older autoadapt"),
    ],
)
def test_what_says_nothing_of_itself_is_refused(write, said: str, tmp_path: Path) -> None:
    path = tmp_path / "net.pt2"
    write(path)
    with pytest.raises(ExportError) as caught:
        record_of(path)
    assert said in str(caught.value)


@pytest.mark.parametrize("content", [b"nothing", b"", b"\x0a\xff\xff\xff\xff\x0f"])
def test_a_broken_file_of_onnx_is_refused(content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(ExportError):
        record_of(path)


def test_a_model_that_stays_as_it_is_is_not_said_to_be_in_a_contract_of_another() -> None:
    from autoadapt.saving.exporting import Exported

    told = {"path": "net.pt2", "name": "Net", "format": "torch.export", "file_bytes": 1, "example": {}, "ranges": ()}
    for contract, title in {
        "Net (tensor)": "Net (tensor)",
        "Old (tensor)": "Net in the contract of Old (tensor)",
    }.items():
        assert str(Exported(contract=contract, **told)).startswith(f"{title}  ->  net.pt2\n")
