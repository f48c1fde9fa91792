"""README and manual are true: their code runs and prints what they show, and every name and message has its place."""

from __future__ import annotations

import re
import shutil
from pathlib import Path
from types import ModuleType

import point_clouds
import pytest
from markdown_pages import ROOT, agrees, blocks, outputs

import autoadapt as aa

DOCS = ROOT / "docs"
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
RUN = [page for page in PAGES if blocks(page)]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def given(page: Path) -> dict[str, object]:
    """What a page leaves to its reader: the README's point-cloud recipe names backbones that a tutorial makes."""
    names: dict[str, object] = {"__name__": "__page__"}
    if page.name == "README.md":
        names.update(
            pointformer=point_clouds.PointTransformer(), pointnet=point_clouds.PointNet(), cloud=point_clouds.cloud()
        )
    return names


@pytest.mark.parametrize("page", RUN, ids=name_of)
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # the exporter's own
def test_every_block_runs_and_prints_what_the_page_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    for block, text in outputs(page, given(page)):
        assert agrees(block, text), f"{name_of(page)}:{block.shown_line} is not what is printed:\n{text}"
