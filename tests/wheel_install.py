"""Installs the built wheel into an environment of its own and runs the first block of README there.

By default the environment borrows what this one has installed, so that it takes seconds; `--empty` borrows nothing.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import sysconfig
import tempfile
import time
import venv
from pathlib import Path

ROOT = Path(__file__).parents[1]


def first_block() -> str:
    """The first block of Python in README."""
    return (ROOT / "README.md").read_text(encoding="utf-8").partition("```python\n")[2].partition("```")[0]


def environment(folder: Path, wheel: Path, *, empty: bool) -> Path:
    """An environment with the wheel in it; gives its python."""
    venv.create(folder, with_pip=True)
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not empty:
        site = subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.strip()
        (Path(site) / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n", encoding="utf-8")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    wanted = [f"{wheel}[zoo]"] if empty else ["--no-deps", "--force-reinstall", str(wheel)]
    subprocess.run([*install, *wanted], check=True)
    return python


def main() -> None:
    """Install, run, and say what it took."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dist", type=Path)
    parser.add_argument("--empty", action="store_true", help="borrow nothing: every dependency is installed")
    chosen = parser.parse_args()
    (wheel,) = chosen.dist.resolve().glob("*.whl")
    with tempfile.TemporaryDirectory() as made:
        started = time.perf_counter()
        python = environment(Path(made) / "venv", wheel, empty=chosen.empty)
        where = "import autoadapt; print(autoadapt.__file__)"
        clean = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        found = subprocess.run([python, "-c", where], cwd=made, env=clean, capture_output=True, text=True, check=True)
        assert Path(made).resolve() in Path(found.stdout.strip()).resolve().parents, found.stdout
        shown = subprocess.run(
            [python, "-c", first_block()], cwd=made, env=clean, capture_output=True, text=True, check=False
        )
        if shown.returncode or "adapters" not in shown.stdout:
            sys.exit(shown.stderr or shown.stdout)
        typed = Path(found.stdout.strip()).with_name("py.typed")
        assert typed.is_file(), "the wheel has no py.typed"
        print(f"{wheel.name}: README's first block runs, {time.perf_counter() - started:.0f} s with the install")


if __name__ == "__main__":
    main()
