"""Pages: results as one HTML file that needs nothing else, and cannot ask for anything."""

from __future__ import annotations

from pathlib import Path

from autoadapt.contracts.facts import Made
from autoadapt.errors import AdaptError, Mismatch
from autoadapt.errors.given import check_type
from autoadapt.files.writing import check_place, write_file
from autoadapt.showing import RULES, SCOPE, Markup, Section, cell, element, section_element, section_of

__all__ = ["html_report", "write_html"]

_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"
_PAGE = """
html{background:#fff}
@media (prefers-color-scheme:dark){html{background:#0d1117}}
body{margin:0}
footer{margin-top:32px;font-size:13px}
footer code{overflow-wrap:anywhere}
main{max-width:1280px;box-sizing:border-box;margin:0 auto;padding:24px 16px}
"""


def html_report(*results: object, title: str = "", command: str = "") -> str:
    """Results as a page.

    Args:
        results: Signatures, plans, verifications, calibrations, transfers, swaps, assemblies: all that prints as a
            table.
        title: Of the page.
        command: The command line that made it, which stands at the foot beside date and versions.

    Returns:
        A whole document. No script runs in it and nothing is fetched, by its own policy.

    Raises:
        AdaptError: There is no result, or one of them is none.

    Example:
        >>> from autoadapt.contracts.signature import Signature
        >>> page = html_report(Signature.parse({"<b>": "f32[B, 8]"}), title="what it returns")
        >>> "<title>what it returns</title>" in page, "<b>" in page, "&lt;b&gt;" in page
        (True, False, True)
    """
    for name, text in {"title": title, "command": command}.items():
        check_type(text, str, name, f'{name}="a text"')
    if not results:
        fault = Mismatch("results", "at least one result", "none", "html_report(net.plan, net.verify())")
        raise AdaptError("there is nothing to report", [fault])
    sections = [section_of(result) for result in results]
    heading = title or " · ".join(dict.fromkeys(section.title for section in sections))
    alone = len(sections) == 1 and not title
    anchors = [f"result-{i}" for i, _ in enumerate(sections, 1)]
    level = 1 if alone else 2
    made = (section_element(one, level=level, anchor=anchor) for one, anchor in zip(sections, anchors, strict=True))
    contents = [_contents(sections, anchors)] if len(sections) > 1 else []
    body = element("div", *([] if alone else [element("h1", heading)]), *contents, *made, _foot(command), class_=SCOPE)
    return f"<!doctype html>\n{element('html', _head(heading), element('body', element('main', body)), lang='en')}\n"


def write_html(path: str | Path, *results: object, title: str = "", command: str = "") -> None:
    """Write results as one HTML file that opens from disk; see `html_report`.

    Args:
        path: Where to; a file that is there is replaced.
        results: As for `html_report`.
        title: As for `html_report`.
        command: As for `html_report`.

    Raises:
        AdaptError: As by `html_report`; no file is written.
        SavingError: The file cannot be written; what was there is as it was.
    """
    check_place(path, "path")
    write_file(path, html_report(*results, title=title, command=command))


def _head(title: str) -> Markup:
    return element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        element("meta", name_="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name_="color-scheme", content="light dark"),
        element("link", rel="icon", href="data:,"),
        element("title", title),
        element("style", Markup(_PAGE + RULES)),
    )


def _foot(command: str) -> Markup:
    """When and with what the page was made."""
    now = Made.now(command)
    made = f"Made {now.date} UTC with {', '.join(f'{name} {version}' for name, version in now.versions.items())}"
    return element("footer", made, *([" by ", element("code", command)] if command else []))


def _contents(sections: list[Section], anchors: list[str]) -> Markup:
    entries = []
    for section, anchor in zip(sections, anchors, strict=True):
        kind = element("span", section.kind, class_="aa-kindname")
        link = element("a", kind, Markup(" "), section.title, href=f"#{anchor}")
        entries.append(element("li", link, *([cell(section.verdict)] if section.verdict else [])))
    return element("nav", element("ol", *entries), aria_label="results")
