"""Configs of whole models: what a bigger model is besides its tensors, and where its adapted parts stand, as JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError, model_validator

from autoadapt.contracts.facts import first_fault, interruptible
from autoadapt.errors import AdaptError, Mismatch, SavingError
from autoadapt.files.reading import one_line, read_json, read_text
from autoadapt.saving.folder_configs import Frozen, checksum
from autoadapt.saving.module_settings import LONGEST
from autoadapt.swapping.folding import Folding
from autoadapt.swapping.passes import Handing

WHOLE = "model.json"
_MOST_PARTS = 256
_SPEC = r"^([A-Za-z_]\w{0,80}=)?[a-z]{1,8}\d{0,3}\w{0,8}\[[\d, ]{0,80}\]$"
"""A dtype and a shape, perhaps after the name of an argument; no file."""


class Place(Frozen):
    """Where an adapted part stands."""

    path: str
    also: tuple[str, ...] = Field(default=(), max_length=_MOST_PARTS)
    """Further places at which the very same part stands."""
    folder: str = Field(pattern=r"^parts/[0-9]+$")
    config: str
    """SHA-256 of its config."""
    borrowed: dict[str, bool] = Field(default_factory=dict)
    """Functions of the old module's class that run on it, by name; whether each is a property."""
    region: Handing | None = None
    """Of a swapped region, what its modules hand on."""
    folding: Folding | None = None
    """Of a folded module, which layers of the model read its outputs."""

    @model_validator(mode="after")
    def _stands_first(self) -> Place:
        if self.region is not None and self.region.paths[0] != self.path:
            raise ValueError(f"{self.path} is not the first module of its region")
        return self

    @property
    def members(self) -> tuple[str, ...]:
        """Where modules are replaced."""
        return (*((self.path,) if self.region is None else self.region.paths), *self.also)


class WholeConfig(Frozen):
    """A bigger model without its tensors."""

    format: Literal["autoadapt.Model"] = "autoadapt.Model"
    schema_version: Literal[1] = 1
    model: str
    """Python path of its class."""
    source: str = ""
    """The name that `autoadapt.load` made it by, without options; empty where it was made otherwise."""
    parts: tuple[Place, ...] = Field(max_length=_MOST_PARTS)
    sha256: str = ""
    """Of the file of weights."""
    call: tuple[Annotated[str, Field(pattern=_SPEC)], ...] = Field(default=(), max_length=_MOST_PARTS)
    """The shapes that it was called with at its last swap, as commands take them: `f32[2, 3, 64, 64]`."""
    kinds: dict[str, str] = Field(default_factory=dict)
    """Classes of the modules outside of the parts, by path; none in folders of earlier versions."""
    settings: dict[str, dict[str, Annotated[str, Field(max_length=LONGEST)]]] = Field(default_factory=dict)
    """Their settings, by path and name."""
    tied: dict[str, str] = Field(default_factory=dict)
    """Tensors that are the same memory as another one, in the parts too: name -> the first name."""
    apart: tuple[str, ...] = ()
    """Tied names that are a parameter or buffer of their own, over the memory of another."""
    training: dict[str, bool]
    frozen: tuple[str, ...] = ()

    @property
    def foldings(self) -> list[tuple[str, Folding]]:
        """What was folded at which part, in the order in which it was."""
        found = [(one.path, one.folding) for one in self.parts if one.folding is not None]
        return sorted(found, key=lambda one: one[1].number)

    @model_validator(mode="after")
    def _name_each_once(self) -> WholeConfig:
        for named in ([one.path for one in self.parts], [one.folder for one in self.parts]):
            if len(set(named)) < len(named):
                raise ValueError(f"{max(named, key=named.count)} stands in two parts")
        return self

    def text(self) -> str:
        """The file: JSON with a checksum of all facts."""
        with interruptible():
            content = json.loads(self.model_dump_json())
        return json.dumps({**content, "checksum": checksum(content)}, indent=1) + "\n"


def read_whole(folder: Path) -> WholeConfig:
    """What a folder says of a whole model.

    Raises:
        SavingError: It is malformed.
    """
    text = read_text(folder / WHOLE, "a config of a whole model", "copy or save it again", SavingError)
    try:
        content = read_json(text)
        noted = content.pop("checksum", None) if isinstance(content, dict) else None
        if noted is None:
            raise ValueError("it has no checksum")
        if noted != checksum(content):
            fault = Mismatch(str(folder / WHOLE), f"a config with checksum {noted}", "other content", "save it again")
            raise SavingError(f"{folder / WHOLE} was changed after it was saved", [fault])
        return WholeConfig.model_validate(content)
    except SavingError:
        raise
    except (ValidationError, AdaptError, ValueError) as error:
        found = first_fault(error) if isinstance(error, ValidationError) else one_line(error)
        fault = Mismatch(str(folder / WHOLE), "a config of a whole model", found, "save it again")
        raise SavingError(f"{folder / WHOLE} is malformed", [fault]) from error
