"""Guests: packages of the extra `guests`, whose models are tested where they are installed.

`python tests/guests.py` installs them, one after the other, and replaces nothing that is there; a package that cannot
be had leaves its tests out.
"""

from __future__ import annotations

import importlib
import re
import subprocess
import sys
import tempfile
import warnings
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

WITHOUT_DEPENDENCIES = {"mmengine", "ultralytics", "ultralytics-thop"}
"""They ask for opencv-python, which needs a display, or again for torch; what else they import is in the extra too."""


def guest(module: str) -> Any:
    """The module of a guest; without it the test that asks for it is left out.

    Ask in a fixture or a test, marked with `pytest.mark.guest`, so that no guest is imported where tests are only
    collected. Warnings of the import itself are not ours, and stay silent.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            return importlib.import_module(module)
        except ImportError as error:
            package = module.partition(".")[0]
            reason = f"left out: {package} is not installed ({error}); `make setup-guests` installs it"
            pytest.skip(reason)


def requirements() -> list[Requirement]:
    """What the extra lists, with its versions, as the file says now: what is installed may be older."""
    text = Path(__file__).parents[1].joinpath("pyproject.toml").read_text(encoding="utf-8")
    (listed,) = re.findall(r"^guests = \[\n(.*?)^\]", text, re.MULTILINE | re.DOTALL)
    return [Requirement(line) for line in re.findall(r'^ *"(.+)",$', listed, re.MULTILINE)]


def missing(requirement: Requirement) -> bool:
    """Whether a package, or one that its extras ask for, is not there at the version that is asked for."""
    try:
        there = distribution(requirement.name)
    except PackageNotFoundError:
        return True
    wanted = map(Requirement, there.requires or [])
    extras = [
        one for one in wanted if one.marker and any(one.marker.evaluate({"extra": e}) for e in requirement.extras)
    ]
    return there.version not in requirement.specifier or any(map(missing, extras))


def pip(*arguments: str) -> str:
    """What pip prints; raises `CalledProcessError` where it fails."""
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    return subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout


def install(wanted: Sequence[Requirement], run: Callable[..., str] = pip) -> list[str]:
    """Install what is missing beside all that is installed, at its versions; the names of what could not be had."""
    left_out = []
    with tempfile.TemporaryDirectory() as folder:
        constraints = Path(folder, "installed.txt")
        for one in filter(missing, wanted):
            constraints.write_text(run("list", "--format=freeze", "--exclude-editable"), encoding="utf-8")
            alone = ["--no-deps"] if one.name in WITHOUT_DEPENDENCIES else []
            print(f"installing {one}", flush=True)
            try:
                run("install", "--quiet", *alone, "-c", str(constraints), str(one))
            except subprocess.CalledProcessError:
                print(f"{one.name} could not be had: tests that need it are left out", flush=True)
                left_out.append(one.name)
    return left_out


if __name__ == "__main__":
    install(requirements())
