"""What is kept, from a shell: export, fold, check, models, show."""

from __future__ import annotations

import fnmatch
import json
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoadapt.cli.model_names import known_names
from autoadapt.cli.named_models import backbone, contract, inputs_of, model
from autoadapt.cli.options import (
    Allow,
    Answer,
    AsJson,
    Debug,
    Html,
    Inputs,
    Levels,
    MaybeLike,
    Model,
    Outputs,
    at_home,
    writable,
)
from autoadapt.cli.outcomes import (
    DOES_NOT_HOLD,
    HOLDS,
    complain,
    fitted,
    keep,
    running,
    show,
    working,
    write_page,
    wrote,
)
from autoadapt.errors import Mismatch, SourceError, nearest
from autoadapt.showing.tables import hanging

if TYPE_CHECKING:
    from torch import nn

    from autoadapt.adapting.building import AdaptedModule

Program = Annotated[Path, typer.Argument(help="the file: .onnx, .pt2 or .pt", callback=writable)]


def export_command(
    source: Model,
    out: Program,
    like: MaybeLike = None,
    inputs: Inputs = None,
    *,
    answer: Answer,
) -> None:
    """Write a model for other runtimes, at every legal size, and compare it with the model as it runs.

    A folder of adapt --out is written as it is; any other model is first adapted to --like, or to itself.
    """
    with running(answer.as_json, answer.debug):
        from autoadapt.saving.exporting import export

        with working(f"exporting {source}"):
            found = export(_adapted(source, like, inputs, answer.allowed), out)
        show(found, answer.as_json, answer.html)
        wrote(out)


def fold_command(
    source: Model,
    out: Program,
    at: Annotated[str, typer.Option(help="where the adapted module stands, if there are several")] = "",
    outputs: Outputs = None,
    inputs: Inputs = None,
    *,
    answer: Answer,
) -> None:
    """Merge adapters into the layers that read them, and write the model for other runtimes, compared as by export.

    It takes whole models, as swap --out writes them: what reads the adapters must be in the model.
    """
    with running(answer.as_json, answer.debug):
        from autoadapt.contracts.capturing.arguments import told_example
        from autoadapt.saving.exporting import export
        from autoadapt.swapping.folding import fold

        with working(f"folding {source}"):
            made = model(source, allow=answer.allowed)
            call = inputs_of(made, inputs)
            call = told_example(made) if call is None else call
            folded = fold(made, at=at or None, inputs=call, outputs=outputs)
            found = export(folded, out, inputs=call)
        show(found, answer.as_json, answer.html)
        typer.echo(f"folded: {_count(made)} parameters became {_count(folded)}", err=True)
        wrote(out)


def _count(module: nn.Module) -> str:
    from autoadapt.showing.tables import human_count

    return human_count(sum(one.numel() for one in module.parameters()))


def _adapted(source: str, like: str | None, inputs: Sequence[str] | None, allow: Sequence[str]) -> AdaptedModule:
    from autoadapt.adapting import adapt
    from autoadapt.adapting.building import AdaptedModule

    made = model(source, allow=allow)
    if isinstance(made, AdaptedModule) and like is None:
        return made
    target = made if like is None else contract(like, allow=allow)
    return adapt(made, like=target, inputs=inputs_of(made, inputs))


