"""Configs: what a model is made of, as frozen data that assembles to the same model again."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import AfterValidator, Field, ValidationError, field_validator
from pydantic_core import PydanticCustomError
from torch import nn

from autoadapt.assembly.documents import Document, yaml_package
from autoadapt.assembly.python_expressions import Keys
from autoadapt.contracts.facts import MadeByHand, asked_for
from autoadapt.contracts.signature import MOST_VALUES, TensorSpec
from autoadapt.errors import AssemblyError, Mismatch, SignatureError, nearest
from autoadapt.showing import Shown

Group: TypeAlias = Literal["preprocessor", "backbone", "neck", "head", "loss"]
GROUPS: tuple[Group, ...] = ("backbone", "neck", "head", "loss")
FREE = 224
"""At which size an axis is looked at that the config leaves free."""
_RESERVED = ("type", "from", "expects", "target")


def _refused(expected: str, found: str, remedy: str = "") -> PydanticCustomError:
    """A fault for a validator to raise, which `parse_config` gives its place."""
    return PydanticCustomError("config", "{expected}", {"expected": expected, "found": found, "remedy": remedy})


def _spec_of(text: str) -> TensorSpec:
    try:
        return TensorSpec.parse(text)
    except SignatureError as error:
        first = error.mismatches[0]
        raise _refused(first.expected, first.found or repr(text), first.remedy) from error


def _spec_or_none(text: str) -> str:
    return str(_spec_of(text)) if text else ""


class PartConfig(MadeByHand):
    """One part: its type, where its input comes from, and the arguments of its constructor."""

    type: str
    takes: tuple[str, ...] = Field(default=(), strict=False)
    """What it is given, under `from`: `backbone`, `backbone.c4`, `neck.p2`, `head.boxes`."""
    expects: tuple[str, ...] = Field(default=(), strict=False)
    """What each of these is, as a tensor spec; where the model gives something else, it is adapted."""
    target: str = ""
    """For losses: the name of the target they compare with."""
    arguments: dict[str, Any] = Field(default_factory=dict)

    @field_validator("expects")
    @classmethod
    def _readable(cls, texts: tuple[str, ...]) -> tuple[str, ...]:
        for text in texts:
            _spec_of(text)
        return texts

    def flat(self) -> dict[str, Any]:
        """The part as it is written in a file."""
        given: dict[str, Any] = {"type": self.type}
        if self.takes:
            given["from"] = self.takes[0] if len(self.takes) == 1 else list(self.takes)
        if self.expects:
            given["expects"] = self.expects[0] if len(self.expects) == 1 else list(self.expects)
        if self.target:
            given["target"] = self.target
        return given | self.arguments


class WeightsConfig(MadeByHand):
    """One file of weights, loaded by `autoadapt.transfer`, whose arguments these are but `from` and `to`.

    `rename` is none of them: a pattern of a stranger's file could take for ever.
    """

    path: str = Field(alias="from")
    to: str = ""
    """A part, such as `backbone` or `head.boxes`; the whole model where left out."""
    scope: str | None = None
    include: tuple[str, ...] | None = Field(default=None, strict=False)
    exclude: tuple[str, ...] | None = Field(default=None, strict=False)
    min_coverage: float = 0.0
    match: Literal["names", "order"] = "names"
    shapes: str | dict[str, str] = "skip"
    merge: str | list[str] | dict[str, float | None] = Field(default_factory=list)

    def flat(self) -> dict[str, Any]:
        """The entry as it is written in a file."""
        return self.model_dump(mode="json", by_alias=True, exclude_defaults=True)


class AdaptConfig(MadeByHand):
    """Whether adapters may be put between parts, a fixed contract for the backbone, and how it reads images."""

    enabled: bool = True
    like: str | dict[str, Any] | list[Any] | None = None
    """A signature file, or texts in containers, that the backbone must speak."""
    resolution: Literal["native", "fixed"] | None = None
    """Of a backbone that was built for one image size, as for `adapt`."""
    fit: Literal["pad", "resize"] | None = None
    """How images get a size that the backbone takes, as for `adapt`."""

    def flat(self) -> dict[str, Any] | bool:
        """As it is written in a file."""
        told = self.model_dump(exclude={"enabled"}, exclude_none=True)
        return (told | ({} if self.enabled else {"enabled": False})) if told else self.enabled


class Config(Shown, MadeByHand):
    """A whole model. `flat()` is what a YAML file of it holds."""

    schema_version: Literal[1] = 1
    input: str = "f32[B, 3, 224, 224]"
    targets: dict[str, Annotated[str, AfterValidator(_spec_or_none)]] = Field(default_factory=dict)
    """What the data gives to the losses, by name, each a tensor spec or an empty text."""
    backbone: tuple[PartConfig, ...] = Field(strict=False)
    """One; several for a comparison."""
    preprocessor: PartConfig | None = None
    """What is done to the pixels first."""
    whole: PartConfig | None = None
    """A model of mmengine's registry that puts the parts behind the backbone together itself."""
    neck: dict[str, PartConfig] = Field(default_factory=dict)
    """By name; the name of the only one is empty."""
    head: dict[str, PartConfig] = Field(default_factory=dict)
    loss: dict[str, PartConfig] = Field(default_factory=dict)
    topk: dict[str, tuple[int, ...]] = Field(default_factory=dict, strict=False)
    """Which accuracies `model.metrics` gives, by the head; the name of the only head is empty."""
    weights: tuple[WeightsConfig, ...] = Field(default=(), strict=False)
    adapt: AdaptConfig = AdaptConfig()
    init_cfg: tuple[dict[str, Any], ...] = Field(default=(), strict=False)
    """How the weights of every part start, as mmengine writes it; those of a part say more."""
    default_scope: str = ""
    """The registry of mmengine's in which bare names are looked up first."""

    @field_validator("input")
    @classmethod
    def _spec(cls, text: str) -> str:
        spec = _spec_of(text)
        count = math.prod(FREE if dim.constant is None else dim.constant for dim in spec.dims if str(dim) != "B")
        if not 0 < count <= MOST_VALUES:
            raise _refused(f"1 to {MOST_VALUES:,} values in a sample", f"{count:,}", "input: f32[B, 3, 224, 224]")
        return str(spec)

    def parts(self) -> Iterator[tuple[str, PartConfig]]:
        """Every part but the backbone by its reference: `neck`, `head.boxes`, `loss`."""
        for group in GROUPS[1:]:
            for name, part in getattr(self, group).items():
                yield reference(group, name), part

    @staticmethod
    def group(name: str) -> Group:
        """The group of a part, from its reference."""
        return next(group for group in GROUPS if group == name.partition(".")[0])

    def flat(self) -> dict[str, Any]:
        """The config as plain data, as it is written in a file."""
        backbones = [part.flat() for part in self.backbone]
        found: dict[str, Any] = {
            "input": self.input,
            "targets": dict(self.targets),
            "default_scope": self.default_scope,
        }
        found["preprocessor"] = self.preprocessor.flat() if self.preprocessor else None
        found["backbone"] = backbones[0] if len(backbones) == 1 else backbones
        found["whole"] = self.whole.flat() if self.whole else None
        for group in GROUPS[1:]:
            parts: Mapping[str, PartConfig] = getattr(self, group)
            found[group] = parts[""].flat() if "" in parts else {name: part.flat() for name, part in parts.items()}
        found["topk"] = list(self.topk[""]) if "" in self.topk else {n: list(k) for n, k in self.topk.items()}
        found["weights"] = [entry.flat() for entry in self.weights]
        found["adapt"] = self.adapt.flat() if self.adapt != AdaptConfig() else None
        found["init_cfg"] = [dict(entry) for entry in self.init_cfg]
        return {key: value for key, value in found.items() if key == "backbone" or value or value is False}


