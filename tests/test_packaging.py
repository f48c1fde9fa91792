"""What a release needs: metadata, versions that agree, pictures that show on PyPI, code that strict users can check."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from markdown_pages import ROOT, blocks

import autoadapt

if sys.version_info >= (3, 11):
    import tomllib
else:
    tomllib = pytest.importorskip("tomli")

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_metadata_are_complete() -> None:
    assert {"authors", "classifiers", "keywords", "urls", "license", "readme"} <= PROJECT.keys()
    assert "Typing :: Typed" in PROJECT["classifiers"]
    assert (Path(autoadapt.__file__).parent / "py.typed").is_file()
    assert PROJECT["entry-points"]["pytest11"] == {"autoadapt": "autoadapt.testing.pytest_plugin"}


def test_one_version_stands_everywhere() -> None:
    cited = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert PROJECT["version"] == autoadapt.__version__ == cited["version"]
    assert "## [Unreleased]" in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_pictures_of_the_readme_have_absolute_paths() -> None:
    pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", README)
    assert pictures
    assert all(path.startswith("https://") for path in pictures)


def test_readme_says_how_to_install_before_anything_runs() -> None:
    install, first = README.index("## Install"), README.index("```python")
    assert install < first
    said = README[install:first]
    assert 'pip install ".[zoo]"' in said
    assert "https://download.pytorch.org/whl/cpu" in said
    assert "py -m venv" in said
    assert "[zoo,onnx]" in said
    extras = set(re.findall(r"\[(\w+(?:,\w+)*)\]`", said))
    assert {name for extra in extras for name in extra.split(",")} <= PROJECT["optional-dependencies"].keys()


def test_workflows_test_what_the_metadata_promise() -> None:
    folder = ROOT / ".github" / "workflows"
    jobs = yaml.safe_load((folder / "tests.yml").read_text(encoding="utf-8"))["jobs"]
    pythons = jobs["tests"]["strategy"]["matrix"]["python"]
    promised = [kind.rpartition(" ")[2] for kind in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", kind)]
    assert pythons == promised
    assert {path.name for path in folder.glob("*.yml")} == {"tests.yml", "release.yml", "docs.yml"}


@pytest.mark.slow
def test_the_code_of_the_readme_passes_strict_mypy(tmp_path: Path) -> None:
    code = "\n".join(block.code for block in blocks(ROOT / "README.md") if "class Points" not in block.code)
    (tmp_path / "readme.py").write_text(code, encoding="utf-8")
    command = [sys.executable, "-m", "mypy", "--strict", "--config-file=", "--ignore-missing-imports", "readme.py"]
    command += ["--disable-error-code", "no-untyped-call", "--follow-imports", "silent"]
    done = subprocess.run(
        command, cwd=tmp_path, env={"MYPYPATH": str(ROOT), "PATH": ""}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout
