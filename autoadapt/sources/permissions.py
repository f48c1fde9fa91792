"""Permissions: foreign code runs only with the caller's word."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from autoadapt.errors import Mismatch, SourceError

__all__ = ["check_file", "check_module"]


def check_module(source: str, module: str, allow: Sequence[str | Path]) -> None:
    """Refuse a module that is neither allowed nor in a package that is.

    Raises:
        SourceError: It is not.
    """
    allowed = [str(entry) for entry in allow]
    if not any(module == entry or module.startswith(f"{entry}.") for entry in allowed):
        package = module.partition(".")[0]
        fault = Mismatch(source, "a package that the caller allows", f"allow={allowed}", f'allow=["{package}"]')
        raise SourceError(f"{source} would run code of `{package}`, which is not allowed", [fault])


def check_file(source: str, path: Path, allow: Iterable[str | Path]) -> None:
    """Refuse a file that is neither allowed nor in a folder that is.

    Raises:
        SourceError: It is not.
    """
    entries = [*allow]
    allowed = [Path(entry).resolve() for entry in entries]
    if not any(path.resolve() == entry or entry in path.resolve().parents for entry in allowed):
        said = f"allow={[str(entry) for entry in entries]}"
        fault = Mismatch(source, "a file that the caller allows", said, f'allow=["{path}"]')
        raise SourceError(f"{source} may run code when it is read, and is not allowed", [fault])
