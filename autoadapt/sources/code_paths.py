"""Code paths: what a python path, or a file and a name in it, stand for; run only with the caller's word."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import os
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from autoadapt.errors import Mismatch, SourceError, nearest
from autoadapt.sources.permissions import check_file, check_module

_NAME = r"(?P<name>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*)"
_PYTHON_PATH = re.compile(rf"(?P<module>[A-Za-z_]\w*(?:\.[A-Za-z_]\w*)*):{_NAME}")
_IN_A_FILE = re.compile(rf"(?P<file>[^\0]+\.py):{_NAME}")


def names_a_file(source: str) -> bool:
    """Whether it is a python file and a name in it.

    Example:
        >>> names_a_file("models/mine.py:build"), names_a_file("models.mine:build")
        (True, False)
    """
    return _IN_A_FILE.fullmatch(source) is not None


def load_object(source: str, allow: Sequence[str | Path]) -> Any:
    """What a python path, or a file and a name in it, stand for.

    Args:
        source: `package.module:name` or `path/to/module.py:name`; files may import what stands beside them.
        allow: Packages and files (or folders of files) whose code may run.

    Raises:
        SourceError: It is not allowed, or there is nothing of that name.
    """
    in_file, found = _IN_A_FILE.fullmatch(source), _PYTHON_PATH.fullmatch(source)
    if in_file is not None:
        module, name = in_file["file"], in_file["name"]
        _refuse_missing(Path(module))  # before a permission is asked for, which would be of no use
        check_file(source, Path(module), allow)
        made: Any = _file(Path(module))
    elif found is not None:
        module, name = found["module"], found["name"]
        check_module(source, module, allow)
        made = _imported(module)
    else:
        fault = Mismatch(source, "package.module:name or module.py:name", source, 'load("timm:resnet18")')
        raise SourceError(f"{source!r} names no model", [fault])
    for part in name.split("."):
        if not hasattr(made, part):
            near = nearest(part, [name for name in dir(made) if not isinstance(getattr(made, name, None), ModuleType)])
            fault = Mismatch(source, f"a name in {module}", part, "\n".join(f"{module}:{other}" for other in near))
            raise SourceError(f"{module} has no {part}", [fault])
        made = getattr(made, part)
    return made


def _imported(module: str) -> ModuleType:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        fault = Mismatch(module, "a module that can be imported", str(error), "check the path and the working folder")
        raise SourceError(f"{module} cannot be imported", [fault]) from error


def _refuse_missing(path: Path) -> None:
    if not os.path.isfile(path):
        near = nearest(path.name, [other.name for other in path.resolve().parent.glob("*.py")], count=1)
        remedy = str(path.with_name(near[0])) if near else "check the path and the working folder"
        raise SourceError(f"there is no file {path}", [Mismatch(str(path), "a python file", "nothing", remedy)])


def _file(path: Path) -> ModuleType:
    """A python file as a module; the same one whenever it is asked for again."""
    resolved = path.resolve()
    name = _module_name(resolved)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, resolved)
    assert spec is not None, "the ending .py has a loader"
    assert spec.loader is not None, "as above"
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # classes are pickled and copied by it
    try:
        with _beside(resolved.parent):
            spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        said = f"{type(error).__name__}: {error}"
        fault = Mismatch(str(path), "a file that can be run", said, f"python {path}  # shows where")
        raise SourceError(f"{path} cannot be imported", [fault]) from error
    return module


def _module_name(path: Path) -> str:
    """The file's own name where that is free, else one with a number behind it."""
    count = 1
    while True:
        name = path.stem if count == 1 else f"{path.stem}_{count}"
        known = sys.modules.get(name)
        file = getattr(known, "__file__", None)
        if file is not None and Path(file).resolve() == path:
            return name
        if known is None and importlib.util.find_spec(name) is None:
            return name
        count += 1


@contextlib.contextmanager
def _beside(folder: Path) -> Iterator[None]:
    """Modules that stand beside a file can be imported while it is run, as with `python file.py`."""
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(str(folder))
