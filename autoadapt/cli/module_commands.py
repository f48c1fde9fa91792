"""Modules from a shell: capture, plan, adapt, verify, swap, regions."""

from __future__ import annotations

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_args

import typer

from autoadapt.cli.named_models import backbone, contract, inputs_of, model, refuse_unnamed, saved_parts
from autoadapt.cli.options import (
    Allow,
    Answer,
    AsJson,
    Debug,
    Inputs,
    Levels,
    Like,
    Matching,
    MaybeLike,
    Model,
    ProjectBias,
    Weights,
    named_path,
    writable,
    writable_folder,
)
from autoadapt.cli.outcomes import DOES_NOT_HOLD, HOLDS, keep, running, show, working, write_page, wrote
from autoadapt.cli.remedies import keeping
from autoadapt.errors import Mismatch, SourceError, SwapError, nearest

if TYPE_CHECKING:
    from torch import nn

    from autoadapt.adapting.building import AdaptedModule


def capture_command(
    source: Model,
    inputs: Inputs = None,
    at: Annotated[str, typer.Option(help="capture this submodule, while the whole model runs")] = "",
    levels: Levels = False,
    out: Annotated[Path | None, typer.Option(help="save the signature to this file", callback=writable)] = None,
    *,
    answer: Answer,
) -> None:
    """Say what goes into a model and what comes out, at every input size."""
    with running(answer.as_json, answer.debug):
        with working(f"capturing {source}"):
            from autoadapt.contracts.capturing import capture

            made = (backbone if levels else model)(source, allow=answer.allowed)
            signature = capture(made, inputs_of(made, inputs), at=at)
        show(signature, answer.as_json, answer.html)
        if out is not None:
            keep(signature, out)


def plan_command(new: Model, like: Like, inputs: Inputs = None, *, matching: Matching, answer: Answer) -> None:
    """Say how a model would be adapted to another one's outputs. Exit code 1 if it cannot be."""
    with running(answer.as_json, answer.debug):
        with working(f"planning {new} like {like}"):
            net = _adapted(new, like, inputs, answer.allowed, **matching.arguments())
        show(net.plan, answer.as_json, answer.html)


def adapt_command(
    new: Model,
    like: Like,
    inputs: Inputs = None,
    *,
    matching: Matching,
    project_bias: ProjectBias = True,
    pretrained: Weights = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="save it to this folder, as aa.save does",
            parser=named_path,
            metavar="<path>",
            callback=writable_folder,
        ),
    ] = None,
    adapters_only: Annotated[bool, typer.Option("--adapters-only", help="save no weights of the backbone")] = False,
    source: Annotated[
        Path | None, typer.Option(help="write it as one file of plain PyTorch", callback=writable)
    ] = None,
    answer: Answer,
) -> None:
    """Adapt a model to another one's outputs, and prove it. Exit code 1 if it does not hold; then nothing is saved."""
    with running(answer.as_json, answer.debug):
        from autoadapt.sources import published

        with working(f"adapting {new} like {like}"):
            options = {**matching.arguments(), "project_bias": project_bias, "pretrained": bool(pretrained)}
            net = _adapted(new, like, inputs, answer.allowed, out=out, **options)
            report = net.verify()
        from autoadapt.cli.results import Adapted

        with keeping(out if report.passed and not adapters_only else None):
            show(Adapted(plan=net.plan, verification=report), answer.as_json, answer.html, (net.plan, report))
        if report.passed:
            _kept(net, out, source, adapters_only=adapters_only)
            if out is not None and not adapters_only and published(new) and not pretrained:
                typer.echo(f"the weights of {new} in {out} are random; --pretrained loads others", err=True)
        raise typer.Exit(HOLDS if report.passed else DOES_NOT_HOLD)


def _kept(net: AdaptedModule, out: Path | None, source: Path | None, *, adapters_only: bool) -> None:
    """Save what was made, in the forms that were asked for."""
    from autoadapt.saving import save
    from autoadapt.saving.standalone import to_source

    if out is not None:
        save(net, out, adapters_only=adapters_only)
        wrote(out)
    if source is not None:
        to_source(net, source)
        wrote(source)


def verify_command(
    new: Model,
    like: MaybeLike = None,
    inputs: Inputs = None,
    *,
    matching: Matching,
    thorough: Annotated[bool, typer.Option("--thorough", help="also compile and export: minutes")] = False,
    answer: Answer,
) -> None:
    """Prove that a model, adapted to another, keeps its signature. Exit code 1 if it does not.

    A folder of adapt --out needs no --like: it is verified against the contract that it was saved with. Of a folder
    of swap --out this is done for each part that was swapped.
    """
    with running(answer.as_json, answer.debug):
        with working(f"verifying {new}" + (f" like {like}" if like else "")):
            options = matching.arguments()
            parts = saved_parts(new) if like is None else {}
            if parts:
                _verified(parts, answer.allowed, thorough=thorough, as_json=answer.as_json, html=answer.html)
            if like is None:
                net = _saved(new, answer.allowed)
            else:
                net = _adapted(new, like, inputs, answer.allowed, **options)
            report = net.verify(thorough=thorough)
        show(report, answer.as_json, answer.html)
        raise typer.Exit(HOLDS if report.passed else DOES_NOT_HOLD)


