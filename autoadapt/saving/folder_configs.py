"""Folder configs: everything about a saved module that is not a tensor, as data with a checksum."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from autoadapt.adapting.planning import Plan
from autoadapt.contracts.facts import Made, first_fault, interruptible
from autoadapt.contracts.origins import Verb
from autoadapt.contracts.trees import Container, Tree, rebuild
from autoadapt.errors import AdaptError, Mismatch, SavingError
from autoadapt.files.reading import one_line, read_json, read_text
from autoadapt.versions import VERSION, version_key

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
FORMAT = "autoadapt.AdaptedModule"
SCHEMA = 1

Scope: TypeAlias = Literal["all", "adapters"]


class Frozen(BaseModel):
    """A fact in a config, with no field but those that it names."""

    model_config = ConfigDict(frozen=True, extra="forbid", defer_build=True)


class Source(Frozen):
    """The call of `autoadapt.load` or `load_backbone` that makes the backbone anew."""

    verb: Verb
    name: str
    pretrained: bool
    """Whether it had published weights at first; they are never loaded to be replaced."""
    options: Tree

    def call(self) -> str:
        """The call as text, to paste."""
        options = {**({"pretrained": True} if self.pretrained else {}), **rebuild(self.options, [])}
        given = "".join(f", {name}={value!r}" for name, value in options.items())
        return f'aa.{self.verb}("{self.name}"{given})'


class Weights(Frozen):
    """What stands in the file of weights."""

    file: Literal["model.safetensors"] = "model.safetensors"
    sha256: str
    scope: Scope
    backbone: str = ""
    """Checksum of the weights that the adapters were fitted to, where only the adapters are saved."""
    tied: dict[str, str] = Field(default_factory=dict)
    """Tensors that are the same memory as another one: name -> the name that it is saved under."""
    apart: tuple[str, ...] = ()
    """Tied names that are a parameter or buffer of their own, over the memory of another."""
    unkept: tuple[str, ...] = ()
    """Buffers that a state dict leaves out: caches and tables that a module may make anew by itself."""
    channels_last: tuple[str, ...] = ()
    """Parts whose convolutions lie in memory with channels last."""


class Leaf(Frozen):
    """What came out in one place of the outputs."""

    dtype: str
    shape: tuple[int, ...]
    scale: float | None = None
    """Root of the mean square; None where it is no finite number, or values are not compared."""
    samples: tuple[float, ...] = ()


class Witness(Frozen):
    """A run on invented inputs before saving; a restored module must come to the same."""

    sizes: dict[str, int]
    leaves: dict[str, Leaf]


class Fact(Frozen):
    """An attribute that consumers read off the module."""

    form: Literal["value", "method", "feature_info", "enum"] = "value"
    """`method` is called without arguments; `feature_info` is timm's class of that name; `enum` a class and a value."""
    value: Tree


