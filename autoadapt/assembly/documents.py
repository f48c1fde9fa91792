"""Documents: a config as plain data that knows on which lines it was written. Nothing in a file is ever run."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from autoadapt.assembly.python_documents import read_python
from autoadapt.assembly.python_expressions import Keys
from autoadapt.errors import AssemblyError, Mismatch
from autoadapt.files.reading import read_json, read_text

_MOST_BYTES = 1 << 20
_DEEPEST = 50
_LONGEST_NUMBER = 40
_MOST_NODES = 10_000  # aliases of aliases can grow without bound


@dataclass(frozen=True)
class Document:
    """Plain data, and the line of each entry where a text was read."""

    data: Any
    lines: Mapping[Keys, int | str] = field(default_factory=dict)
    folder: Path = Path()
    """What the paths in it are relative to."""

    def where(self, keys: Keys) -> str:
        """A place as people write it, with its line, or that of what holds it.

        Example:
            >>> Document({}, {("head",): 4}).where(("head", "num_classes"))
            'head.num_classes (line 4)'
        """
        text = ".".join(str(key) for key in keys if key != "") or "config"
        known = [self.lines[keys[:end]] for end in range(len(keys), 0, -1) if keys[:end] in self.lines]
        return f"{text} (line {known[0]})" if known else text


def read_document(config: object) -> Document:
    """Read a config: a mapping, a YAML, JSON or Python file, or a YAML text.

    Raises:
        AssemblyError: There is no such file, or it is no mapping of plain data.
    """
    match config:
        case str() if "\n" in config or not config.strip() or (": " in config and not os.path.exists(config)):
            return _parsed(config, "config", Path())
        case str() | Path():
            path = Path(config)
            if path.suffix == ".py":
                return _python(path)
            return _parsed(_text(path), str(path), path.resolve().parent)
        case Mapping():
            return Document(_plain(config, (), []))
        case _:
            fault = Mismatch("config", "a mapping, a path or a text", type(config).__name__, 'assemble("model.yaml")')
            raise AssemblyError("a config is a mapping", [fault])


_OURS = (
    *("model", "model_cfg", "input", "targets", "backbone", "neck", "head", "loss", "weights", "adapt", "topk"),
    *("preprocessor", "data_preprocessor", "whole", "init_cfg", "default_scope"),
)
"""The names of a Python config that are about the model; the others are about its training."""


def _python(path: Path) -> Document:
    """The model of a Python config."""
    data, lines = read_python(path, _text(path))
    if not {"model", "model_cfg", "backbone"} & set(data):
        found = ", ".join(data) or "nothing"
        fault = Mismatch(str(path), "`model = dict(backbone=...)`", found, "model = dict(backbone=dict(type=...))")
        raise AssemblyError("the config has no model", [fault])
    return Document({key: data[key] for key in _OURS if key in data}, lines, path.resolve().parent)


def yaml_package() -> ModuleType:
    """PyYAML, which only configs in files need."""
    try:
        return importlib.import_module("yaml")
    except ImportError as error:
        fault = Mismatch("yaml", "an installed package", str(error), "pip install pyyaml")
        raise AssemblyError("PyYAML is not installed", [fault]) from error


def _text(path: Path) -> str:
    remedy = "check the path and the working folder"
    if not os.path.exists(path):  # also of a name that no file can have
        fault = Mismatch(str(path), "a YAML, JSON or Python file", "no such file", remedy)
        raise AssemblyError(f"{path} cannot be read", [fault])
    return read_text(path, "a YAML, JSON or Python file", remedy, AssemblyError, most=_MOST_BYTES)


def _plain(value: object, keys: Keys, above: list[int]) -> Any:
    """A copy of what a caller gave, made of mappings, lists, texts and numbers only."""
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Path):
        return str(value)
    if id(value) in above:
        raise _recursive(".".join(map(str, keys)))
    inside = [*above, id(value)]
    if isinstance(value, Mapping):
        return {str(key): _plain(child, (*keys, str(key)), inside) for key, child in value.items()}
    if isinstance(value, (list, tuple)):
        children = [_plain(child, (*keys, i), inside) for i, child in enumerate(value)]
        return tuple(children) if isinstance(value, tuple) else children
    where = ".".join(map(str, keys)) or "config"
    fault = Mismatch(where, "mappings, lists, texts and numbers", f"a {type(value).__name__}", "register the part")
    raise AssemblyError("a config holds plain data only", [fault])


def _recursive(where: str) -> AssemblyError:
    fault = Mismatch(where, "a value", "a reference to what holds it", "write the value out")
    return AssemblyError("a config has a cycle of references", [fault])


def _parsed(text: str, name: str, folder: Path) -> Document:
    yaml = yaml_package()
    if len(text) > _MOST_BYTES:
        fault = Mismatch(name, f"at most {_MOST_BYTES:,} characters", f"{len(text):,}", "leave out what is no config")
        raise AssemblyError("the config is too large", [fault])
    try:
        _check_depth(yaml, text, name)
        loader = yaml.SafeLoader(text)
    except yaml.YAMLError as error:
        return _parsed_json(text, name, folder, error)
    try:
        node = loader.get_single_node()
        reader = _Reader(loader)
        data = reader.read(node, (), []) if node is not None else None
    except yaml.YAMLError as error:
        return _parsed_json(text, name, folder, error)
    finally:
        loader.dispose()
    if not isinstance(data, dict):
        found = "nothing" if data is None else f"a {type(data).__name__}"
        fault = Mismatch(name, "a mapping with `input` and `backbone`", found, "backbone: {type: timm:resnet18}")
        raise AssemblyError("a config is a mapping", [fault])
    if reader.faults:
        raise AssemblyError("the config is no plain YAML", reader.faults)
    return Document(data, reader.lines, folder)


def _check_depth(yaml: ModuleType, text: str, name: str) -> None:
    """Refuse what is nested too deeply or has too many entries, before it is composed."""
    depth = count = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        kind = type(event).__name__
        count += kind in ("ScalarEvent", "AliasEvent")
        depth += kind.endswith(("MappingStartEvent", "SequenceStartEvent"))
        depth -= kind.endswith(("MappingEndEvent", "SequenceEndEvent"))
        if depth > _DEEPEST or count > 2 * _MOST_NODES:
            where = f"{name} (line {event.start_mark.line + 1})"
            fault = Mismatch(where, f"at most {_DEEPEST} levels and {_MOST_NODES} entries", "more", "a simpler config")
            raise AssemblyError("the config is too large", [fault])


def _parsed_json(text: str, name: str, folder: Path, error: Exception) -> Document:
    """JSON that YAML cannot read (tabs); else what was wrong with the YAML."""
    try:
        data = read_json(text)
        if not isinstance(data, dict):
            raise ValueError("no mapping")
        return Document(_plain(data, (), []), {}, folder)
    except ValueError:
        mark = getattr(error, "problem_mark", None)
        where = f"{name} (line {mark.line + 1})" if mark is not None else name
        problem = getattr(error, "problem", None) or str(error)
        fault = Mismatch(where, "YAML or JSON", problem, "backbone: {type: timm:resnet18}")
        raise AssemblyError("the config cannot be parsed", [fault]) from error


class _Reader:
    """Nodes of YAML made into plain data, with the line of each entry; tags beyond the plain ones are faults."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._count = 0
        self.lines: dict[Keys, int] = {}
        self.faults: list[Mismatch] = []

    def read(self, node: Any, keys: Keys, above: list[int]) -> Any:
        self._count += 1
        self.lines.setdefault(keys, node.start_mark.line + 1)
        if id(node) in above:
            raise _recursive(self._where(keys, node))
        if self._count > _MOST_NODES:
            fault = Mismatch(self._where(keys, node), f"at most {_MOST_NODES} entries", "more", "use fewer aliases")
            raise AssemblyError("the config is too large", [fault])
        match node.id:
            case "mapping":
                return self._mapping(node, keys, [*above, id(node)])
            case "sequence":
                self._refuse_tag(node, keys, "tag:yaml.org,2002:seq")
                return [self.read(child, (*keys, i), [*above, id(node)]) for i, child in enumerate(node.value)]
            case _:
                return self._scalar(node, keys)

    def _mapping(self, node: Any, keys: Keys, above: list[int]) -> dict[str, Any]:
        self._refuse_tag(node, keys, "tag:yaml.org,2002:map")
        written = [key.value for key, _ in node.value]
        self._loader.flatten_mapping(node)
        found: dict[str, Any] = {}
        for key_node, child in node.value:
            key = str(key_node.value)
            self.lines.setdefault((*keys, key), key_node.start_mark.line + 1)
            if key in found and written.count(key) > 1:
                where = self._where((*keys, key), key_node)
                self.faults.append(Mismatch(where, "every key once", f"`{key}` again", "remove one of them"))
            found[key] = self.read(child, (*keys, key), above)
        return found

    def _scalar(self, node: Any, keys: Keys) -> Any:
        plain = {f"tag:yaml.org,2002:{name}" for name in ("str", "int", "float", "bool", "null")}
        if node.tag == "tag:yaml.org,2002:timestamp":
            return node.value
        self._refuse_tag(node, keys, *plain)
        if len(node.value) > _LONGEST_NUMBER and node.tag in {f"tag:yaml.org,2002:{name}" for name in ("int", "float")}:
            said, expected = f"{len(node.value):,} characters", f"a number of at most {_LONGEST_NUMBER} characters"
            self.faults.append(Mismatch(self._where(keys, node), expected, said, "a shorter one"))
            return 0
        return self._loader.construct_object(node) if node.tag in plain else node.value

    def _refuse_tag(self, node: Any, keys: Keys, *plain: str) -> None:
        if node.tag not in plain:
            tag = node.tag.replace("tag:yaml.org,2002:", "!!")
            where, remedy = self._where(keys, node), "remove the tag; nothing in a file is run"
            self.faults.append(Mismatch(where, "plain data", f"the tag {tag}", remedy))

    def _where(self, keys: Keys, node: Any) -> str:
        return f"{'.'.join(map(str, keys)) or 'config'} (line {node.start_mark.line + 1})"