def _verified(
    parts: Mapping[str, Path], allow: Sequence[str], *, thorough: bool, as_json: bool, html: Path | None
) -> None:
    """Verify the adapted parts of a whole model, each from its own folder, without the model around them."""
    from autoadapt.cli.results import Verified

    found = {path: _saved(str(folder), allow).verify(thorough=thorough) for path, folder in parts.items()}
    report = Verified(parts=found)
    show(report, as_json)
    write_page(html, *found.values())
    raise typer.Exit(HOLDS if report.passed else DOES_NOT_HOLD)


def swap_command(
    whole: Model,
    path: Annotated[str, typer.Argument(help="submodule, pattern 'heads.*', span 'conv1:layer4' or list 'conv1,bn1'")],
    new: Annotated[str, typer.Argument(help="a model, or linear, channel_linear, conv1x1, mlp, identity")],
    inputs: Inputs = None,
    *,
    matching: Matching,
    project_bias: ProjectBias = True,
    refit: Annotated[
        Literal["readers", "shrink"] | None,
        typer.Option(help="what reads it for the new channels; shrink: also what lies behind"),
    ] = None,
    allow_cost: Annotated[bool, typer.Option("--allow-cost", help="consent to large generated layers")] = False,
    max_parameters: Annotated[int | None, typer.Option(help="the most generated ones")] = None,
    out: Annotated[
        Path | None, typer.Option(help="swap, and save the model to this folder", callback=writable_folder)
    ] = None,
    answer: Answer,
) -> None:
    """Say what replacing a submodule of a bigger model would do, or do it (--out). Exit code 1 if it is refused."""
    with running(answer.as_json, answer.debug):
        with working(f"swapping {path} of {whole}"):
            from autoadapt.swapping import swap
            from autoadapt.swapping.replacements import Kind

            options = matching.arguments()
            is_layer = new in get_args(Kind)
            old = model(whole, allow=answer.allowed)
            places = [place.strip() for place in path.split(",")] if "," in path else path
            for named in places if isinstance(places, list) else places.split(":"):
                _check_place(old, named, path, (whole, new))
            made = new if is_layer else model(new, allow=answer.allowed)
            if not isinstance(made, str):
                refuse_unnamed(made, new, out)
            options |= {"project_bias": project_bias, "refit": refit or False}
            options |= {"allow_cost": allow_cost, "max_parameters": max_parameters}
            call = inputs_of(old, inputs)
            report = swap(old, places, made, inputs=call, dry_run=True, **options)
        show(report, answer.as_json, answer.html)
        if report.passed and out is not None:
            from autoadapt.saving import save

            save(swap(old, places, made, inputs=call, **options), out)
            wrote(out)
        raise typer.Exit(HOLDS if report.passed else DOES_NOT_HOLD)


def _check_place(old: nn.Module, named: str, path: str, call: tuple[str, str]) -> None:
    """Refuse a path that is misspelt, which makes the call a wrong one, with the call that is meant.

    Args:
        old: The model.
        named: A part of the path: all of it, an end of a span, or one of a list.
        path: As it was typed.
        call: What is typed for the model and the new module.

    Raises:
        SwapError: No submodule stands there.
    """
    from autoadapt.swapping.places import named_paths

    try:
        named_paths(old, named.strip())
    except SwapError as error:
        near = nearest(named, [place for place, _ in old.named_modules() if place], count=1)
        remedy = shlex.join(["autoadapt", "swap", call[0], path.replace(named, near[0]), call[1]]) if near else ""
        told = replace(error.mismatches[0], expected="the path of a submodule", remedy=remedy)
        raise SwapError(error.summary, [told]) from error


def regions_command(
    whole: Model, inputs: Inputs = None, allow: Allow = None, as_json: AsJson = False, debug: Debug = False
) -> None:
    """List what could be a backbone that is no submodule, as spans for `swap`. Exit code 1 if there is none."""
    with running(as_json, debug):
        with working(f"running {whole}"):
            from autoadapt.swapping import regions

            old = model(whole, allow=allow or ())
            found = regions(old, inputs_of(old, inputs))
        if found or as_json:
            typer.echo(json.dumps(found) if as_json else "\n".join(found))
        else:
            typer.echo(f"{whole} has no region that could be a backbone", err=True)
        raise typer.Exit(HOLDS if found else DOES_NOT_HOLD)


def _adapted(
    new: str,
    like: str,
    inputs: list[str] | None,
    allow: Sequence[str],
    *,
    pretrained: bool = False,
    out: Path | None = None,
    **options: Any,
) -> AdaptedModule:
    """Adapt as the options say."""
    from autoadapt.adapting import adapt

    made = model(new, pretrained=pretrained, allow=allow)
    refuse_unnamed(made, new, out)
    target = contract(like, pretrained=pretrained, allow=allow)
    return adapt(made, like=target, inputs=inputs_of(made, inputs), **options)


def _saved(source: str, allow: Sequence[str]) -> AdaptedModule:
    """What a folder holds.

    Raises:
        SourceError: It is none.
    """
    from autoadapt.adapting.building import AdaptedModule

    made = model(source, allow=allow)
    if not isinstance(made, AdaptedModule):
        fault = Mismatch(source, "a folder of adapt --out, or --like", type(made).__name__, "--like timm:resnet18")
        raise SourceError(f"{source} has no contract of its own", [fault])
    return made
