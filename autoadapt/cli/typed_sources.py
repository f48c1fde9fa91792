"""Typed sources: what a person typed in the place of a model, told apart before anything is loaded."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Sequence
from pathlib import Path

from autoadapt.errors import Mismatch, SourceError, nearest

CONFIG = "config.json"
WHOLE = "model.json"
_EXPECTED = "a name such as timm:resnet18, module.py:name, a .pt2 file or a folder of adapt --out"
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")
WEIGHTS = frozenset((".pth", ".pt", ".bin", ".ckpt", ".safetensors", ".tar"))
FILES = WEIGHTS | {".json", ".yaml", ".yml", ".onnx", ".txt", ".pt2", ".npy", ".h5", ".pkl"}


def is_saved(source: str | Path) -> bool:
    """Whether it is a folder that holds an adapted module, or a whole model with some in it.

    Example:
        >>> is_saved("timm:resnet18")
        False
    """
    return any(os.path.isfile(Path(source) / name) for name in (CONFIG, WHOLE))


def checked_source(source: str) -> str:
    """What may be the source of a model, with `~` written out.

    Raises:
        SourceError: It is a path of what is no model, or of nothing; or a word without a scheme.

    Example:
        >>> checked_source("timm:resnet18"), checked_source("mine.py:build")
        ('timm:resnet18', 'mine.py:build')
    """
    source = os.path.expanduser(source) if source.startswith("~") else source
    if not source.strip():
        raise SourceError("the name of a model is empty", [Mismatch("", _EXPECTED, "nothing", "timm:resnet18")])
    if os.path.isdir(source):
        if not is_saved(source):
            raise _no_model(source)
    elif os.path.isfile(source):
        if Path(source).suffix not in (".py", ".pt2"):
            raise _another_file(source)
    elif is_path(source):
        refuse_missing(source, _EXPECTED)
    elif ":" not in source:
        raise _unnamed(source)
    return source


def refuse_missing(path: str, expected: str, kinds: Sequence[str] = (".py", ".pt2")) -> None:
    """Refuse a path of nothing, with what has a similar name there.

    Args:
        path: As it was typed.
        expected: What should be there.
        kinds: What the names of files end in that can stand there; folders that something is saved in always can.

    Raises:
        SourceError: There is nothing.
    """
    if os.path.exists(path):
        return
    folder, name = os.path.split(path)
    try:
        fits = [one for one in os.listdir(folder or ".") if one.endswith(tuple(kinds)) or is_saved(Path(folder) / one)]
        there = {Path(other).stem: other for other in fits}
        near = [there[one] for one in nearest(Path(name).stem, there)]
    except OSError:
        near = []
    remedy = "\n".join(os.path.join(folder, one) for one in near) or "check the path and the working folder"
    raise SourceError(f"there is no {path}", [Mismatch(path, expected, "no such file or folder", remedy)])


def is_path(source: str) -> bool:
    r"""Whether it can only be meant as a path.

    Example:
        >>> [is_path(source) for source in ("./net", "C:\\net", "net.json", "hf:some/net.v1", "C:\\m.py:net")]
        [True, True, True, False, False]
    """
    if _DRIVE.match(source) or source.startswith((".", "/", "\\")):
        return not re.search(r"\.py:\w", source)
    return ":" not in source and Path(source).suffix in (*FILES, ".py")


def _no_model(folder: str) -> SourceError:
    fault = Mismatch(
        folder,
        "a folder of adapt --out or swap --out",
        f"no {CONFIG} or {WHOLE} in it",
        f"autoadapt adapt MODEL --like OLD --out {shlex.quote(folder)}",
    )
    return SourceError(f"{folder} holds no model", [fault])


def _another_file(path: str) -> SourceError:
    suffix, quoted = Path(path).suffix, shlex.quote(path)
    kind, remedy = "a file of another kind", "timm:resnet18"
    if suffix in WEIGHTS:
        kind, remedy = "weights, which are loaded into a model", f"autoadapt transfer {quoted} MODEL"
    elif suffix == ".json":
        kind, remedy = "data", f"autoadapt show {quoted}"
        if Path(path).name in (CONFIG, WHOLE):
            remedy = shlex.quote(os.path.dirname(path) or ".")
    elif suffix in (".yaml", ".yml"):
        kind, remedy = "a config", f"autoadapt assemble {quoted}"
    elif suffix == ".onnx":
        kind, remedy = "a program of ONNX, which PyTorch does not run", "the model that it was exported from"
    return SourceError(f"{path} is no model", [Mismatch(path, _EXPECTED, kind, remedy)])


def _unnamed(source: str) -> SourceError:
    from autoadapt.sources import near_names

    remedy = "\n".join(near_names(source)) or "autoadapt models"
    found = "no such folder either"
    return SourceError(f"{source!r} has no scheme", [Mismatch(source, _EXPECTED, found, remedy)])
