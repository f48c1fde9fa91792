"""Streams: where blocks end that their caller adds up, so that no module returns what they hand on."""

from __future__ import annotations

from collections.abc import Sequence

from autoadapt.contracts.signature import InnerOutput

__all__ = ["with_streams"]


def with_streams(level: Sequence[InnerOutput], read: Sequence[InnerOutput]) -> list[InnerOutput]:
    """The ends of blocks of one stride, with those that are only read in the place of branches.

    Blocks of which a later one reads the output as it is hand on their output. Of others, such as the two of
    `x = attend(x) + x; x = forward(x) + x`, outputs are branches, and what the next block reads is what they hand on,
    wherever that stands. The sum that a last branch makes is read by no module where a function takes it.

    Args:
        level: The modules at which blocks of the stride end, in the order in which they finish.
        read: What elements of lists read of streams of that stride.
    """
    branches = _branches(level, read)
    if branches or any(block.is_branch for block in level):
        kept = [block for block in level if block not in branches]
        return sorted([*kept, *read], key=lambda output: output.finished)
    wrapped = [one for one in read if any(_is_element(one.module, block.module) for block in level)]
    return sorted([*level, *wrapped], key=lambda output: output.finished)


def _branches(level: Sequence[InnerOutput], read: Sequence[InnerOutput]) -> list[InnerOutput]:
    """The blocks that stand in the same list as those that read a stream, and are not read on as they are.

    And those that a function has made a sum of which is read behind all lists, as by a norm or a head.
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
    """Whether a stream of its dims that is read after it depends on all that it depends on."""
    later = (one for one in read if one.finished > block.finished and one.spec.dims == block.spec.dims)
    return any(not block.behind & ~one.behind for one in later)


def _list_of(path: str) -> str:
    """The list that a module stands in, or the list of lists; empty where it stands in none.

    Example:
        >>> _list_of("layers.3.1"), _list_of("net.norm")
        ('layers', '')
    """
    parts = path.split(".")
    while parts and parts[-1].isdigit():
        parts.pop()
    return ".".join(parts) if len(parts) < len(path.split(".")) else ""


def _is_element(path: str, whole: str) -> bool:
    """Whether a module stands in a list inside another one."""
    return path.startswith(f"{whole}.") and any(part.isdigit() for part in path[len(whole) :].split("."))
