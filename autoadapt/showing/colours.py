"""Operations: how each is explained, and the class that colours it; see `templates/colours.css`."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["KINDS", "Kind", "kind_class"]


@dataclass(frozen=True)
class Kind:
    """How an operation is explained."""

    word: str
    says: str


KINDS = {
    "drop": Kind("drop", "leaves leading entries out"),
    "take": Kind("take", "takes the class token"),
    "rearrange": Kind("rearrange", "moves, splits, merges axes"),
    "mean": Kind("mean", "averages whole axes"),
    "pool": Kind("pool", "averages cells"),
    "resize": Kind("resize", "interpolates to exact sizes"),
    "resample": Kind("resample", "samples at old cell centres"),
    "project": Kind("project", "learned map of channels"),
    "ones": Kind("ones", "one channel for the offset"),
    "cast": Kind("cast", "another dtype"),
    "remask": Kind("remask", "a mask of another form"),
    "hide": Kind("hide", "zeros where a mask hides"),
    "restore": Kind("restore", "norm 1 or sum 1 as before"),
    "lead": Kind("lead", "a class token of the mean"),
    "native": Kind("native", "reads images at their own size"),
    "pad": Kind("pad", "zeros below and to the right"),
    "renormalize": Kind("renormalize", "other mean, range, order"),
    "copy": Kind("copy", "keeps the given tensor as it is"),
    "channels": Kind("channels", "first layer reads others"),
    "recover": Kind("recover", "finds rows in an input"),
    "thin": Kind("thin", "takes some of the points"),
}
"""By the operation's name in a plan."""


def kind_class(kind: str) -> str:
    """The class that gives an element the colours of an operation."""
    return f"aa-{kind}" if kind in KINDS else "aa-plain"
