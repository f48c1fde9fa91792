"""README and manual are true: their code runs and prints what they show, and every name and message has its place."""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import typer
from guests import guest
from markdown_pages import ROOT, agrees, blocks, outputs
from torch import nn

import autoadapt as aa
from autoadapt.assembly.registry import PARTS
from autoadapt.cli import app
from autoadapt.errors.codes import code_of, fits, known_codes
from autoadapt.reports import plan_svg

DOCS = ROOT / "docs"
sys.path.append(str(DOCS))  # where the hooks of the site stand

import architecture_picture  # noqa: E402
import depth_picture  # noqa: E402
import error_codes  # noqa: E402
import error_texts  # noqa: E402
import gallery_pictures  # noqa: E402
import hooks  # noqa: E402
import notebooks  # noqa: E402

PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]
RUN = [page for page in PAGES if blocks(page)]
SLOW = (
    "README.md",
    *(
        f"docs/{page}.md"
        for page in (
            "how-it-works",
            "more-than-one-machine",
            "tutorials/detector",
            "tutorials/hugging-face",
            "tutorials/old-head",
            "tutorials/pose",
            "tutorials/segmentation",
            "tutorials/ship-it",
            "tutorials/test-your-adapters",
            "tutorials/text-sound-clips-graphs",
            "tutorials/training-on",
            "verbs/distil",
        )
    ),
)


GUESTS = {"docs/tutorials/ultralytics.md": "ultralytics", "docs/tutorials/lightning.md": "pytorch_lightning"}
"""Pages that need a package which is none of ours."""


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


