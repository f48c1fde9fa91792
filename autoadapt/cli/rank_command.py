"""Ranking from a shell."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, TypeAlias

import typer

from autoadapt.cli.model_names import complete_source
from autoadapt.cli.named_models import contract, is_name, model
from autoadapt.cli.options import SOURCES, Answer, Fit, Inputs, Like, Resolution, Weights
from autoadapt.cli.outcomes import DOES_NOT_HOLD, HOLDS, running, show, wrote
from autoadapt.cli.typed_sources import checked_source, is_saved
from autoadapt.errors import RankingError
from autoadapt.showing.figures import check_drawable
from autoadapt.showing.tables import shorten

if TYPE_CHECKING:
    from torch import nn

    from autoadapt.contracts.signature import Signature
    from autoadapt.ranking import Ranked
    from autoadapt.sources.images import Preprocessing

BATCH = 8


_Backend: TypeAlias = Literal["loky", "dask", "ray"]


def rank_command(
    candidates: Annotated[
        list[str],
        typer.Argument(help=f"names or patterns: 'timm:resnet*', {SOURCES}", autocompletion=complete_source),
    ],
    like: Like,
    inputs: Inputs = None,
    images: Annotated[Path | None, typer.Option(help="pictures to calibrate on: a folder, .npy, .safetensors")] = None,
    head: Annotated[str | None, typer.Option(help="module.py:factory of what follows the old backbone")] = None,
    held_out: Annotated[Path | None, typer.Option(help="pictures to judge on; else every fourth of --images")] = None,
    count: Annotated[int, typer.Option(min=1, help="the most images that are taken")] = 128,
    resolution: Resolution = None,
    fit: Fit = None,
    pretrained: Weights = None,
    state: Annotated[Path | None, typer.Option(help="a file (JSON lines) to go on from after a cut")] = None,
    picture: Annotated[Path | None, typer.Option(help="draw cost against agreement: .svg, .png")] = None,
    jobs: Annotated[int | None, typer.Option(help="candidates tried at once, one thread each; -1: all cores")] = None,
    backend: Annotated[_Backend, typer.Option(help="who tries them: processes of this machine, or a cluster")] = "loky",
    halving: Annotated[
        bool, typer.Option("--halving", help="all by plan and cost, then the better ones on ever more --images")
    ] = False,
    budget: Annotated[str | None, typer.Option(help="time after which no other is begun: 90min, 2h")] = None,
    cost: Annotated[
        Literal["seconds", "multiply_adds", "parameters", "memory"], typer.Option(help="what the picture has across")
    ] = "seconds",
    *,
    answer: Answer,
) -> None:
    """Which backbone should I take? Costs and, with --images, agreement. Exit code 1 if none fits."""
    with running(answer.as_json, answer.debug), _resumable(state), _workers(backend, jobs):
        from autoadapt.cli.example_inputs import read_inputs
        from autoadapt.contracts.modes import in_eval_mode
        from autoadapt.ranking import rank

        if picture is not None:
            check_drawable(picture, RankingError)
        _check_names(candidates, answer.allowed)
        published = pretrained if pretrained is not None else images is not None
        old, pictures = _old(like, published, answer.allowed, reads_pictures=images is not None)
        batches = _read(images, pictures, count)
        made = {one: one if is_name(one) else model(one, allow=answer.allowed) for one in candidates}
        found = rank(
            made,
            old,
            inputs=read_inputs(inputs or ()),
            data=batches,
            head=None if head is None else in_eval_mode(model(head, allow=answer.allowed)),
            held_out=_read(held_out, pictures, count),
            images=count,
            pretrained=published,
            allow=answer.allowed,
            state=state,
            report=_say,
            jobs=jobs,
            halving=halving,
            budget=budget,
            resolution=resolution,
            fit=fit,
        )
        if pictures is not None:
            found = found.model_copy(update={"remarks": (*found.remarks, str(pictures), *_skipped(batches))})
        show(found, answer.as_json, answer.html)
        if picture is not None and found:
            found.picture(picture, cost=cost)
            wrote(picture)
        raise typer.Exit(HOLDS if found else DOES_NOT_HOLD)


def _old(
    like: str, published: bool, allow: Sequence[str], *, reads_pictures: bool
) -> tuple[nn.Module | Signature, Preprocessing | None]:
    """What `--like` means, and how it takes pictures; without pictures the signature of what is saved will do."""
    from torch import nn

    from autoadapt.sources.images import preprocessing_of

    old = (model if reads_pictures and is_saved(like) else contract)(like, pretrained=published, allow=allow)
    return old, preprocessing_of(old, like) if reads_pictures and isinstance(old, nn.Module) else None


def _check_names(candidates: Sequence[str], allow: Sequence[str]) -> None:
    """Refuse what is no candidate before any is tried: a name that is typed wrong is no backbone that does not fit."""
    from autoadapt.sources import refuse_unknown

    for candidate in candidates:
        if is_name(candidate) and not any(sign in candidate for sign in "*?["):
            checked_source(candidate)
            refuse_unknown(candidate, allow)


@contextlib.contextmanager
def _resumable(state: Path | None) -> Iterator[None]:
    """Say to who stops it that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        if state is not None:
            typer.echo(f"the same call goes on from {state}", err=True)
        raise


@contextlib.contextmanager
def _workers(backend: _Backend, jobs: int | None) -> Iterator[None]:
    """A cluster as DASK_SCHEDULER_ADDRESS or RAY_ADDRESS name it, else one of this machine's cores."""
    if backend == "loky":
        yield
        return
    from autoadapt.ranking.clusters import dask_workers, ray_workers

    with (dask_workers if backend == "dask" else ray_workers)(jobs):
        yield


def _read(path: Path | None, pictures: Preprocessing | None, count: int) -> Iterable[object] | None:
    """Batches of a folder or a file; without an old module, which says how, `rank` refuses them."""
    if path is None:
        return None
    from autoadapt.sources.images import read_images

    return [] if pictures is None else read_images(path, pictures, count=count, batch=BATCH)


def _skipped(batches: Iterable[object] | None) -> tuple[str, ...]:
    from autoadapt.sources.images import Images

    return batches.remarks() if isinstance(batches, Images) else ()


def _say(row: Ranked, done: int, of: int) -> None:
    """A line for each candidate, on standard error."""
    said = f"not ranked: {row.refused}" if row.refused else f"{row.seconds * 1000:.0f} ms"
    said += "" if row.agreement is None else f", agrees {row.agreement:.2f}"
    typer.echo(shorten(f"{done:>{len(str(of))}}/{of}  {row.source}  {said}", 80), err=True)
