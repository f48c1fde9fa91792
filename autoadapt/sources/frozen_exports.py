"""Frozen exports: programs of `torch.export` as backbones."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoadapt.errors import Mismatch, SourceError, nearest
from autoadapt.files.reading import one_line
from autoadapt.sources.permissions import check_file

EXPORTED = ".pt2"


class FrozenExport(nn.Module):
    """A program of `torch.export` as a backbone that is not trained."""

    def __init__(self, program: nn.Module) -> None:
        super().__init__()
        self.program = program.requires_grad_(False)

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """Run the program; tensors go in and come out as they were exported."""
        return self.program(*args, **kwargs)

    def train(self, mode: bool = True) -> FrozenExport:
        """Stay as exported: a program has no other mode."""
        self.training = mode
        return self


def load_export(source: str, allow: Iterable[str | Path]) -> nn.Module:
    """Exported files are read with torch's own reader, which may unpickle: hence the permission."""
    path = Path(source).resolve()
    expected = "a file of torch.export.save"
    if not path.exists():  # before a permission is asked for, which would be of no use
        folder = path.parent if path.parent.is_dir() else None
        near = nearest(path.name, [file.name for file in folder.glob("*" + EXPORTED)]) if folder else []
        remedy = "\n".join(str(Path(source).with_name(name)) for name in near) or "torch.export.save(program, path)"
        raise SourceError(f"{source} does not exist", [Mismatch(source, expected, "no such file", remedy)])
    check_file(source, Path(source), allow)
    if not zipfile.is_zipfile(path):
        fault = Mismatch(source, expected, "another format", "torch.export.save(program, path)")
        raise SourceError(f"{source} is no exported program", [fault])
    try:
        return FrozenExport(torch.export.load(path).module())
    except Exception as error:
        fault = Mismatch(source, "a program that this torch reads", one_line(error), "export it anew")
        raise SourceError(f"{source} cannot be read", [fault]) from error
