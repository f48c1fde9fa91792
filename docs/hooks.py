"""Hooks of mkdocs: pages that are written from the source when the site is built, so that they are always true."""

from __future__ import annotations

import functools
import html
import re
from pathlib import Path
from typing import Any

import typer
from error_texts import CLASSES, OPEN, ErrorText, Fault, error_texts
from notebooks import MAKERS
from typer.cli import get_docs_for_click

from autoadapt.cli import app
from autoadapt.errors.codes import known_codes

GLOSSARY = Path(__file__).with_name("glossary.md")
_TERM = re.compile(r"^\*\*(\w+)\*\*\{ #(\w+) \.linked \}$", re.MULTILINE)
_NO_PROSE = r"^```.*?^```|^#.*?$|^\|.*?$|^::: .*?$|`[^`\n]+`|!?\[[^\]]*\]\([^)]*\)|<[^>]*>|\*\*[^*]*\*\*"
"""Code, headings, tables, links, elements and what is set in bold."""
COMMANDS = "<!-- commands -->"
ERRORS = "<!-- errors -->"


def on_page_markdown(markdown: str, page: Any = None, **_: Any) -> str:
    """Fill in what a page asks for by a comment; a tutorial is offered as a notebook and as a script too."""
    source = page.file.src_uri if page is not None else ""
    if source.startswith("tutorials/"):
        name = Path(source).stem
        links = (f'<a href="{name}{ending}" download>{name}{ending}</a>' for ending in MAKERS)
        markdown += f"\nThis page as a notebook and as a script: {', '.join(links)}\n"
    if page is not None and source != GLOSSARY.name:
        markdown = with_terms(markdown, "../" * source.count("/") + GLOSSARY.name)
    if COMMANDS in markdown:
        markdown = markdown.replace(COMMANDS, command_line())
    if ERRORS in markdown:
        markdown = markdown.replace(ERRORS, error_list())
    return markdown


def with_terms(markdown: str, glossary: str) -> str:
    """Link the first use of each term on a page to the glossary.

    Example:
        >>> with_terms("A `tap`, two taps, one more tap.", "glossary.md")
        'A `tap`, two [taps](glossary.md#tap), one more tap.'
    """
    anchors = {name.lower(): anchor for name, anchor in _TERM.findall(GLOSSARY.read_text(encoding="utf-8"))}
    words = re.compile(rf"{_NO_PROSE}|\b(?P<term>{'|'.join(anchors)})s?\b", re.MULTILINE | re.DOTALL | re.IGNORECASE)

    def linked(found: re.Match[str]) -> str:
        anchor = anchors.pop((found["term"] or "").lower(), None)
        return f"[{found[0]}]({glossary}#{anchor})" if anchor else found[0]

    return words.sub(linked, markdown)


def on_post_build(config: Any, **_: Any) -> None:
    """Write notebooks and scripts beside their pages."""
    for page in sorted((Path(config["docs_dir"]) / "tutorials").glob("*.md")):
        for ending, make in MAKERS.items():
            text = make(page.read_text(encoding="utf-8"))
            (Path(config["site_dir"]) / "tutorials" / f"{page.stem}{ending}").write_text(text, encoding="utf-8")


def on_post_template(output_content: str, **_: Any) -> str:
    """The same of pages that are no page of the manual, such as the one of what is not there."""
    return on_post_page(output_content) if "<html" in output_content else output_content


def on_post_page(output: str, **_: Any) -> str:
    """Names and keyboard focus that the theme leaves out: of search, switches, and code and tables that scroll."""
    output = output.replace(
        'data-md-component="search" role="dialog"', 'data-md-component="search" role="dialog" aria-label="Search"'
    )
    output = re.sub(r'(<input class="[^"]*md-toggle[^"]*")', r'\1 aria-label="Open"', output)
    return output.replace("<pre>", '<pre tabindex="0">').replace("<table>", '<table tabindex="0">')


def command_line() -> str:
    """Every command with its arguments and options, as typer documents them, without its list of cut-off sentences."""
    command = typer.main.get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="autoadapt")
    title, _, rest = html.unescape(text).partition("\n")
    assert title == "# `autoadapt`"
    return re.sub(r"\*\*Commands\*\*:\n\n(\* .*\n)+", "", rest)


def error_list() -> str:
    """Every message by its class, with what it expects, finds and says to do."""
    texts = error_texts()
    parts = []
    for name, kind in CLASSES.items():
        mine = [text for text in texts if text.kind == name]
        said = (kind.__doc__ or "").partition("\n\n")[0]
        parts += [f"## {name}", "", said, "", *map(_message, mine)]
    return "\n".join(parts)


def _message(text: ErrorText) -> str:
    faults = "\n\n".join(filter(None, map(_labelled, text.faults)))
    block = f"\n```text\n{faults}\n```\n" if faults else ""
    code = error_codes()[text.kind, text.summary]
    return f"### {html.escape(text.summary, quote=False)} {{ #{code.lower()} }}\n\n{code}\n{block}"


@functools.cache
def error_codes() -> dict[tuple[str, str], str]:
    """The code of each message."""
    return {said: code for code, said in known_codes().items()}


def _labelled(fault: Fault) -> str:
    """The lines of a fault as they are printed; where the source has several texts, one below the other."""
    labels = {"expected": fault.expected, "found": fault.found, "why": fault.why, "try": fault.remedy}
    lines = []
    for label, texts in labels.items():
        for number, text in enumerate(texts):
            start = f"  {label if number == 0 else 'or':<8}  "
            lines.append(start + text.replace("\n", "\n" + " " * 12))
    return "\n".join(lines) if any(text.strip(OPEN) for text in lines) else ""
