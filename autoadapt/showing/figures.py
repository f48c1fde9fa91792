"""Figures: files that matplotlib draws."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from autoadapt.errors import AdaptError, Mismatch
from autoadapt.files.writing import check_place, write_file
from autoadapt.versions import install_line

_ENDINGS = (".svg", ".png", ".pdf")


def check_drawable(path: str | Path | None, error: type[AdaptError]) -> None:
    """Refuse at the door what could not be drawn after minutes of work.

    Args:
        path: Where the figure is to go; None where it goes to no file.
        error: What to raise.

    Raises:
        AdaptError: matplotlib is not installed, the path has another ending than figures have, or it cannot be written.
    """
    if path is not None and Path(path).suffix not in _ENDINGS:
        remedy = str(Path(path).parent / f"{Path(path).stem or 'picture'}.svg")
        fault = Mismatch(str(path), f"one of the endings {', '.join(_ENDINGS)}", Path(path).suffix or "none", remedy)
        raise error(f"{path} is no picture", [fault])
    try:
        import matplotlib.figure  # noqa: F401  # only whether it is there
    except ImportError as missing:
        fault = Mismatch("picture", "matplotlib", "it is not installed", install_line("plot"))
        raise error("nothing to draw with", [fault]) from missing
    if path is not None:
        check_place(path, "picture", error)


def save_figure(figure: Any, path: str | Path) -> None:
    """Write a figure of matplotlib, in the format that the ending of the path says."""
    write_file(path, lambda made: figure.savefig(made, format=Path(path).suffix[1:]))
