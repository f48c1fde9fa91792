"""What `make` runs: which tests, in which order, and what its exit code says; and how guests are installed."""

from __future__ import annotations

import shutil
import subprocess
from importlib.metadata import distribution
from pathlib import Path

import guests
import pytest
from markdown_pages import ROOT
from packaging.requirements import Requirement

needs_make = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def made(target: str, folder: Path, first: int, second: int) -> tuple[int, list[str]]:
    """The exit code of a target, and its calls of pytest, where the two in `test` and in `test-rest` end so."""
    for installed in (".demo", ".installed"):
        (folder / installed).touch()
    calls = folder / "calls"
    python = folder / "python"
    python.write_text(
        f'#!/bin/sh\necho "$@" >> {calls}\ncase "$*" in *" -n "*) exit {first};; *pytest*) exit {second};; esac\n'
    )
    python.chmod(0o755)
    command = ["make", target, f"VENV={folder}", f"BIN={folder}"]
    code = subprocess.run(command, cwd=ROOT, capture_output=True, check=False).returncode
    return code, [call for call in calls.read_text().splitlines() if call.startswith("-m pytest ")]


@needs_make
@pytest.mark.parametrize("target", ["test", "test-rest", "test-all"])
@pytest.mark.parametrize(
    ("first", "second", "passed"),
    [(0, 0, True), (1, 0, False), (0, 1, False), (2, 5, False), (5, 5, True), (0, 5, True)],
)
def test_all_parts_run_whatever_came_of_the_others_and_the_exit_code_tells(
    target: str, first: int, second: int, passed: bool, tmp_path: Path
) -> None:
    code, calls = made(target, tmp_path, first, second)
    assert (code == 0) == passed
    assert len(calls) == (4 if target == "test-all" else 2)
    assert ["-n 2" in call for call in calls] == [True, False] * (len(calls) // 2)
    assert all("--durations=10" in call for call in calls)


@needs_make
def test_no_test_is_run_twice_and_none_is_left_out(tmp_path: Path) -> None:
    _, calls = made("test-all", tmp_path, 0, 0)
    chosen = [call.rpartition(" -m ")[2] for call in calls]
    for slow in (True, False):
        for guest in (True, False):
            for measures in (True, False):
                marks = {"slow": slow, "guest": guest, "measures": measures}
                assert sum(eval(expression, marks) for expression in chosen) == 1


def test_ci_runs_the_checks_and_all_tests() -> None:
    lines = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if line.startswith("make ")] == ["make check", "make test", "make test-rest"]


def test_a_guest_that_is_not_there_leaves_its_test_out_and_says_so() -> None:
    with pytest.raises(pytest.skip.Exception, match=r"left out: nobody is not installed .*`make setup-guests`"):
        guests.guest("nobody.at.home")
    assert guests.guest("json").loads("1") == 1


def test_every_guest_has_one_version() -> None:
    listed = guests.requirements()
    assert {"monai", "mmengine", "ray"} <= {one.name for one in listed}
    assert all(str(one.specifier).startswith("==") for one in listed)
    assert {one.name for one in listed} >= guests.WITHOUT_DEPENDENCIES


def test_a_guest_that_cannot_be_had_is_named_and_the_next_is_installed(capsys: pytest.CaptureFixture[str]) -> None:
    calls = []

    def run(*arguments: str) -> str:
        calls.append(arguments)
        if arguments[-1] == "nobody==1":
            raise subprocess.CalledProcessError(1, "pip")
        if arguments[0] == "install":
            constraints = arguments[arguments.index("-c") + 1]
            assert Path(constraints).read_text() == "torch==2.14.1\n"
        return "torch==2.14.1\n"

    wanted = [Requirement(text) for text in ("pytest>=1", "nobody==1", "mmengine==0", "somebody==2")]
    assert guests.install(wanted, run) == ["nobody"]
    assert [call[-1] for call in calls if call[0] == "install"] == ["nobody==1", "mmengine==0", "somebody==2"]
    assert ["--no-deps" in call for call in calls if call[0] == "install"] == [False, True, False]
    assert "nobody could not be had: tests that need it are left out" in capsys.readouterr().out


def test_a_guest_without_what_its_extra_asks_for_is_installed_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class There:
        version = "1"
        requires = ("nobody>=1; extra == 'cluster'", "pytest", "nobody; extra == 'another'")

    there = {"dask": There, "pytest": There}
    monkeypatch.setattr(guests, "distribution", lambda name: there.get(name) or distribution(name))
    commands: list[tuple[str, ...]] = []
    wanted = [Requirement("dask==1"), Requirement("dask[cluster]==1")]
    assert guests.install(wanted, lambda *command: commands.append(command) or "") == []
    assert [command[-1] for command in commands if command[0] == "install"] == ["dask[cluster]==1"]
