"""Configs from a shell: assemble."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoadapt.cli.options import Answer, writable
from autoadapt.cli.outcomes import DOES_NOT_HOLD, HOLDS, running, show, working, wrote
from autoadapt.errors import AssemblyError, Mismatch
from autoadapt.files.writing import write_file

if TYPE_CHECKING:
    from autoadapt.assembly import AssembledModel, Comparison


def assemble_command(
    configs: Annotated[list[Path], typer.Argument(help="YAML, JSON or Python files")],
    comparing: Annotated[
        bool, typer.Option("--compare", help="several configs, or the backbones that one lists, beside one another")
    ] = False,
    out: Annotated[Path | None, typer.Option(help="save the filled-in config (YAML)", callback=writable)] = None,
    *,
    answer: Answer,
) -> None:
    """Build a model from a config and fill in every number. With --compare, exit code 1 if none fits."""
    with running(answer.as_json, answer.debug):
        if comparing:
            with working("assembling"):
                found = _compared(configs, answer.allowed)
            show(found, answer.as_json, answer.html)
            raise typer.Exit(HOLDS if any(not row.fault for row in found.rows) else DOES_NOT_HOLD)
        with working("assembling"):
            model = _assembled(configs, answer.allowed)
        from autoadapt.assembly import describe, write_yaml
        from autoadapt.cli.results import Assembled

        made = Assembled(config=describe(model), report=model.report, text=write_yaml(model.config))
        show(made, answer.as_json, answer.html, (model.report, model.config))
        if out is not None:
            write_file(out, made.text)
            wrote(out)


def _assembled(configs: Sequence[Path], allow: Sequence[str]) -> AssembledModel:
    if len(configs) > 1:
        names = ", ".join(map(str, configs))
        raise AssemblyError("several configs make no model", [Mismatch("configs", "one config", names, "--compare")])
    from autoadapt.assembly import assemble

    return assemble(configs[0], allow=allow)


def _compared(configs: Sequence[Path], allow: Sequence[str]) -> Comparison:
    """All backbones of all configs; the config's name stands before each where there are several."""
    from autoadapt.assembly import Comparison, compare

    found = [compare(config, allow=allow) for config in configs]
    if len(found) == 1:
        return found[0]
    rows = [
        row.model_copy(update={"backbone": f"{config.stem}: {row.backbone}"})
        for config, comparison in zip(configs, found, strict=True)
        for row in comparison.rows
    ]
    return Comparison(rows=tuple(rows), threads=found[0].threads)
