"""Model names: completion and listing from a list that is kept on disk, so that no zoo need be imported for it."""

from __future__ import annotations

import contextlib
import json
import os
from importlib import metadata
from pathlib import Path

from autoadapt.errors import AdaptError
from autoadapt.files.writing import write_file
from autoadapt.versions import VERSION, package_version

_ZOOS = ("timm", "torchvision", "transformers", "segmentation-models-pytorch")


def complete_source(incomplete: str) -> list[str]:
    """Schemes, then the models of one; none where its package is not installed.

    Example:
        >>> complete_source("torchv")[:2], complete_source("torchvision:resnet5")
        (['torchvision:alexnet', 'torchvision:convnext_base'], ['torchvision:resnet50'])
    """
    kept = known_names()
    begun = [f"{scheme}:" for scheme in kept if f"{scheme}:".startswith(incomplete)]
    if ":" not in incomplete and len(begun) != 1:
        return begun
    start = incomplete if ":" in incomplete else begun[0]
    scheme, _, name = start.partition(":")
    return [f"{scheme}:{one}" for one in kept.get(scheme, ()) if one.startswith(name)]


def known_names() -> dict[str, list[str]]:
    """The models of every zoo that is installed, by scheme; read from disk where no zoo has changed since."""
    others = sorted(point.name for point in metadata.entry_points(group="autoadapt.sources"))
    key = " ".join([VERSION, *(f"{package} {package_version(package)}" for package in _ZOOS), *others])
    try:
        kept = json.loads(_file().read_text(encoding="utf-8"))
        if kept["key"] == key:
            return {str(scheme): list(map(str, names)) for scheme, names in kept["names"].items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        pass  # not there yet, or written by something else
    names = _listed()
    with contextlib.suppress(AdaptError):  # a home that nobody may write to
        write_file(_file(), json.dumps({"key": key, "names": names}))
    return names


def _listed() -> dict[str, list[str]]:
    """Asked of the zoos themselves, which takes seconds."""
    from autoadapt.sources.zoos import names_if_any, schemes

    return {scheme: sorted(names_if_any(scheme)) for scheme in schemes()}


def _file() -> Path:
    """In the user's own cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or os.environ.get("LOCALAPPDATA") or str(Path.home() / ".cache")
    return Path(home) / "autoadapt" / "models.json"
