"""Versions: of this package, and of those that models come from."""

from __future__ import annotations

import re
from importlib import metadata

__all__ = ["VERSION", "package_version", "version_key"]

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
