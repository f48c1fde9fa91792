"""Weights from a shell: transfer."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from autoadapt.cli.named_models import model
from autoadapt.cli.options import Answer, Model
from autoadapt.cli.outcomes import running, show, working, write_page, wrote


def transfer_command(
    checkpoint: Annotated[Path, typer.Argument(help=".pth, .pt, .bin, .safetensors, a sharded index or a folder")],
    target: Model,
    scope: Annotated[str | None, typer.Option(help="the part to take: ema, or the front of names")] = None,
    include: Annotated[list[str] | None, typer.Option(help="names to take, as 'layer4.*'")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="names to leave")] = None,
    rename: Annotated[list[str] | None, typer.Option(help="REGEX=REPLACEMENT, or a dialect")] = None,
    match: Annotated[
        Literal["names", "order"], typer.Option(help="pair by names, or the k-th with the k-th")
    ] = "names",
    shapes: Annotated[
        list[str] | None, typer.Option(help="PATTERN=POLICY, or a policy for all: skip, slice, error, ...")
    ] = None,
    keep: Annotated[
        list[str] | None, typer.Option(help="old rows in the new order: PATTERN=coco->crowdpose or =5,6,-")
    ] = None,
    grid: Annotated[
        list[str] | None, typer.Option(help="how tokens lie: PATTERN=OLD:NEW:TOKENS, as 14x14:24x24:1")
    ] = None,
    merge: Annotated[list[str] | None, typer.Option(help="fused (q, k, v), lora, or lora=SCALE")] = None,
    min_coverage: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="smallest share of parameters that counts as loaded")
    ] = 0.0,
    expect_missing: Annotated[list[str] | None, typer.Option(help="names that may stay as they are")] = None,
    expect_unexpected: Annotated[list[str] | None, typer.Option(help="names that may have no place")] = None,
    output: Annotated[Path | None, typer.Option(help="save the loaded weights (.safetensors); else a dry run")] = None,
    report: Annotated[Path | None, typer.Option(help="save the report (JSON)")] = None,
    *,
    answer: Answer,
) -> None:
    """Say which weights of a checkpoint fit a model. Exit code 1 if less than --min-coverage do, or none."""
    with running(answer.as_json, answer.debug):
        from autoadapt.weights import transfer_command as run_transfer

        with working(f"reading {checkpoint}"):
            found = run_transfer(
                checkpoint,
                model(target, allow=answer.allowed),
                scope=scope,
                include=include or (),
                exclude=exclude or (),
                rename=rename or (),
                match=match,
                shapes=shapes or ("skip",),
                keep=keep or (),
                grid=grid or (),
                merge=merge or (),
                min_coverage=min_coverage,
                expect_missing=expect_missing or (),
                expect_unexpected=expect_unexpected or (),
                output=output,
                report=report,
                told=lambda result: show(result, answer.as_json),
            )
        for path in (output, report):
            if path is not None:
                wrote(path)
        write_page(answer.html, found)
