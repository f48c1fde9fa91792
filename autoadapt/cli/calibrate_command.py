"""Calibrating from a shell: models by name or from folders, pictures, and adapters or a model that are kept."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from autoadapt.cli.named_models import backbone, model, refuse_unnamed
from autoadapt.cli.options import Answer, Like, Model, Refine, Weights, at_home, writable
from autoadapt.cli.outcomes import DOES_NOT_HOLD, HOLDS, running, show, working, write_page, wrote
from autoadapt.cli.typed_sources import CONFIG, FILES
from autoadapt.errors import CalibrationError, Mismatch, SourceError
from autoadapt.showing.figures import check_drawable

if TYPE_CHECKING:
    import torch
    from torch import nn

ADAPTERS = ".safetensors"
COVERAGE = 0.99
"""Share of a model's parameters that its weights file must have."""


def _keepable(context: typer.Context, parameter: typer.CallbackParam, path: Path | None) -> Path | None:
    """A `.safetensors` file for the adapters, or a folder for the whole; see `writable`."""
    path = at_home(path)
    if path is not None and path.suffix in FILES - {ADAPTERS}:
        raise typer.BadParameter(f"{path} is neither a folder nor a file like {path.with_suffix(ADAPTERS)}")
    if path is not None:
        writable(context, parameter, path if path.suffix == ADAPTERS else path / CONFIG)
    return path


def calibrate_command(
    new: Model,
    like: Like,
    images: Annotated[Path, typer.Option(help="pictures without labels: a folder, .npy, .safetensors", exists=True)],
    at: Annotated[str, typer.Option(help="the backbone's path, where --like is the whole model")] = "",
    head: Annotated[str, typer.Option(help="module.py:factory of what follows the old backbone")] = "",
    count: Annotated[int, typer.Option(min=1, help="the most images that are taken")] = 128,
    batch: Annotated[int, typer.Option(min=1, help="images at a time")] = 16,
    refine: Refine = "0",
    augment: Annotated[bool, typer.Option(help="make more pictures where there are few")] = True,
    pretrained: Weights = None,
    new_weights: Annotated[Path | None, typer.Option(help="a file of weights for the new model")] = None,
    like_weights: Annotated[Path | None, typer.Option(help="a file of weights for the old one")] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            help="save it to this folder, as adapt --out does, or the adapters to a .safetensors file",
            callback=_keepable,
        ),
    ] = None,
    picture: Annotated[Path | None, typer.Option(help="draw how it went: .svg, .png")] = None,
    seed: Annotated[int, typer.Option(help="for the choice of images and random weights")] = 0,
    *,
    answer: Answer,
) -> None:
    """Fit the adapters on pictures, so that the old head keeps working. Exit code 1 if that is of no use.

    A folder of adapt --out is calibrated as it is, and so is the part --at of a folder of swap --out.
    """
    with running(answer.as_json, answer.debug):
        from autoadapt.calibration import calibrate
        from autoadapt.contracts.modes import in_eval_mode
        from autoadapt.contracts.origins import name_of
        from autoadapt.sources.images import preprocessing_of, read_images

        if picture is not None:
            check_drawable(picture, CalibrationError)
        with working(f"calibrating {new} like {like}"):
            _refuse_signature(like)
            old = _weighted(model if at else backbone, like, like_weights, pretrained is not False, answer.allowed)
            made = _weighted(backbone, new, new_weights, pretrained is not False, answer.allowed)
            if out is not None and out.suffix != ADAPTERS and not _holds_adapted(made):
                refuse_unnamed(made, new, out)
            reader = in_eval_mode(model(head, allow=answer.allowed)) if head else None
            pictures = preprocessing_of(old, name_of(old))
            batches = read_images(images, pictures, count=count, batch=batch, seed=seed)
            net = _adapted(made, old, at, batches.shape, seed)
            found = calibrate(
                net,
                like=old,
                data=batches,
                at=at or None,
                head=reader,
                images=count,
                refine="auto" if refine == "auto" else int(refine),
                augment="auto" if augment else 0,
                seed=seed,
            )
        found = found.model_copy(update={"remarks": (*found.remarks, str(pictures), *batches.remarks())})
        show(found, answer.as_json)
        if out is not None and found.written:
            _keep(net, at, out, {"new": new, "like": like, "at": at, "solver": found.solver})
        if picture is not None:
            found.plot(picture)
        for path in filter(None, (picture, out if found.written else None)):
            wrote(path)
        write_page(answer.html, found)
        raise typer.Exit(HOLDS if found.written else DOES_NOT_HOLD)


def _refuse_signature(like: str) -> None:
    if "[" in like or Path(like).suffix == ".json":
        fault = Mismatch("--like", "a model, as its outputs are learned from", like, "--like timm:resnet18")
        raise SourceError("a signature gives no features", [fault])


def _weighted(
    load: Callable[..., nn.Module], source: str, weights: Path | None, pretrained: bool, allow: Sequence[str]
) -> nn.Module:
    """A model in eval mode, with the weights of a file where one is given, else with published ones."""
    from autoadapt.contracts.modes import in_eval_mode
    from autoadapt.weights import transfer

    made = load(source, pretrained=pretrained and weights is None, allow=allow)
    if weights is not None:
        transfer(weights, made, min_coverage=COVERAGE).raise_if_failed()
    return in_eval_mode(made)


def _holds_adapted(made: nn.Module) -> bool:
    from autoadapt.adapting.building import AdaptedModule

    return any(isinstance(part, AdaptedModule) for part in made.modules())


def _adapted(made: nn.Module, old: nn.Module, at: str, shape: Sequence[int], seed: int) -> nn.Module:
    """What is calibrated: a model that holds an adapted module already, or one that is adapted here."""
    import copy

    import torch

    from autoadapt.adapting import adapt
    from autoadapt.swapping import swap

    if _holds_adapted(made):
        return made
    example = torch.zeros(tuple(shape))[:1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        if at:
            return swap(copy.deepcopy(old), at, made, inputs=example, project="always", allow_cost=True)
        return adapt(made, like=old, inputs=example, project="always")


def _keep(net: nn.Module, at: str, out: Path, facts: dict[str, str]) -> None:
    """Save the adapters alone to a file, or all of it to a folder."""
    from safetensors.torch import save_file

    from autoadapt.adapting.building import AdaptedModule
    from autoadapt.files.writing import write_file
    from autoadapt.saving import save

    if out.suffix != ADAPTERS:
        save(net, out)
        return
    part = net.get_submodule(at)
    assert isinstance(part, AdaptedModule), "calibrated as one"
    tensors: dict[str, torch.Tensor] = {
        f"adapters.{name}": tensor.contiguous() for name, tensor in part.adapters.state_dict().items()
    }
    write_file(out, lambda path: save_file(tensors, path, {"format": "pt", "autoadapt": json.dumps(facts)}))