def reference(group: str, name: str) -> str:
    """How other parts call a part.

    Example:
        >>> reference("head", "boxes"), reference("head", "")
        ('head.boxes', 'head')
    """
    return f"{group}.{name}" if name else group


def parse_config(document: Document, known: Sequence[Mismatch] = ()) -> Config:
    """Check the shape of a config.

    Raises:
        AssemblyError: With every fault, each with its path and line.
    """
    faults = list(known)
    data = _normal(document, faults)
    _refuse_many(data)
    try:
        config = Config.model_validate(data)
    except ValidationError as error:
        faults += [_fault(document, dict(detail)) for detail in error.errors()]
    else:
        if not faults:
            return config
    raise AssemblyError(counted(len(faults)), faults)


MOST_PARTS = 256
"""Each may stand behind the one before it, and Python follows such a chain call by call."""


def _refuse_many(data: Any) -> None:
    groups = [data.get(group) for group in GROUPS] if isinstance(data, dict) else []
    count = sum(len(parts) for parts in groups if isinstance(parts, (dict, list)))
    if count > MOST_PARTS:
        fault = Mismatch("config", f"at most {MOST_PARTS} parts", f"{count:,}", "a part of your own that holds many")
        raise AssemblyError("the config is too large", [fault])


def counted(count: int) -> str:
    """The summary of an error with that many faults."""
    return "the config has a fault" if count == 1 else f"the config has {count} faults"


