"""What tests of the command line share."""

from pathlib import Path

import pytest


@pytest.fixture
def folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that `made` of the test's file has filled, as the working folder."""
    monkeypatch.chdir(made)
    monkeypatch.setenv("XDG_CACHE_HOME", str(made / "cache"))
    return made
