"""Shown files: what a folder, an exported program or a JSON file holds, told by its fields; no code of it is run."""

from __future__ import annotations

import os
import shlex
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from autoadapt.cli.named_models import saved_parts
from autoadapt.cli.typed_sources import CONFIG, WEIGHTS, WHOLE, checked_source, is_path, is_saved, refuse_missing
from autoadapt.errors import ExportError, Mismatch, SourceError

if TYPE_CHECKING:
    from autoadapt.cli.results import Whole
    from autoadapt.contracts.facts import Dated

_EXPECTED = "a folder of adapt --out, a file of export, or a signature, plan or other result (JSON)"
_PROGRAMS = (".pt2", ".onnx", ".ts", ".pt")
_MAKE = "autoadapt capture MODEL --out signature.json"
_KINDS = {
    "routes": "autoadapt.adapting.planning:Plan",
    "verification": "autoadapt.cli.results:Adapted",
    "refused": "autoadapt.swapping.results:Swap",
    "checks": "autoadapt.adapting.verification:Verification",
    "rows": "autoadapt.ranking:Ranking",
    "targets": "autoadapt.weights:Transfer",
    "solver": "autoadapt.calibration:Calibration",
    "runtime": "autoadapt.saving.exporting:Exported",
    "outputs": "autoadapt.contracts.signature:Signature",
}
"""By a field that results of this kind have, and none below: its class."""


def whole_of(folder: Path) -> Whole | None:
    """What a folder says of a whole model; None where it is none.

    Raises:
        SavingError: It is malformed.
    """
    from autoadapt.cli.results import Whole
    from autoadapt.saving.folder_configs import Config
    from autoadapt.saving.whole_configs import read_whole

    parts = saved_parts(str(folder))
    if not parts:
        return None
    config = read_whole(folder)
    plans = {place: Config.read(inside).shown for place, inside in parts.items()}
    made = next((plan.made for plan in plans.values()), None)
    return Whole(made=made, model=config.model, source=config.source, parts=plans)


def held_by(path: Path) -> Dated:
    """The plan of a folder, what a file of `export` says of itself, or the result in a JSON file.

    Raises:
        AdaptError: There is nothing that can be shown.
    """
    from autoadapt.files.reading import read_json, read_text
    from autoadapt.saving.folder_configs import Config

    text = str(path)
    if is_saved(text):
        return Config.read(path).shown
    if os.path.isdir(path):
        checked_source(text)
    if not os.path.exists(path) and not is_path(text) and ":" in text:
        fault = Mismatch(text, _EXPECTED, "the name of a model", f"autoadapt capture {shlex.quote(text)}")
        raise SourceError(f"{path} is not on this disk", [fault])
    refuse_missing(text, _EXPECTED, (".json", *_PROGRAMS))
    if path.suffix in _PROGRAMS:
        return _recorded(path)
    _refuse_programs(path)
    try:
        fields = read_json(read_text(path, _EXPECTED, _MAKE, SourceError))
        kind = next((name for field, name in _KINDS.items() if field in fields), "")
        if not kind or not isinstance(fields, Mapping):
            raise ValueError("none of the fields is known")
        return _read(path, kind)
    except (ValueError, TypeError, RecursionError) as error:
        remedy = f"autoadapt show {shlex.quote(str(path.parent))}" if path.name in (CONFIG, WHOLE) else _MAKE
        fault = Mismatch(text, _EXPECTED, "something else", remedy)
        raise SourceError(f"{path} holds nothing that can be shown", [fault]) from error


def _recorded(path: Path) -> Dated:
    """What a program says of itself; one that says nothing is refused for what it is."""
    from autoadapt.saving.exporting.records import record_of

    try:
        return record_of(path)
    except ExportError:
        _refuse_programs(path)
        raise


def _read(path: Path, kind: str) -> Dated:
    from autoadapt.contracts.signature import Signature

    module, _, name = kind.partition(":")
    made: Any = getattr(import_module(module), name)
    return Signature.load(path) if made is Signature else made.model_validate_json(path.read_text(encoding="utf-8"))


def _refuse_programs(path: Path) -> None:
    """Refuse what is code, a program or weights, with the command that takes it."""
    if path.suffix in WEIGHTS:
        fault = Mismatch(str(path), _EXPECTED, "weights", f"autoadapt transfer {shlex.quote(str(path))} MODEL")
        raise SourceError(f"{path} is not data that can be shown", [fault])
    if path.suffix not in (".pt2", ".py"):
        return
    source = shlex.quote(f"{path}:NAME" if path.suffix == ".py" and not _is_of_adapt(path) else str(path))
    allowed = f" --allow {shlex.quote(str(path))}" if path.suffix == ".py" else ""
    remedy = f"autoadapt capture {source}{allowed} --input 'f32[2, 3, 224, 224]'"
    raise SourceError(
        f"{path} is not data that can be shown", [Mismatch(str(path), _EXPECTED, "a program or code", remedy)]
    )


def _is_of_adapt(path: Path) -> bool:
    """Whether a file of code is one that `adapt --source` wrote."""
    with path.open(encoding="utf-8", errors="replace") as file:
        return "\nclass Adapted(" in file.read(1 << 20)
