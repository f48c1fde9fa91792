"""The app: every command under its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import typer

from autoadapt.cli.assemble_command import assemble_command
from autoadapt.cli.groups import Group
from autoadapt.cli.machine_commands import demo_command, doctor_command
from autoadapt.cli.module_commands import adapt_command, capture_command, plan_command, swap_command, verify_command
from autoadapt.cli.rank_command import rank_command
from autoadapt.cli.weight_commands import calibrate_command, transfer_command
from autoadapt.versions import VERSION

__all__ = ["app"]

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

_COMMANDS: dict[str, Callable[..., None]] = {
    "demo": demo_command,
    "capture": capture_command,
    "plan": plan_command,
    "adapt": adapt_command,
    "verify": verify_command,
    "swap": swap_command,
    "transfer": transfer_command,
    "calibrate": calibrate_command,
    "assemble": assemble_command,
    "rank": rank_command,
    "doctor": doctor_command,
}

for _name, _command in _COMMANDS.items():
    app.command(_name)(_command)


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
    """Swap a backbone: make a model speak another one's output signature exactly, and prove it."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
