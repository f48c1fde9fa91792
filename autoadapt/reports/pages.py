"""Pages: results as one HTML file that needs nothing else, and cannot ask for anything."""

from __future__ import annotations

from pathlib import Path

from autoadapt.contracts.facts import Made
from autoadapt.errors import AdaptError, Mismatch
from autoadapt.errors.given import check_type
from autoadapt.files.writing import check_place, write_file
from autoadapt.showing import page, section_of


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
        remedy = 'aa.write_html("report.html", net.plan, net.verify())'
        fault = Mismatch("results", "at least one result", "none", remedy)
        raise AdaptError("there is nothing to report", [fault])
    sections = [section_of(result) for result in results]
    heading = title or " · ".join(dict.fromkeys(section.title for section in sections))
    alone = len(sections) == 1 and not title
    made = Made.now()
    return str(page(sections, heading=heading, alone=alone, made=made, command=command or made.command))


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
