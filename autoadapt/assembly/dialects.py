"""Dialects: other libraries' names for backbones, and what their arguments are called here, as data in a file.

`mm_names.json` is the dialect of the OpenMMLab configs; `read_dialect` adds one of your own.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from autoadapt.assembly.published_backbones import PublishedBackbone, Recipe, made
from autoadapt.assembly.registry import PARTS, Registry
from autoadapt.contracts.facts import MadeByHand
from autoadapt.errors import AssemblyError, Mismatch

_SHARED: Mapping[str, Any] = {"out_indices": None, "frozen_stages": -1, "norm_eval": False, "norm_cfg": None}
"""Arguments that every backbone of a dialect takes, with their defaults."""


class DialectName(MadeByHand):
    """One name of a dialect: the models of a zoo that it stands for, and what its arguments become there."""

    source: Literal["timm", "torchvision"]
    model: str = ""
    """Of the zoo, where no argument chooses one."""
    chosen_by: str = ""
    """The argument that chooses the model, such as `depth`."""
    default_choice: str = ""
    choices: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """The `model` for each value of that argument, with options; `{}` stands for one that is spelled out."""
    architecture: dict[str, str] = Field(default_factory=dict)
    """What the entries of a spelled-out architecture become."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Given to every model of this name."""
    arguments: dict[str, str | dict[str, dict[str, Any]]] = Field(default_factory=dict)
    """What an argument becomes: another name; options for each value, as JSON; nothing (an empty text)."""
    implied: dict[str, dict[str, Any]] = Field(default_factory=dict)
    """Options that an argument brings where it is given and no other argument says them."""
    norms_each: bool = False
    """Whether every level that is returned has a norm of its own."""
    needs: tuple[tuple[str, str, str, str], ...] = ()
    """Values that the zoo has only together: an argument, its value, another argument, its value, as JSON."""
    reads: Literal["levels", "tokens"] = "levels"
    out_indices: tuple[int, ...] = ()
    levels: tuple[int, ...] = ()
    """Which level of the zoo's model each of `out_indices` counts."""
    stages: tuple[tuple[str, ...], ...] = ()
    """The modules of each stage, the stem first: what `frozen_stages` counts."""
    goes_on: tuple[str, ...] = ()
    """Of these, the modules whose weights alone are frozen; their norms go on with their running averages."""
    norm: str = ""
    """The argument for layers of normalisation; where empty, `norm_cfg` must be a LayerNorm."""


def read_dialect(source: str | Path | Mapping[str, Any], registry: Registry = PARTS) -> tuple[str, ...]:
    """Make the backbones of a dialect known to configs; the names that were added.

    Args:
        source: A JSON file, or what it holds: entries as `DialectName`, by name. An entry with `like` starts from
            another of the same file, and changes what it says itself.
        registry: Where the names are added.

    Raises:
        AssemblyError: A name is taken already.

    Example:
        >>> entry = {"source": "timm", "model": "resnet10t", "out_indices": [3], "levels": [1, 2, 3, 4]}
        >>> read_dialect({"TenLayers": entry}, Registry())
        ('TenLayers',)
    """
    table = source if isinstance(source, Mapping) else json.loads(Path(source).read_text(encoding="utf-8"))
    for name in table:
        entry = DialectName.model_validate(_inherited(table, name))
        registry.register("backbone", name)(_Named(name, entry))
    return tuple(table)


def _inherited(table: Mapping[str, Any], name: str) -> dict[str, Any]:
    entry = dict(table[name])
    base = dict(table[entry.pop("like")]) if "like" in entry else {}
    for key in ("arguments", "options"):
        entry[key] = {**base.get(key, {}), **entry.get(key, {})}
    return base | entry


