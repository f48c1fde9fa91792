"""Streams: the ends of blocks whose caller adds their output to a residual stream that no module returns."""

from __future__ import annotations

from collections.abc import Sequence

from autoadapt.contracts.signature import InnerOutput


def with_streams(level: Sequence[InnerOutput], read: Sequence[InnerOutput]) -> list[InnerOutput]:
    """The ends of blocks of one stride, where streams that modules read replace outputs that are only branches.

    A block whose output a later one reads unchanged ends with that output. The outputs of others, such as the two in
    `x = attend(x) + x; x = forward(x) + x`, are residual branches; the stream behind them is what the next block reads.
    The sum behind the last branch is missing where a function reads it, and no module.

    Args:
        level: The outputs of blocks of the stride, in the order in which they finish.
        read: The streams of that stride that modules read.
    """
    branches = _branches(level, read)
    if branches or any(block.is_branch for block in level):
        kept = [block for block in level if block not in branches]
        return sorted([*kept, *read], key=lambda output: output.finished)
    wrapped = [one for one in read if any(_is_element(one.module, block.module) for block in level)]
    return sorted([*level, *wrapped], key=lambda output: output.finished)


def _branches(level: Sequence[InnerOutput], read: Sequence[InnerOutput]) -> list[InnerOutput]:
    """The blocks whose outputs are branches.

    These are blocks in a list whose elements read a stream, unless a later module reads their output unchanged; and
    those with a sum behind them that is read after all lists, as by a norm or a head.
    """
    lists, behind = {_list_of(one.module) for one in read} - {""}, [one for one in read if not _list_of(one.module)]
    return [
        block
        for block in level
        if (_list_of(block.module) in lists and not block.read_on)
        or (block.is_branch and _is_summed(block, read))
        or (_list_of(block.module) and not block.read_on and _is_summed(block, behind))
    ]


def _is_summed(block: InnerOutput, read: Sequence[InnerOutput]) -> bool:
    """Whether a later stream of the same dims depends on all parameters that a block's output depends on."""
    later = (one for one in read if one.finished > block.finished and one.spec.dims == block.spec.dims)
    return any(not block.behind & ~one.behind for one in later)


def _list_of(path: str) -> str:
    """The path of the list whose element a module is, the outermost of nested ones; empty where it is in none.

    Example:
        >>> _list_of("layers.3.1"), _list_of("net.norm")
        ('layers', '')
    """
    parts = path.split(".")
    while parts and parts[-1].isdigit():
        parts.pop()
    return ".".join(parts) if len(parts) < len(path.split(".")) else ""


def _is_element(path: str, whole: str) -> bool:
    """Whether a module is in a list inside of another module."""
    return path.startswith(f"{whole}.") and any(part.isdigit() for part in path[len(whole) :].split("."))
