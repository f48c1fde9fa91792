"""Unread tokens: the error that asks for `grid=`, where the tokens of blocks could not be read as cells."""

from __future__ import annotations

from collections.abc import Mapping

from autoadapt.adapting.planning.plans import Tap
from autoadapt.contracts.signature import Signature
from autoadapt.errors import MatchError, Mismatch

LISTED = "timm.create_model(..., features_only=True), which returns the levels that it lists as maps"


def ask_for_grids(source: Signature, taken: Mapping[str, Tap], pairs: Mapping[str, str]) -> None:
    """Refuse taps that the caller did not name if most blocks could not be read: they would be a guess.

    Raises:
        MatchError: There are some; the remedy is the argument `grid`.
    """
    guessed = [name for name, tap in taken.items() if tap.module and name not in pairs.values()]
    if source.unread_tokens and guessed:
        raise ask_for_grid(source)


def ask_for_grid(source: Signature) -> MatchError:
    """The error that asks for the grid of tokens, or for a model that returns its levels as maps."""
    unread = [output for output in source.inner if output.module in source.unread_tokens]
    listed = [output for output in unread if output.listed]
    output = listed[-1] if listed else next(one for one in unread if one.module == source.unread_tokens[-1])
    image = " x ".join(str(sizes.example) for name, sizes in source.axes.items() if name in ("H", "W"))
    told = "neither inner grids nor a run with changed patches tell which cells these are"
    if output.spec.cells == "unknown":
        told = "a run with changed patches tells that these are cells neither in rows nor in columns, or tells nothing"
    fault = Mismatch(
        output.name,
        f"cells of an image of {image}, in rows, behind 0 to 16 other tokens",
        f"{output.spec}, and {told}",
        LISTED if listed else f'grid={{"{output.module}": (rows, columns, leading_tokens, trailing_tokens)}}',
    )
    return MatchError(f"the tokens of {source.name} cannot be read as a grid", [fault])
