"""Records: what `export` wrote, in the file itself, and read back as data without running the program."""

from __future__ import annotations

import zipfile
from importlib import import_module
from pathlib import Path

from pydantic import ValidationError

from autoadapt.contracts.facts import first_fault
from autoadapt.errors import ExportError, Mismatch
from autoadapt.files.reading import one_line
from autoadapt.saving.exporting.formats import needs
from autoadapt.saving.exporting.results import RECORD, Exported

_MOST = 1 << 20


def record_of(path: Path) -> Exported:
    """What `export` wrote to a file: model, contract and the range of sizes.

    Args:
        path: A file that ends in `.pt2`, `.pt`, `.ts` or `.onnx`.

    Raises:
        ExportError: There is no record in it, or it is malformed.
    """
    expected = "a file of aa.export"
    try:
        text = _of_onnx(path) if path.suffix == ".onnx" else _of_archive(path)
        if text is None:
            found = "a program of another maker, or of an older autoadapt"
            fault = Mismatch(str(path), expected, found, "export it anew")
            raise ExportError(f"{path} does not say what it holds", [fault])
        return Exported.model_validate_json(text).model_copy(
            update={"path": str(path), "file_bytes": path.stat().st_size}
        )
    except (OSError, ValueError, zipfile.BadZipFile) as error:
        said = first_fault(error) if isinstance(error, ValidationError) else one_line(error)
        raise ExportError(f"{path} cannot be read", [Mismatch(str(path), expected, said, "export it anew")]) from error


def _of_archive(path: Path) -> str | None:
    """Of a program of torch, which is a ZIP archive; where in it extra files lie depends on the version."""
    with zipfile.ZipFile(path) as archive:
        for one in archive.infolist():
            if one.filename.rpartition("/")[2] == RECORD:
                with archive.open(one) as file:
                    return file.read(_MOST).decode()
    return None


def _of_onnx(path: Path) -> str | None:
    onnx = needs("onnx")
    try:
        read = onnx.load(path, load_external_data=False)
    except import_module("google.protobuf.message").DecodeError as error:
        raise ValueError("no program of ONNX") from error
    return next((str(one.value) for one in read.metadata_props if one.key == RECORD), None)