def marks_of(page: Path) -> list[pytest.MarkDecorator]:
    wanted = {"slow": name_of(page) in SLOW, "guest": name_of(page) in GUESTS}
    theirs = [pytest.mark.filterwarnings("ignore")] if name_of(page) in GUESTS else []
    return [*theirs, *(getattr(pytest.mark, mark) for mark, is_wanted in wanted.items() if is_wanted)]


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=marks_of(page)) for page in RUN],
    ids=[name_of(page) for page in RUN],
)
@pytest.mark.filterwarnings("ignore:.*:DeprecationWarning")  # the exporter's own
def test_every_block_runs_and_prints_what_the_page_shows(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name_of(page) in GUESTS:
        guest(GUESTS[name_of(page)])
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    own = {key: part for key, part in PARTS._parts.items() if part.make.__module__.startswith("autoadapt.")}
    monkeypatch.setattr(PARTS, "_parts", own)  # without those that other tests have registered
    for block, text in outputs(page, {"__name__": "__page__"}):
        assert agrees(block, text), f"{name_of(page)}:{block.shown_line} is not what is printed:\n{text}"
    sys.modules.pop("adapted", None)


def test_every_line_of_code_fits_beside_the_navigation() -> None:
    """88 columns, as `docs/extra.css` has room for."""
    wide = [
        f"{name_of(page)}: {line}"
        for page in PAGES
        for code in re.findall(r"^```(?:python|yaml)\n(.*?)^```$", page.read_text("utf-8"), re.MULTILINE | re.DOTALL)
        for line in code.split("\n")
        if len(line) > 88
    ]
    assert not wide


def test_no_page_shows_dots_for_what_is_printed() -> None:
    shown = {name_of(page): [block.shown or "" for block in blocks(page)] for page in RUN}
    dots = re.compile(r"^\.\.\..*|\.\.\. ?(?:s|kB|MB)\b|\.\.\.\}$|(?:by|of|found) +\.\.\.", re.MULTILINE)
    assert {name: found for name, texts in shown.items() if (found := dots.findall("\n".join(texts)))} == {}


def test_terms_are_linked_to_the_glossary_where_a_page_first_uses_them_in_its_text() -> None:
    page = "# A tap\n\nA `level`, a [level](x.md), a **level**: Levels, levels.\n\n```python\ntap\n```\n\n| tap |\n"
    assert hooks.with_terms(page, "../glossary.md") == page.replace("Levels", "[Levels](../glossary.md#level)")
    used = hooks.with_terms((DOCS / "how-it-works.md").read_text("utf-8"), "glossary.md")
    assert {"contract", "level", "projection", "tap"} <= set(re.findall(r"\]\(glossary\.md#(\w+)\)", used))


def test_no_block_is_left_out() -> None:
    left = [f"{name_of(page)}:{block.line} {block.not_run}" for page in RUN for block in blocks(page) if block.not_run]
    assert not left


def test_the_picture_of_depth_is_what_its_script_draws() -> None:
    assert (DOCS / "depth.svg").read_text(encoding="utf-8") == depth_picture.picture()
    assert (DOCS / "architecture.svg").read_text(encoding="utf-8") == architecture_picture.picture()


def test_the_gallery_has_twelve_pictures_and_each_is_what_its_script_draws() -> None:
    assert len(gallery_pictures.PLANS) == 12
    for folder in (DOCS / "gallery", DOCS / "gallery" / "narrow"):
        assert {path.stem for path in folder.glob("*.svg")} == set(gallery_pictures.PLANS)
    assert (DOCS / "gallery.md").read_text(encoding="utf-8") == gallery_pictures.page()
    for name in ("points", "sequence"):
        plan = gallery_pictures.PLANS[name][1]()
        assert (DOCS / "gallery" / f"{name}.svg").read_text(encoding="utf-8") == plan_svg(plan)
        narrow = DOCS / "gallery" / "narrow" / f"{name}.svg"
        assert narrow.read_text(encoding="utf-8") == plan_svg(plan, narrow=True)
    assert (DOCS / "plan.svg").read_bytes() == (DOCS / "gallery" / "vit.svg").read_bytes()


@pytest.mark.slow
def test_every_tutorial_is_offered_as_a_notebook_and_a_script_with_the_code_of_the_page(site: Path) -> None:
    pages = sorted((DOCS / "tutorials").glob("*.md"))
    for page in pages:
        made = json.loads((site / "tutorials" / f"{page.stem}.ipynb").read_text(encoding="utf-8"))
        code = ["".join(cell["source"]) for cell in made["cells"] if cell["cell_type"] == "code"]
        assert code[1:] == [block.code.strip() for block in blocks(page)], page.name
        for ending in (".ipynb", ".py"):
            assert f'href="{page.stem}{ending}"' in (site / "tutorials" / f"{page.stem}.html").read_text("utf-8")
        compile((site / "tutorials" / f"{page.stem}.py").read_text("utf-8"), page.name, "exec")


SHORT = "```python\nwords = ['made', 'up']\n```\n\nand\n\n```python\nprint(*words)\n```\n\n```text\nmade up\n```\n"


def tutorials(*names: str) -> pytest.MarkDecorator:
    """A short page, and pages of the manual, which take long."""
    slow = [pytest.param(name, marks=pytest.mark.slow) for name in names]
    return pytest.mark.parametrize("tutorial", ["short", *slow], indirect=True)


@pytest.fixture
def tutorial(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A page in the working folder."""
    monkeypatch.chdir(tmp_path)
    text = SHORT if request.param == "short" else (DOCS / "tutorials" / f"{request.param}.md").read_text("utf-8")
    Path("page.md").write_text(text, encoding="utf-8")
    return tmp_path / "page.md"


@tutorials("point-cloud")
def test_a_notebook_runs_from_its_first_cell_to_its_last(tutorial: Path) -> None:
    made = json.loads(notebooks.notebook(tutorial.read_text(encoding="utf-8")))
    names: dict[str, object] = {"__name__": "__notebook__"}
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for cell in made["cells"]:
            if cell["cell_type"] == "code":
                exec("".join(cell["source"]), names)
    assert printed.getvalue().split() == shown(tutorial)


@tutorials("point-cloud", "test-your-adapters")
def test_a_tutorial_as_a_script_prints_what_its_page_shows(tutorial: Path) -> None:
    Path("page.py").write_text(notebooks.script(tutorial.read_text(encoding="utf-8")), encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "page.py"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == shown(tutorial)


def shown(page: Path) -> list[str]:
    """The words that a page says are printed."""
    return "\n".join(block.shown for block in blocks(page) if block.shown).split()


def test_the_readme_shows_what_the_first_lines_print() -> None:
    first = blocks(ROOT / "README.md")[0]
    assert "print(net.plan)" in first.code
    assert "contract of timm:resnet101 (FeatureListNet)" in str(first.shown)
    assert "keeps its signature" in str(first.shown)


def test_a_page_that_shows_something_else_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nprint('2.5 s')\nprint('done')\n```\n\n```text\n31 s\nleft\n```\n")
    (block, text), *rest = outputs(page)
    assert not rest
    assert not agrees(block, text)
    page.write_text(page.read_text().replace("left", "done"))
    assert all(agrees(block, text) for block, text in outputs(page))


def test_every_public_name_has_its_place_in_the_reference() -> None:
    written = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    described = set(re.findall(r"^::: autoadapt\.(\w+)$", written, re.MULTILINE))
    listed = {text.kind for text in error_texts.error_texts()} | {"AdaptError"}
    missing = set(aa.__all__) - described - listed
    assert not missing
    assert described <= set(aa.__all__)


def test_the_command_line_page_has_every_command_and_option() -> None:
    page = hooks.command_line()
    command = typer.main.get_command(app)
    context = typer.Context(command)
    for name in command.list_commands(context):  # type: ignore[attr-defined]
        assert f"\n## `autoadapt {name}`\n" in page
        for parameter in command.get_command(context, name).params:  # type: ignore[attr-defined]
            assert any(f"`{text}" in page for text in (*parameter.opts, parameter.name)), (name, parameter.name)


def test_the_message_of_every_error_in_the_source_can_be_read() -> None:
    assert error_texts.unread() == []
    assert len(error_texts.error_texts()) > 200


def test_a_message_that_cannot_be_read_is_found(tmp_path: Path) -> None:
    (tmp_path / "steps.py").write_text(
        "def step(said, path):\n"
        "    if path:\n"
        "        raise SourceError(f'{path} is gone', [Mismatch(path, 'a file', 'nothing', 'make it')])\n"
        "    raise PlanError(said[0])\n"
    )
    (text,) = error_texts.error_texts(tmp_path)
    assert (text.kind, text.summary) == ("SourceError", "… is gone")
    assert text.faults == (error_texts.Fault(("a file",), ("nothing",), (), ("make it",)),)
    assert error_texts.unread(tmp_path) == ["steps.py:4"]


def old() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 8, 2, stride=2), nn.ReLU())


RAISED: dict[str, Callable[[], object]] = {
    "a misspelt place": lambda: aa.swap(old(), "3", nn.Identity(), inputs=torch.zeros(1, 3, 8, 8)),
    "a model in itself": lambda: aa.swap(old(), "", nn.Identity(), inputs=torch.zeros(1, 3, 8, 8)),
    "a dim": lambda: aa.Dim.parse("H +"),
    "a scheme": lambda: aa.load("timmm:resnet18"),
    "a model": lambda: aa.load("timm:resnet81"),
    "a checkpoint": lambda: aa.transfer("nowhere.pth", old()),
    "a total miss": lambda: aa.transfer({"unknown": torch.zeros(3)}, old()),
    "a config": lambda: aa.assemble("backbone: [1"),
    "an output": lambda: aa.adapt(old(), like=old(), inputs=torch.zeros(1, 3, 8, 8), outputs=["c9"]),
    "inputs": lambda: aa.capture(old(), torch.zeros(1, 5, 8, 8)),
    "indices": lambda: aa.plan(
        aa.Signature.parse("f32[B, 8, H, W]", inputs="f32[B, 3, H, W]"),
        aa.Signature.parse("i64[B, 16] index", inputs="f32[B, 3, H, W]"),
    ),
    "a folder": lambda: aa.restore("nowhere"),
    "no candidate": lambda: aa.rank([], old(), inputs=torch.zeros(1, 3, 8, 8)),
    "no projection": lambda: aa.fold(old(), at="0", inputs=torch.zeros(1, 3, 8, 8)),
    "no images": lambda: aa.calibrate(old(), like=old(), data=[]),
}


@pytest.mark.parametrize("raised", RAISED.values(), ids=list(RAISED))
def test_an_error_that_is_raised_is_on_the_page(raised: Callable[[], object]) -> None:
    with pytest.raises(aa.AdaptError) as caught:
        raised()
    kind, summary = type(caught.value).__name__, caught.value.summary
    assert any(text.kind == kind and text.fits(summary) for text in error_texts.error_texts()), (kind, summary)
    assert f"\n## {kind}\n" in f"\n{hooks.error_list()}"


def test_every_message_has_a_code_that_stays() -> None:
    """`python docs/error_codes.py` gives new messages theirs."""
    assert error_codes.all_codes() == known_codes()
    assert {(text.kind, text.summary) for text in error_texts.error_texts()} <= set(known_codes().values())


def test_a_code_whose_message_is_no_longer_said_is_kept_but_leads_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = error_texts.error_texts()
    monkeypatch.setattr(error_codes, "error_texts", lambda: texts[1:])
    gone = next(code for code, said in known_codes().items() if said == (texts[0].kind, texts[0].summary))
    found = error_codes.all_codes()
    assert found.pop(gone) == (texts[0].kind, "")
    assert found == {code: said for code, said in known_codes().items() if code != gone}
    assert code_of((texts[0].kind,), "") == ""


@pytest.mark.parametrize("raised", RAISED.values(), ids=list(RAISED))
def test_an_error_leads_to_its_place_in_the_manual(raised: Callable[[], object]) -> None:
    with pytest.raises(aa.AdaptError) as caught:
        raised()
    error = caught.value
    kind, template = known_codes()[error.code]
    assert kind == type(error).__name__
    assert fits(template, error.summary)
    assert f"{{ #{error.code.lower()} }}" in hooks.error_list()
    assert error.__notes__ == [f"{error.code}  https://autoadapt.github.io/autoadapt/errors.html#{error.code.lower()}"]


def test_a_message_of_somebody_else_has_no_code_and_a_note_can_be_added() -> None:
    error = aa.AdaptError("said by nobody here")
    assert (error.code, error.url) == ("", "")
    if sys.version_info >= (3, 11):
        error.add_note("seen in the nightly run")
        assert error.__notes__ == ["seen in the nightly run"]


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built site; a warning, such as a link that leads nowhere, is an error."""
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_a_page_asks_nothing_of_another_host(site: Path) -> None:
    said = r"<link\b(?![^>]*\brel=.?canonical)[^>]*\bhref=.?https?:[^ >]*"  # a canonical address is told, not asked
    asked = re.compile(r"<(?:script|img|iframe|source)\b[^>]*\bsrc=.?https?:[^ >]*|" + said)
    for page in site.rglob("*.html"):
        assert not asked.findall(page.read_text(encoding="utf-8")), page.name
    for style in site.rglob("*.css"):
        assert not re.findall(r"url\([\"']?https?:|@import", style.read_text(encoding="utf-8")), style.name


def test_make_check_builds_the_site_so_that_a_warning_stops_it() -> None:
    recipe = (ROOT / "Makefile").read_text(encoding="utf-8")
    (command,) = re.findall(r"mkdocs build.*", recipe)
    assert "--strict" in command
    assert "--quiet" not in command  # with it mkdocs counts no warnings
    assert "$(MAKE) docs" in recipe.split("\ncheck:")[1].split("\n\n")[0]


@pytest.mark.slow
def test_examples_in_docstrings_are_shown_as_code(site: Path) -> None:
    page = (site / "verbs" / "adapt.html").read_text(encoding="utf-8")
    assert page.count("&gt;&gt;&gt; ") == 3
    assert "<blockquote>" not in page
