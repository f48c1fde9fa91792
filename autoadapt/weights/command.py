"""The command: `transfer` for a shell, where every argument is text."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal

from safetensors.torch import save_model
from torch import nn

from autoadapt.errors import Mismatch, TransferError
from autoadapt.files.writing import check_place, write_file
from autoadapt.weights.results import Transfer
from autoadapt.weights.transferring import transfer

_GRID = re.compile(r"(\d+)x(\d+):(\d+)x(\d+):(\d+)")


def transfer_command(
    checkpoint: Path,
    model: nn.Module,
    *,
    scope: str | None = None,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    rename: Sequence[str] = (),
    match: Literal["names", "order"] = "names",
    shapes: Sequence[str] = (),
    keep: Sequence[str] = (),
    grid: Sequence[str] = (),
    merge: Sequence[str] = (),
    min_coverage: float = 0.0,
    expect_missing: Sequence[str] = (),
    expect_unexpected: Sequence[str] = (),
    dry_run: bool = False,
    output: Path | None = None,
    report: Path | None = None,
    told: Callable[[Transfer], None] = lambda result: None,
) -> Transfer:
    """Load a file into a model, and save what came of it.

    Args:
        checkpoint: The file.
        model: Takes the weights.
        scope: As of `transfer`, and so all that are not named here.
        include: Patterns; none means everything.
        exclude: Patterns.
        rename: `REGEX=REPLACEMENT`, or the name of a dialect.
        match: `names` or `order`.
        shapes: `PATTERN=POLICY`, or a policy for everything.
        keep: `PATTERN=coco->crowdpose`, or `PATTERN=5,6,-,7`: old indices, and a stroke for a row without one.
        grid: `PATTERN=12x101:12x41:2`: old grid, new grid, tokens in front.
        merge: `fused`, `lora`, `lora=2.0`, or `quantised`.
        min_coverage: Share of the parameters.
        expect_missing: Patterns.
        expect_unexpected: Patterns.
        dry_run: Report only, even where an output is named.
        output: Where the loaded model's weights go, as safetensors; nothing means a dry run.
        report: Where the report goes, as JSON.
        told: Called with the report before anything is written, which may fail.

    Returns:
        The report.

    Raises:
        SourceError: As of `transfer`.
        TransferError: As of `transfer`, and if a text is malformed or there is no place for a file.
    """
    _refuse_places(checkpoint, output, report)
    single = shapes[0] if len(shapes) == 1 and "=" not in shapes[0] else None
    result = transfer(
        checkpoint,
        model,
        scope=scope,
        include=include or None,
        exclude=exclude,
        rename=[_pair("rename", text) if "=" in text else text for text in rename],
        match=match,
        shapes=single or dict(_pair("shapes", text) for text in shapes),
        keep=dict(map(_keep, keep)),
        grid=dict(map(_grid, grid)),
        merge=dict(map(_merge, merge)),
        min_coverage=min_coverage,
        expect_missing=expect_missing,
        expect_unexpected=expect_unexpected,
        dry_run=dry_run or output is None,
    )
    told(result)
    if output is not None and not dry_run:
        write_file(output, lambda made: save_model(model, str(made)))
    if report is not None:
        write_file(report, result.model_dump_json(indent=2))
    return result


def _refuse_places(checkpoint: Path, output: Path | None, report: Path | None) -> None:
    """Make sure that what comes of a load can be saved, before it is begun."""
    faults = []
    for argument, path in (("output", output), ("report", report)):
        if path is None:
            continue
        where = f"--{argument} {path}"
        if os.path.exists(path) and os.path.exists(checkpoint) and path.samefile(checkpoint):
            faults.append(Mismatch(where, "a file of its own", "the checkpoint"))
        else:
            check_place(path, where, TransferError)
    if faults:
        raise TransferError("there is no place for a file", faults)


def _keep(text: str) -> tuple[str, str | list[int | None]]:
    pattern, value = _pair("keep", text)
    rows = [row.strip() for row in value.split(",")]
    if all(row == "-" or row.isdigit() for row in rows):
        return pattern, [None if row == "-" else int(row) for row in rows]
    return pattern, value


def _grid(text: str) -> tuple[str, tuple[list[int], list[int], int]]:
    pattern, value = _pair("grid", text)
    found = _GRID.fullmatch(value)
    if found is None:
        fault = Mismatch(f"--grid {text}", "PATTERN=OLD:NEW:TOKENS", repr(value), "--grid 'pos_embed=12x101:12x41:2'")
        raise TransferError("an argument is malformed", [fault])
    a, b, c, d, tokens = map(int, found.groups())
    return pattern, ([a, b], [c, d], tokens)


def _merge(text: str) -> tuple[str, float | None]:
    kind, sign, scale = text.partition("=")
    try:
        return kind, float(scale) if sign else None
    except ValueError as error:
        fault = Mismatch(f"--merge {text}", "KIND, or KIND=SCALE", repr(scale), "--merge lora=2.0")
        raise TransferError("an argument is malformed", [fault]) from error


def _pair(argument: str, text: str) -> tuple[str, str]:
    left, sign, right = text.rpartition("=")
    if not (sign and left):
        fault = Mismatch(f"--{argument} {text}", "PATTERN=VALUE", "no equals sign", f"--{argument} 'head.*={text}'")
        raise TransferError("an argument is malformed", [fault])
    return left, right