def check_command(
    source: Model,
    lock: Annotated[Path, typer.Argument(help="the signature that it should have (JSON)", callback=at_home)],
    inputs: Inputs = None,
    at: Annotated[str, typer.Option(help="check this submodule, while the whole model runs")] = "",
    levels: Levels = False,
    update: Annotated[bool, typer.Option("--update", help="write the file anew")] = False,
    allow: Allow = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Check in CI that a model still has the signature of a file. Exit code 1, with every difference, if not."""
    with running(as_json, debug):
        from autoadapt.contracts.capturing import capture
        from autoadapt.contracts.signature import Signature

        expected = None if update else Signature.load(lock)
        with working(f"capturing {source}"):
            made = (backbone if levels else model)(source, allow=allow or ())
            found = capture(made, inputs_of(made, inputs), at=at)
        if expected is None:
            keep(found, lock)
            return
        faults = [replace(fault, remedy="") for fault in expected.diff(found)]  # no old module is at hand
        meant = "the same call with --update, if the difference is meant"
        remedy = meant if levels else f"--levels, if {lock} is of feature levels\n{meant}"
        if as_json:
            told = {"same": not faults, "differences": list(map(vars, faults)), "remedy": remedy if faults else ""}
            typer.echo(json.dumps(told, indent=1))
        elif faults:
            again = [*faults, Mismatch("", "", "", remedy)]
            complain("check", f"{found.title} does not have the signature of {lock}", again, as_json)
        else:
            typer.echo(f"{found.title} has the signature of {lock}")
        raise typer.Exit(DOES_NOT_HOLD if faults else HOLDS)


def models_command(
    patterns: Annotated[
        list[str] | None,
        typer.Argument(help="'resnet*', 'timm:*vit*', or a part of a name; all must fit"),
    ] = None,
    zoo: Annotated[list[str] | None, typer.Option(help="timm, torchvision or smp")] = None,
    without: Annotated[list[str] | None, typer.Option(help="leave out what fits this")] = None,
    count: Annotated[int, typer.Option(min=0, help="the most that are listed; 0 for all")] = 40,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """List the models that can be named, and search among them. Exit code 1 if none fits."""
    with running(as_json, debug):
        zoos = known_names()
        _check_zoos(zoo or (), list(zoos))
        names = [f"{scheme}:{name}" for scheme, known in zoos.items() for name in known]
        chosen = [
            name
            for name in names
            if (not zoo or name.partition(":")[0] in zoo)
            and all(_fits(name, pattern) for pattern in patterns or ())
            and not any(_fits(name, pattern) for pattern in without or ())
        ]
        if not chosen:
            plain = {name.partition(":")[2]: name for name in reversed(names)}
            near = [plain[one] for one in nearest(" ".join(patterns or ()).strip("*"), plain)]
            fault = Mismatch("", "", "", "\n".join(f"autoadapt models {name}" for name in near))
            complain("models", f"none of {len(names)} models fits", [fault], as_json)
            raise typer.Exit(DOES_NOT_HOLD)
        shown = chosen[:count] if count else chosen
        typer.echo(json.dumps(chosen, indent=1) if as_json else "\n".join(shown))
        if len(shown) < len(chosen) and not as_json:
            typer.echo(f"and {len(chosen) - len(shown)} more; --count 0 lists all", err=True)


def _check_zoos(asked: Iterable[str], known: list[str]) -> None:
    for one in asked:
        if one not in known:
            near = nearest(one, known) or known
            fault = Mismatch("--zoo", f"one of {', '.join(known)}", one, "\n".join(f"--zoo {name}" for name in near))
            raise SourceError(f"there is no zoo {one!r}", [fault])


def _fits(name: str, pattern: str) -> bool:
    """Whether a name, with or without its scheme, fits a pattern or holds a text."""
    if not any(sign in pattern for sign in "*?["):
        return pattern.lower() in name.lower()
    return fnmatch.fnmatchcase(name, pattern) or fnmatch.fnmatchcase(name.partition(":")[2], pattern)


def show_command(
    path: Annotated[
        Path,
        typer.Argument(
            help="a folder of adapt --out or swap --out, a file of export, or a result (JSON)", callback=at_home
        ),
    ],
    html: Html = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say what a folder, an exported file, a signature, a plan or another result holds; nothing of it is run."""
    with running(as_json, debug):
        from autoadapt.cli.shown_files import held_by, whole_of

        whole = whole_of(path)
        held = held_by(path) if whole is None else whole
        show(held, as_json, html if whole is None else None)
        if held.made is not None and not as_json:
            command = held.made.command
            lines = ["", *hanging("made", str(held.made)), *([f" call  {command}"] if command else [])]
            typer.echo(fitted("\n".join(lines)))
        if whole is not None:
            write_page(html, *whole.parts.values())