def _normal(document: Document, faults: list[Mismatch]) -> Any:
    """Every way to write a thing brought to one: parts by name, backbones in a list, `adapt` as a mapping."""
    data = document.data
    if not isinstance(data, Mapping):
        return data
    found: dict[str, Any] = dict(data)
    backbone = found.get("backbone")
    if backbone is not None:
        backbones = backbone if isinstance(backbone, (list, tuple)) else [backbone]
        found["backbone"] = [_part(part) for part in backbones]
    for single in ("preprocessor", "whole"):
        if found.get(single) is not None:
            found[single] = _part(found[single])
    for group in GROUPS[1:]:
        if group in found:
            found[group] = _named(found[group], group, document, faults)
    if "topk" in found:
        counts = found["topk"] if isinstance(found["topk"], Mapping) else {"": found["topk"]}
        found["topk"] = {name: tuple(each) if isinstance(each, list) else each for name, each in counts.items()}
    if isinstance(found.get("adapt"), bool):
        found["adapt"] = {"enabled": found["adapt"]}
    if isinstance(found.get("targets"), list):
        found["targets"] = dict.fromkeys(map(str, found["targets"]), "")
    if isinstance(found.get("init_cfg"), Mapping):
        found["init_cfg"] = [found["init_cfg"]]
    if isinstance(found.get("weights"), (str, Mapping)):
        found["weights"] = [found["weights"]]
    return found


def _named(value: Any, group: str, document: Document, faults: list[Mismatch]) -> Any:
    if not isinstance(value, Mapping) or "type" in value or not value:
        return {} if value is None else {"": _part(value)}
    if not all(isinstance(part, (Mapping, str)) for part in value.values()):
        return {"": _part(value)}  # a part without its type, rather than parts with names
    for name in map(str, value):
        if not name.isidentifier() or hasattr(nn.Module, name):
            where = document.where((group, name))
            remedy = "".join(char if char.isalnum() else "_" for char in name)
            expected = "a name of letters, digits and underscores that modules do not use themselves"
            faults.append(Mismatch(where, expected, repr(name), remedy if remedy != name else f"{name}_"))
    return {str(name): _part(part) for name, part in value.items()}


def _part(value: Any) -> Any:
    """A part's reserved keys apart from the arguments of its constructor; a text alone is its type."""
    if isinstance(value, str):
        return {"type": value}
    if not isinstance(value, Mapping):
        return value
    found = {key: value[key] for key in ("type", "target") if key in value}
    for key, name in (("from", "takes"), ("expects", "expects")):
        if key in value:
            found[name] = [value[key]] if isinstance(value[key], str) else value[key]
    found["arguments"] = {key: child for key, child in value.items() if key not in _RESERVED}
    return found


_WRITTEN = {"takes": "from"}
_FIELDS: dict[str, Sequence[str]] = {
    "": tuple(name for name in Config.model_fields if name != "schema_version"),
    "weights": ("from", "to", "scope", "include", "exclude", "min_coverage"),
    "adapt": ("like", "resolution", "fit"),
}


def _fault(document: Document, detail: Mapping[str, Any]) -> Mismatch:
    keys = _keys(document, detail["loc"])
    where = document.where(keys)
    match detail["type"]:
        case "missing":
            return Mismatch(where, "a value", "nothing", _example(keys))
        case "extra_forbidden":
            fields = _FIELDS.get(str(keys[0]) if len(keys) > 1 else "", ())
            said = str(detail["loc"][-1])
            near = nearest(said, fields, count=1)
            return Mismatch(where, f"one of {', '.join(fields)}", said, near[0] if near else "remove it")
        case "model_type" | "dict_type":
            return Mismatch(where, "a mapping", repr(detail["input"]), _example(keys))
        case _:
            told, example = detail.get("ctx", {}), _example(keys, detail["input"])
            found = told.get("found", repr(detail["input"]))
            return Mismatch(where, asked_for(detail), found, example or told.get("remedy", ""))


def _keys(document: Document, loc: tuple[str | int, ...]) -> Keys:
    """The place in the document that a place in the normal form comes from."""
    keys = tuple(_WRITTEN.get(str(key), key) for key in loc if key not in ("", "arguments"))
    single = isinstance(document.data, Mapping) and not isinstance(document.data.get("backbone"), (list, tuple))
    if len(keys) > 1 and keys[0] == "backbone" and single:
        keys = ("backbone", *keys[2:])
    return tuple(key for key in keys if not (str(key).startswith(("function-", "str", "dict[", "list["))))


def _example(keys: Keys, found: object = None) -> str:
    last, first = (str(keys[-1]), str(keys[0])) if keys else ("", "")
    if last == "type" or last in GROUPS:
        parts = {"backbone": "timm:resnet18", "neck": "GlobalAveragePooling", "head": "LinearClsHead"}
        return f"{first}: {{type: {parts.get(first, 'CrossEntropyLoss')}}}"
    if first == "input":
        shape = re.split(r"[\sx*,]+", found) if isinstance(found, str) and re.fullmatch(r"[\d\sx*,]+", found) else found
        sizes = shape if isinstance(shape, (list, tuple)) and len(shape) > 1 else (3, 224, 224)
        return f"input: f32[{', '.join(map(str, ['B', *sizes[len(sizes) != 3 :]]))}]"  # three are those of one image
    return "weights: [{from: checkpoint.pth, to: backbone}]" if first == "weights" else ""


def write_yaml(config: Config) -> str:
    """A config as the YAML text that assembles to the same model."""
    text: str = yaml_package().safe_dump(config.flat(), sort_keys=False, default_flow_style=None, width=68)
    return text
