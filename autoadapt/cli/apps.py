"""The app: every command under its name, with an example."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from autoadapt.cli.assemble_command import assemble_command
from autoadapt.cli.calibrate_command import calibrate_command
from autoadapt.cli.groups import Command, Group
from autoadapt.cli.machine_commands import demo_command, doctor_command
from autoadapt.cli.module_commands import (
    adapt_command,
    capture_command,
    plan_command,
    regions_command,
    swap_command,
    verify_command,
)
from autoadapt.cli.options import spread
from autoadapt.cli.rank_command import rank_command
from autoadapt.cli.saved_commands import check_command, export_command, fold_command, models_command, show_command
from autoadapt.cli.weight_commands import transfer_command
from autoadapt.versions import VERSION

EPILOG = (
    "Exit codes: 0 it holds, 1 it does not, 2 a bad call. Results go to standard output, errors and progress to "
    "standard error; with --json an error is an object as well."
)

app = typer.Typer(
    cls=Group,
    pretty_exceptions_enable=False,
    epilog=EPILOG,
    context_settings={"help_option_names": ["-h", "--help"]},
)

_COMMANDS: dict[str, tuple[Callable[..., None], str]] = {
    "demo": (demo_command, "autoadapt demo"),
    "models": (models_command, "autoadapt models resnet --zoo timm"),
    "capture": (capture_command, "autoadapt capture timm:resnet18 --levels --out old.json"),
    "plan": (plan_command, "autoadapt plan timm:vit_tiny_patch16_224 --like timm:resnet18"),
    "adapt": (adapt_command, "autoadapt adapt timm:resnet10t --like timm:resnet18 --out net"),
    "verify": (verify_command, "autoadapt verify net   (a folder of adapt --out)"),
    "swap": (swap_command, "autoadapt swap timm:resnet18 layer4 timm:resnet10t --out model"),
    "regions": (regions_command, "autoadapt regions torchvision:resnet18"),
    "transfer": (transfer_command, "autoadapt transfer weights.pth timm:resnet18"),
    "calibrate": (calibrate_command, "autoadapt calibrate timm:resnet10t --like timm:resnet18 --images photos"),
    "export": (export_command, "autoadapt export net net.onnx   (a folder of adapt --out)"),
    "fold": (fold_command, "autoadapt fold model model.onnx   (a folder of swap --out)"),
    "check": (check_command, "autoadapt check timm:resnet18 resnet18.json"),
    "show": (show_command, "autoadapt show net   (a folder of adapt --out)"),
    "assemble": (assemble_command, "autoadapt assemble model.yaml --out full.yaml"),
    "rank": (rank_command, "autoadapt rank 'timm:resnet1*' --like timm:resnet50"),
    "doctor": (doctor_command, "autoadapt doctor"),
}

for _name, (_command, _example) in _COMMANDS.items():
    app.command(_name, cls=Command, epilog=f"Example: {_example}")(spread(_command))


def _say_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"autoadapt {VERSION}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def main(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="print the version")
    ] = False,
) -> None:
    """Swap a backbone: make a model keep another one's output signature exactly, and prove it."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
