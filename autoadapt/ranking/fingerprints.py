"""Fingerprints: what tells a module, code or images from others, so that no row of before is taken for theirs."""

from __future__ import annotations

import ast
import contextlib
import hashlib
import re
import sys
import sysconfig
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import torch
from torch import nn

from autoadapt.saving.module_states import checksum_of
from autoadapt.sources.code_paths import names_a_file

_ADDRESS = re.compile(r" at 0x[0-9a-f]+")


def of_module(module: nn.Module) -> str:
    """Its layers as they are printed, and the bits of its weights.

    Example:
        >>> of_module(nn.ReLU()) == of_module(nn.ReLU()), of_module(nn.ReLU()) == of_module(nn.GELU())
        (True, False)
    """
    printed = hashlib.sha256(_ADDRESS.sub("", repr(module)).encode(errors="replace")).hexdigest()
    return printed[:8] + of_tensors(one for one in module.state_dict().values() if isinstance(one, torch.Tensor))


def of_tensors(tensors: Iterable[torch.Tensor]) -> str:
    """Their bits, in order; of those on the meta device, which have none, nothing."""
    kept = (one if one.layout is torch.strided else one.to_dense() for one in tensors if not one.is_meta)
    return checksum_of({f"{number:09}": tensor for number, tensor in enumerate(kept)})[:16]


def of_code(source: str) -> str:
    """The content of the file that a source names and of those that they import; empty where it names none.

    Code of installed packages is left out. Imports are read, not run: neither those of a computed name nor files of
    data that code reads are seen.
    """
    place, colon, _name = source.rpartition(":")
    if names_a_file(source):
        waiting, folders = [Path(place)], [Path(place).parent, *map(Path, sys.path)]
    else:
        folders = [*map(Path, sys.path)]
        waiting = [Path(source), *(_of_module(place.split("."), folders) if colon else [])]
    read: dict[Path, bytes] = {}
    while waiting:
        with contextlib.suppress(OSError, ValueError):  # whatever is wrong with it is said where it is loaded
            file = waiting.pop(0).resolve()
            if file in read or any(file.is_relative_to(folder) for folder in _INSTALLED):
                continue
            read[file] = file.read_bytes()
            if file.suffix == ".py":
                for parts, base in _imports(read[file], file):
                    waiting += _of_module(parts, base or folders)
    return hashlib.sha256(b"".join(read.values())).hexdigest()[:16] if read else ""


_INSTALLED = {Path(sysconfig.get_path(name)).resolve() for name in ("stdlib", "purelib", "platlib")}
_INSTALLED.add(Path(__file__).resolve().parents[1])


def _imports(code: bytes, file: Path) -> Iterator[tuple[list[str], list[Path]]]:
    """The parts of each name that a file imports, and the folder that they start from where the import is relative."""
    with contextlib.suppress(SyntaxError):
        for node in ast.walk(ast.parse(code)):
            if isinstance(node, ast.Import):
                yield from ((one.name.split("."), []) for one in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = [file.parents[node.level - 1]] if node.level else []
                above = node.module.split(".") if node.module else []
                yield from (([*above, one.name], base) for one in node.names)


def _of_module(parts: Sequence[str], folders: Iterable[Path]) -> list[Path]:
    """The files of a module and of the packages that it is in, wherever they may be."""
    named = [folder.joinpath(*parts[:count]) for folder in folders for count in range(1, len(parts) + 1)]
    files = (file for one in named for file in (one / "__init__.py", one.with_name(f"{one.name}.py")))
    return [file for file in files if file.is_file()]