class Config(Frozen):
    """A saved module without its tensors."""

    format: Literal["autoadapt.AdaptedModule"] = "autoadapt.AdaptedModule"
    schema_version: Literal[1] = 1
    versions: dict[str, str]
    """Of autoadapt, torch and the package that the backbone's class comes from."""
    backbone: str
    """Python path of the backbone's class."""
    source: Source | None
    """None where autoadapt did not load the backbone by name: then it must be given to `restore`."""
    weights: Weights
    training: dict[str, bool]
    """The mode of the module, and of each part that is in another mode than what it stands in."""
    frozen: tuple[str, ...] = ()
    """Parameters, and parts with all their parameters, that take no gradient."""
    facts: dict[str, Fact] = Field(default_factory=dict)
    witness: Witness | None = None
    made: Made | None = Field(default=None, exclude_if=lambda made: made is None)
    """When it was saved, and by which command; None in folders of older versions."""
    plan: Plan

    def text(self) -> str:
        """The file: JSON, one fact a line, with a checksum of all others."""
        with interruptible():
            content = json.loads(self.model_dump_json())
        rows = {**content, "checksum": checksum(content)}
        return "{\n" + ",\n".join(f'"{key}": {json.dumps(value)}' for key, value in rows.items()) + "\n}\n"

    @property
    def shown(self) -> Plan:
        """Its plan, with when it was saved and whose weights are in the folder."""
        source, told = self.source, "made without published ones, so random unless trained or loaded"
        is_random = source is not None and not source.pretrained and self.weights.scope == "all"
        remarks = [f"weights of {source.name} in this folder: {told}"] if source is not None and is_random else []
        return self.plan.model_copy(update={"made": self.made, "remarks": (*self.plan.remarks, *remarks)})

    @classmethod
    def read(cls, folder: Path) -> Config:
        """Read a saved config; nothing that it names is looked up.

        Raises:
            SavingError: There is none, or it is damaged, was changed, or is of another version.
        """
        path = folder / CONFIG
        content = _json(path)
        _check_kind(path, content)
        noted = content.pop("checksum", None)
        if noted != checksum(content):
            why = "a plan that somebody edits goes into aa.build(new, plan), which checks what it does"
            fault = Mismatch(str(path), f"a config with checksum {noted}", "other content", "aa.save(net, folder)", why)
            raise SavingError(f"{path} was changed after it was saved", [fault])
        try:
            read = cls.model_validate(content)
            if loose := [*read.plan.source.loose_references(), *read.plan.target.loose_references()]:
                raise SavingError(f"{loose[0].where} names {loose[0].found}, which is not there", loose[:6])
            return read
        except (ValidationError, AdaptError, RecursionError, ValueError) as error:
            found = error.summary if isinstance(error, AdaptError) else one_line(error)
            found = first_fault(error) if isinstance(error, ValidationError) else found
            fault = Mismatch(str(path), f"a config of schema version {SCHEMA}", found, "aa.save(net, folder)")
            raise SavingError(f"{path} is malformed", [fault]) from error


def is_trusted(container: Container) -> bool:
    """Whether a class of outputs may be made without the caller's word."""
    package = container.type.partition(".")[0].partition(":")[0]
    return package in _TRUSTED and container.kind in ("model_output", "named_tuple")


_TRUSTED = ("torch", "torchvision", "timm", "transformers", "segmentation_models_pytorch")
"""Packages whose classes of outputs may be made; they are what autoadapt's own sources come from."""


def plan_classes(plan: Plan) -> Iterator[Container]:
    """The containers of classes of their own that a plan makes."""
    left: list[Tree] = [plan.target.outputs.tree, plan.target.inputs.tree, plan.source.inputs.tree]
    while left:
        tree = left.pop()
        if isinstance(tree, Container):
            left += tree.children
            if tree.type:
                yield tree


def checksum(content: Mapping[str, Any]) -> str:
    """A checksum of JSON that does not depend on how it is laid out."""
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _json(path: Path) -> dict[str, Any]:
    if not os.path.exists(path):
        beside = path.parent.glob(f"*/{CONFIG}") if os.path.isdir(path.parent) else ()
        near = sorted(str(found.parent) for found in beside)[:3]
        remedy = "\n".join(f'aa.restore("{folder}")' for folder in near) or f'aa.save(net, "{path.parent}")'
        fault = Mismatch(str(path), "a folder that aa.save wrote", f"no {CONFIG}", remedy)
        raise SavingError(f"nothing is saved in {path.parent}", [fault])
    try:
        content = read_json(read_text(path, "JSON", "copy or save it again", SavingError))
    except ValueError as error:
        fault = Mismatch(str(path), "JSON", one_line(error), "copy or save it again")
        raise SavingError(f"{path} cannot be read", [fault]) from error
    return content if isinstance(content, dict) else {}


def _check_kind(path: Path, content: Mapping[str, Any]) -> None:
    """Refuse other formats and other versions, before anything else is read of them."""
    if content.get("format") != FORMAT:
        fault = Mismatch(str(path), f'"format": "{FORMAT}"', repr(content.get("format")), "aa.save(net, folder)")
        raise SavingError(f"{path} is no config of autoadapt", [fault])
    versions = content.get("versions")
    written = str(versions.get("autoadapt", "")) if isinstance(versions, dict) else ""
    if content.get("schema_version") != SCHEMA or version_key(written) > version_key(VERSION):
        found = f"schema version {content.get('schema_version')}, written by autoadapt {written or 'unknown'}"
        expected = f"schema version {SCHEMA}, autoadapt {VERSION} or older"
        fault = Mismatch(str(path), expected, found, "pip install -U autoadapt")
        raise SavingError(f"{path} is of another version of autoadapt", [fault])
