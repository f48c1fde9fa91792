"""Versions: of this package, and of those that models come from."""

from __future__ import annotations

import re
from importlib import metadata
from pathlib import Path

VERSION = "0.1.0"


def package_version(package: str) -> str:
    """The version of an installed package; empty where it is not installed as one."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return ""


def version_key(version: str) -> tuple[int, ...]:
    """The leading numbers of a version, to compare.

    Example:
        >>> version_key("0.10.1.dev3") > version_key("0.9"), version_key("2.14.1+cpu")
        (True, (2, 14, 1))
    """
    return tuple(map(int, re.findall(r"\d+", re.split(r"[^\d.]", version)[0])))


def install_line(extra: str) -> str:
    """What installs an optional part of the package: from the checkout that it stands in, else from PyPI.

    Example:
        >>> "[onnx]" in install_line("onnx")
        True
    """
    root = Path(__file__).resolve().parents[1]
    if not (root / "pyproject.toml").is_file():
        return f'pip install "autoadapt[{extra}]"'
    return f'pip install -e "{"." if Path.cwd() == root else root}[{extra}]"'