class _Named:
    """A constructor of a backbone under the name and with the arguments of a dialect."""

    def __init__(self, name: str, entry: DialectName) -> None:
        self._name, self._entry = name, entry
        self.__name__ = self.__qualname__ = name
        named = dict.fromkeys(filter(None, [entry.chosen_by, *entry.arguments, *_SHARED]))
        if entry.chosen_by and not entry.default_choice:
            named[entry.chosen_by] = inspect.Parameter.empty
        parameters = [inspect.Parameter(key, inspect.Parameter.KEYWORD_ONLY, default=it) for key, it in named.items()]
        self.__signature__ = inspect.Signature(parameters, return_annotation=PublishedBackbone)

    def __call__(self, **arguments: Any) -> PublishedBackbone:
        return made(self._recipe(arguments))

    def _recipe(self, arguments: Mapping[str, Any]) -> Recipe:
        entry, faults = self._entry, list[Mismatch]()
        options = self._chosen(arguments, faults)
        for key in entry.implied.keys() & arguments.keys():
            options |= entry.implied[key]
        for key, value in arguments.items():
            meaning = entry.arguments.get(key)
            if isinstance(meaning, str):
                options |= {meaning: value} if meaning else {}
            elif meaning is not None:
                options |= self._meant(key, value, meaning, faults)
        faults += self._alone(arguments)
        if faults:
            raise AssemblyError(f"{self._name} cannot be made", faults)
        levels = tuple(options.pop("levels", entry.levels))
        default, given = tuple(options.pop("out_indices", entry.out_indices)), arguments.get("out_indices")
        shared = {key: arguments.get(key, value) for key, value in _SHARED.items() if key != "out_indices"}
        stages = tuple(map(tuple, options.pop("stages", entry.stages)))
        return Recipe(
            name=self._name,
            source=entry.source,
            model=options.pop("model", entry.model),
            options=options,
            reads=entry.reads,
            out_indices=default if given is None else (given,) if isinstance(given, int) else tuple(given),
            num_stages=arguments.get("num_stages") or len(levels),
            levels=levels,
            stages=stages,
            goes_on=entry.goes_on,
            norm=entry.norm,
            norms_each=entry.norms_each,
            **shared,
        )

    def _alone(self, arguments: Mapping[str, Any]) -> list[Mismatch]:
        """Values without those that the zoo's model has with them."""
        written = {key: json.dumps(value) for key, value in arguments.items()}
        return [
            Mismatch(other, f"{needed} beside {key}: {value}", written.get(other, "left out"), f"{other}: {needed}")
            for key, value, other, needed in self._entry.needs
            if written.get(key) == value and written.get(other) != needed
        ]

    def _chosen(self, arguments: Mapping[str, Any], faults: list[Mismatch]) -> dict[str, Any]:
        """The model and its options, by the argument that chooses."""
        entry = self._entry
        value = arguments.get(entry.chosen_by, entry.default_choice) if entry.chosen_by else ""
        if not entry.chosen_by:
            return dict(entry.options)
        if isinstance(value, Mapping) and "{}" in entry.choices:
            return entry.options | entry.choices["{}"] | self._spelled_out(value, faults)
        if str(value) not in entry.choices:
            known = ", ".join(key for key in entry.choices if key != "{}")
            faults.append(Mismatch(entry.chosen_by, known, repr(value), _nearest(value, entry.choices)))
            return {}
        return entry.options | entry.choices[str(value)]

    def _spelled_out(self, value: Mapping[str, Any], faults: list[Mismatch]) -> dict[str, Any]:
        known = self._entry.architecture
        chosen_by, allowed = self._entry.chosen_by, ", ".join(known)
        faults += [Mismatch(f"{chosen_by}.{key}", allowed, key, "remove it") for key in value if key not in known]
        found = {known[key]: given for key, given in value.items() if key in known}
        if "feedforward" in found and "embed_dim" in found:
            found["mlp_ratio"] = found.pop("feedforward") / found["embed_dim"]
        return found

    def _meant(
        self, key: str, value: Any, meaning: Mapping[str, Mapping[str, Any]], faults: list[Mismatch]
    ) -> dict[str, Any]:
        written = value if isinstance(value, str) else json.dumps(value)
        if written not in meaning:
            faults.append(Mismatch(key, " or ".join(meaning), written, f"{key}: {next(iter(meaning))}"))
        return dict(meaning.get(written, {}))


def _nearest(value: Any, choices: Mapping[str, Any]) -> str:
    """The choice that was meant: the nearest number, or the first."""
    numbers = [int(key) for key in choices if key.isdigit()]
    if numbers and isinstance(value, int):
        return str(min(numbers, key=lambda number: abs(number - value)))
    return next(iter(choices))


read_dialect(json.loads(files("autoadapt.assembly").joinpath("mm_names.json").read_text(encoding="utf-8")))
