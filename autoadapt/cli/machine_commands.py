"""The machine and the package themselves: doctor and demo."""

from __future__ import annotations

import json
import os
import platform
from typing import TypeAlias

import typer

from autoadapt.cli.options import AsJson, Debug
from autoadapt.cli.outcomes import DOES_NOT_HOLD, HOLDS, running
from autoadapt.showing.tables import columns, human_count
from autoadapt.versions import VERSION, install_line, package_version

REQUIRED = ("numpy", "einops", "pydantic", "rich", "typer", "safetensors", "pyyaml", "jinja2")
EXTRAS = {
    "zoo": ("timm", "torchvision", "transformers", "segmentation-models-pytorch", "huggingface_hub"),
    "onnx": ("onnx", "onnxscript", "onnxruntime"),
    "plot": ("matplotlib",),
    "cluster": ("joblib", "cloudpickle"),
    "demo": ("timm", "torchvision", "scikit-learn"),
}
"""Packages that not every command needs, by the extra that brings them."""


_Versions: TypeAlias = dict[str, str]
"""What is installed of each package; empty where nothing is."""


def demo_command(as_json: AsJson = False, debug: Debug = False) -> None:
    """Swap the backbone of a small detector on real models, twice. Exit code 1 if a proof fails."""
    with running(as_json, debug):
        from autoadapt.demo import demo

        shown = demo(quiet=as_json)
        if as_json:
            swaps = [one.model_dump(mode="json") for one in shown]
            typer.echo(json.dumps(swaps, indent=1))
        raise typer.Exit(
            HOLDS if all(one.verification.passed and all(one.heads.values()) for one in shown) else DOES_NOT_HOLD
        )


def doctor_command(as_json: AsJson = False, debug: Debug = False) -> None:
    """Say which versions, devices and optional packages are there."""
    with running(as_json, debug):
        import torch

        facts = {
            "autoadapt": VERSION,
            "python": platform.python_version(),
            "system": platform.platform(),
            "torch": torch.__version__,
        }
        packages = {package: package_version(package) for package in REQUIRED}
        extras = {extra: {package: package_version(package) for package in names} for extra, names in EXTRAS.items()}
        everything = {**facts, "packages": packages, "devices": _devices(), "extras": extras}
        typer.echo(json.dumps(everything, indent=1) if as_json else "\n".join(_lines(facts, packages, extras)))


def _devices() -> list[str]:
    import torch

    found = [f"cpu, {os.cpu_count()} cores, {torch.get_num_threads()} threads"]
    for number in range(torch.cuda.device_count()):
        memory = torch.cuda.get_device_properties(number).total_memory
        found.append(f"cuda:{number}, {torch.cuda.get_device_name(number)}, {human_count(memory)}B")
    if torch.backends.mps.is_available():
        found.append("mps")
    return found


def _lines(facts: dict[str, str], packages: _Versions, extras: dict[str, _Versions]) -> list[str]:
    rows = [*facts.items(), *(("device", device) for device in _devices())]
    rows += [(name, version or "not installed") for name, version in packages.items()]
    lines = columns(rows)
    for extra, names in extras.items():
        missing = not all(names.values())
        lines.append(f"\n extra {extra}" + (f"   {install_line(extra)}" if missing else ""))
        lines += columns([(name, version or "not installed") for name, version in names.items()], indent=3)
    return lines
