"""Command line: the verbs on models given by name. Exit code 0: it holds, 1: it does not, 2: a bad call."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from torch import nn

from autoadapt.adapting import adapt, as_signature
from autoadapt.assembly import assemble, describe
from autoadapt.capturing import capture
from autoadapt.demo import demo as run_demo
from autoadapt.errors import AdaptError
from autoadapt.signature import Signature, TensorSpec
from autoadapt.sources import load, load_backbone, schemes
from autoadapt.weights import transfer as run_transfer

__all__ = ["app"]

app = typer.Typer(no_args_is_help=True, pretty_exceptions_enable=False, help=__doc__)

Model = Annotated[str, typer.Argument(help="timm:resnet18, torchvision:resnet50, hf:..., or package.module:factory")]
Like = Annotated[str, typer.Option(help="a model of the same kinds, or a saved signature (JSON)")]
Input = Annotated[str, typer.Option("--input", help="an input such as 'f32[2, 3, 224, 224]'")]
AsJson = Annotated[bool, typer.Option("--json", help="print JSON instead of tables")]
Debug = Annotated[bool, typer.Option("--debug", help="show the traceback of an error")]


@app.command()
def demo() -> None:
    """Swap the backbone of a small detector on real models."""
    run_demo()


@app.command("capture")
def capture_command(
    model: Model,
    given: Input = "",
    at: Annotated[str, typer.Option(help="path of a submodule to capture in place")] = "",
    out: Annotated[Path | None, typer.Option(help="save the signature to this file")] = None,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say what goes into a model and what comes out, at every input size."""
    with _refused(debug):
        signature = capture(_model(model), _inputs(given), at=at)
        if out is not None:
            signature.save(out)
        _show(signature, as_json)


@app.command("plan")
def plan_command(
    new: Model,
    like: Like,
    given: Input = "",
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say how a model would be made to speak like another."""
    with _refused(debug):
        _show(_adapted(new, like, given).plan, as_json)


@app.command("verify")
def verify_command(
    new: Model,
    like: Like,
    given: Input = "",
    thorough: Annotated[bool, typer.Option(help="also compile and export")] = False,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Adapt a model to another and prove that it speaks like it; exit code 1 if it does not."""
    with _refused(debug):
        report = _adapted(new, like, given).verify(thorough=thorough)
        _show(report, as_json)
    raise typer.Exit(0 if report.passed else 1)


@app.command("transfer")
def transfer_command(
    checkpoint: Annotated[Path, typer.Argument(help="a checkpoint: .pth, .pt, .bin, .safetensors")],
    model: Model,
    include: Annotated[list[str] | None, typer.Option(help="names to take, by dotted segments")] = None,
    exclude: Annotated[list[str] | None, typer.Option(help="names to leave")] = None,
    match: Annotated[str, typer.Option(help="names or order")] = "names",
    min_coverage: Annotated[float, typer.Option(help="smallest share of parameters that counts as loaded")] = 0.0,
    as_json: AsJson = False,
    debug: Debug = False,
) -> None:
    """Say which weights of a checkpoint fit a model; nothing is saved."""
    with _refused(debug):
        order: Any = match
        report = run_transfer(
            checkpoint,
            _model(model),
            include=include,
            exclude=exclude,
            match=order,
            min_coverage=min_coverage,
        )
        _show(report, as_json)


@app.command("assemble")
def assemble_command(
    config: Annotated[Path, typer.Argument(help="a YAML or JSON config")],
    debug: Debug = False,
) -> None:
    """Build a model from a config and print the config with every number filled in."""
    with _refused(debug):
        typer.echo(str(describe(assemble(config))))


@app.command()
def doctor() -> None:
    """Print versions, devices and which optional packages are there."""
    rows = {"python": platform.python_version(), "torch": torch.__version__, "threads": str(torch.get_num_threads())}
    rows["cuda"] = ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())) or "none"
    for package in ("autoadapt", "timm", "torchvision", "transformers", "segmentation-models-pytorch", "onnx"):
        try:
            rows[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            rows[package] = "not installed"
    for name, value in rows.items():
        typer.echo(f" {name:<28} {value}")


def _adapted(new: str, like: str, given: str) -> Any:
    inputs = _inputs(given)
    target: nn.Module | Signature = _backbone(like) if ":" in like else as_signature(like)
    return adapt(_model(new), like=target, inputs=inputs)


def _model(source: str) -> nn.Module:
    return load(source, allow=_named_package(source))


def _backbone(source: str) -> nn.Module:
    return load_backbone(source, allow=_named_package(source))


def _named_package(source: str) -> list[str]:
    """Who types a python path allows its package."""
    scheme, colon, _ = source.partition(":")
    return [scheme.partition(".")[0]] if colon and scheme not in schemes() else []


def _inputs(text: str) -> torch.Tensor | None:
    if not text:
        return None
    spec = TensorSpec.parse(text)
    return torch.empty(spec.shape({}), dtype=spec.torch_dtype, device="meta")


def _show(result: Any, as_json: bool) -> None:
    typer.echo(json.dumps(json.loads(result.model_dump_json()), indent=1) if as_json else str(result))


@contextlib.contextmanager
def _refused(debug: bool) -> Iterator[None]:
    """Errors are a line and a remedy; the traceback is there for who asks."""
    try:
        yield
    except AdaptError as error:
        if debug:
            raise
        typer.echo(f"{type(error).__name__}: {error}", err=True)
        raise typer.Exit(2) from error
