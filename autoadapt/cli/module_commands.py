"""Adapting from a shell: capture, plan, adapt, verify, swap."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import BaseModel, ConfigDict

from autoadapt.adapting import adapt
from autoadapt.adapting.building import AdaptedModule
from autoadapt.adapting.planning import Plan
from autoadapt.adapting.verification import Verification
from autoadapt.cli.example_inputs import read_inputs
from autoadapt.cli.exit_codes import DOES_NOT_HOLD, HOLDS, running, show, working, wrote
from autoadapt.cli.named_models import backbone, contract, model
from autoadapt.cli.options import (
    AsJson,
    Debug,
    Grid,
    Html,
    Indices,
    IndicesChoice,
    Inputs,
    Like,
    Model,
    Outputs,
    Pairs,
    Project,
    ProjectChoice,
    Thin,
    ThinChoice,
    Weights,
    chosen,
    writable,
)
from autoadapt.contracts.capturing import capture
from autoadapt.saving import save
from autoadapt.saving.standalone import to_source
from autoadapt.swapping import swap

__all__ = ["adapt_command", "capture_command", "plan_command", "swap_command", "verify_command"]


def capture_command(
    source: Model,
    inputs: Inputs = None,
    at: Annotated[str, typer.Option(help="capture this submodule, while the whole model runs")] = "",
    levels: Annotated[bool, typer.Option("--levels", help="with feature levels, as --like takes a model")] = False,
    out: Annotated[
        Path | None, typer.Option(help="save the signature to this file", callback=writable, show_default=False)
    ] = None,
    html: Html = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say what goes into a model and what comes out, at every input size."""
    with running(as_json, debug):
        with working(f"capturing {source}"):
            signature = capture(backbone(source) if levels else model(source), read_inputs(inputs or ()), at=at)
        show(signature, as_json, html)
        if out is not None:
            signature.save(out)
            wrote(out)


def plan_command(
    new: Model,
    like: Like,
    inputs: Inputs = None,
    outputs: Outputs = None,
    pair: Pairs = None,
    project: Project = ProjectChoice.needed,
    indices: Indices = IndicesChoice.refuse,
    thin: Thin = ThinChoice.farthest,
    grid: Grid = None,
    html: Html = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say how a model would be made to speak like another. Exit code 1 if it cannot be."""
    with running(as_json, debug):
        with working(f"planning {new} like {like}"):
            options = chosen(pair, project, indices, thin, grid)
            net = _adapted(new, like, inputs, outputs=outputs, **options)
        show(net.plan, as_json, html)


class Adapted(BaseModel):
    """What `adapt` did, and the proof that it holds."""

    model_config = ConfigDict(frozen=True)

    plan: Plan
    verification: Verification

    def __str__(self) -> str:
        return f"{self.plan}\n\n{self.verification}"


def adapt_command(
    new: Model,
    like: Like,
    inputs: Inputs = None,
    outputs: Outputs = None,
    pair: Pairs = None,
    project: Project = ProjectChoice.needed,
    indices: Indices = IndicesChoice.refuse,
    thin: Thin = ThinChoice.farthest,
    grid: Grid = None,
    pretrained: Weights = None,
    out: Annotated[
        Path | None, typer.Option(help="save it to this folder, as aa.save does", show_default=False)
    ] = None,
    adapters_only: Annotated[bool, typer.Option("--adapters-only", help="save no weights of the backbone")] = False,
    source: Annotated[
        Path | None, typer.Option(help="write it as one file of plain PyTorch", callback=writable, show_default=False)
    ] = None,
    html: Html = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Make a model speak like another, and prove it. Exit code 1 if it does not hold; then nothing is saved."""
    with running(as_json, debug):
        with working(f"adapting {new} like {like}"):
            options = chosen(pair, project, indices, thin, grid)
            net = _adapted(new, like, inputs, outputs=outputs, pretrained=bool(pretrained), **options)
            report = net.verify()
        show(Adapted(plan=net.plan, verification=report), as_json, html, (net.plan, report))
        if report.passed:
            _kept(net, out, source, adapters_only=adapters_only)
        raise typer.Exit(HOLDS if report.passed else DOES_NOT_HOLD)


def _kept(net: AdaptedModule, out: Path | None, source: Path | None, *, adapters_only: bool) -> None:
    """Save what was made, in the forms that were asked for."""
    if out is not None:
        save(net, out, adapters_only=adapters_only)
        wrote(out)
    if source is not None:
        to_source(net, source)
        wrote(source)


def verify_command(
    new: Model,
    like: Like,
    inputs: Inputs = None,
    outputs: Outputs = None,
    pair: Pairs = None,
    project: Project = ProjectChoice.needed,
    indices: Indices = IndicesChoice.refuse,
    thin: Thin = ThinChoice.farthest,
    grid: Grid = None,
    thorough: Annotated[bool, typer.Option("--thorough", help="also compile and export: minutes")] = False,
    html: Html = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Prove that a model, adapted to another, speaks like it. Exit code 1 if it does not."""
    with running(as_json, debug):
        with working(f"verifying {new} like {like}"):
            options = chosen(pair, project, indices, thin, grid)
            report = _adapted(new, like, inputs, outputs=outputs, **options).verify(thorough=thorough)
        show(report, as_json, html)
        raise typer.Exit(HOLDS if report.passed else DOES_NOT_HOLD)


def swap_command(
    whole: Model,
    path: Annotated[str, typer.Argument(help="the submodule to replace, or a pattern such as 'heads.*'")],
    new: Annotated[str, typer.Argument(help="a model, or linear, channel_linear, conv1x1, mlp, identity")],
    inputs: Inputs = None,
    outputs: Outputs = None,
    pair: Pairs = None,
    project: Project = ProjectChoice.needed,
    indices: Indices = IndicesChoice.refuse,
    thin: Thin = ThinChoice.farthest,
    grid: Grid = None,
    allow_cost: Annotated[bool, typer.Option("--allow-cost", help="consent to large generated layers")] = False,
    max_parameters: Annotated[int | None, typer.Option(help="the most generated ones", show_default=False)] = None,
    html: Html = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say what replacing a submodule of a bigger model would do. Exit code 1 if it is refused."""
    with running(as_json, debug):
        with working(f"swapping {path} of {whole}"):
            options = chosen(pair, project, indices, thin, grid)
            successor = model(new) if ":" in new or new.endswith(".pt2") else new
            report = swap(
                model(whole),
                path,
                successor,
                inputs=read_inputs(inputs or ()),
                outputs=outputs,
                allow_cost=allow_cost,
                max_parameters=max_parameters,
                dry_run=True,
                **options,
            )
        show(report, as_json, html)
        raise typer.Exit(HOLDS if report.passed else DOES_NOT_HOLD)


def _adapted(
    new: str, like: str, inputs: list[str] | None, *, pretrained: bool = False, **options: Any
) -> AdaptedModule:
    """Adapt as the options say."""
    example = read_inputs(inputs or ())
    target = contract(like, pretrained=pretrained)
    return adapt(model(new, pretrained=pretrained), like=target, inputs=example, **options)
