"""Permissions: foreign code runs only with the caller's word."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from autoadapt.errors import Mismatch, SourceError


def check_module(source: str, module: str, allow: Sequence[str | Path]) -> None:
    """Refuse a module that is neither allowed nor in a package that is.

    Raises:
        SourceError: It is not.
    """
    allowed = [str(entry) for entry in allow]
    if not any(module == entry or module.startswith(f"{entry}.") for entry in allowed):
        package = module.partition(".")[0]
        said = f"allowed: {', '.join(allowed) or 'nothing'}"
        fault = Mismatch(source, "a package that the caller allows", said, f'allow=["{package}"]')
        raise SourceError(f"{source} would run code of `{package}`, which is not allowed", [fault])


def check_file(source: str, path: Path, allow: Iterable[str | Path]) -> None:
    """Refuse a file that is neither allowed nor in a folder that is.

    Raises:
        SourceError: It is not.
    """
    entries = [*allow]
    allowed = [Path(entry).resolve() for entry in entries]
    if not any(path.resolve() == entry or entry in path.resolve().parents for entry in allowed):
        said = f"allowed: {', '.join(map(str, entries)) or 'nothing'}"
        fault = Mismatch(source, "a file that the caller allows", said, f'allow=["{path}"]')
        raise SourceError(f"{source} may run code when it is read, and is not allowed", [fault])


_SAID_BY_THE_CALLER = {"allow", "source"}
"""Arguments of `load` itself, which a file must not give."""
_READS = {"cache", "checkpoint", "ckpt", "file", "hub", "pretrained", "repo", "url", "weights"}
"""Words in the names of options that have something fetched or read."""
_PLACE = re.compile(
    r"[a-zA-Z][\w+.-]*:(//|[\w.-]+/)|.*[/\\\\]|~|.*\.(pth?|pt2|ckpt|bin|safetensors|npz?|pkl|h5|tar|zip)$"
)
"""What names a file, a folder, an address or a repository of somebody's."""


def refuse_foreign(
    where: str, source: str, options: Mapping[str, Any], allow: Iterable[str | Path], *, published: bool = False
) -> None:
    """Refuse what a file asks to be fetched or read, unless the caller allows it by its text.

    Args:
        where: The place in the file.
        source: The name of a model.
        options: What goes to its maker.
        allow: What the caller allows.
        published: Whether a zoo's own weights may be meant, as by `pretrained: true`.

    Raises:
        SourceError: It asks for an address, a path, or a repository of somebody's, or allows something itself.
    """
    own = sorted(_SAID_BY_THE_CALLER & options.keys())
    if own:
        faults = [Mismatch(f"{where}.{name}", "options of the model alone", f"{name}=", "leave it out") for name in own]
        raise SourceError(f"{where} says what its caller alone may say: {', '.join(own)}", faults)
    allowed = {str(entry) for entry in allow}
    faults = [
        Mismatch(f"{where}.{name}", "nothing that is fetched or read", said, f"allow=[{said!r}]")
        for name, said in foreign(source, options, published=published)
        if said not in allowed
    ]
    if faults:
        said = ", ".join(fault.found for fault in faults[:4])
        raise SourceError(f"{where} names what it does not hold: {said}", faults)


def foreign(source: str, options: Mapping[str, Any], *, published: bool = False) -> Iterator[tuple[str, str]]:
    """What would be fetched or read to make a model, as names and texts: repositories, addresses, paths.

    Example:
        >>> list(foreign("timm:resnet18", {"pretrained_cfg": {"url": "https://a.b/c"}, "drop_path_rate": 0.1}))
        [('pretrained_cfg.url', 'https://a.b/c')]
        >>> list(foreign("timm:hf-hub:someone/model", {}))
        [('name', 'hf-hub:someone/model')]
    """
    scheme, _, name = source.partition(":")
    if scheme in _NAMED_ALONE and (":" in name or "/" in name or "\\" in name):
        yield "name", name
    yield from _asked(options, "", published)


_NAMED_ALONE = ("timm", "torchvision", "smp", "hf")
"""Schemes whose own models have plain names."""


def _asked(value: Any, where: str, published: bool) -> Iterator[tuple[str, str]]:
    """Texts that are places, and options that have something read, wherever they stand."""
    words = set(re.split(r"[^a-z]+", where.rpartition(".")[2].lower()))
    reads = bool(words & _READS) and not (published and words & {"pretrained", "weights"})
    match value:
        case Mapping():
            for key, child in value.items():
                yield from _asked(child, f"{where}.{key}".lstrip("."), published)
        case list() | tuple():
            for i, child in enumerate(value):
                yield from _asked(child, f"{where}.{i}", published)
        case str() if _PLACE.match(value):
            yield where, value
        case _ if reads and value:
            yield where, str(value)
