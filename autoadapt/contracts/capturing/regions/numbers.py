"""Numbers: integers that modules return beside tensors, such as the rows and columns of their tokens."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch

from autoadapt.contracts.trees import Constant, Container, Slot, Tree


def with_numbers(tree: Tree, tensors: Sequence[torch.Tensor]) -> tuple[Tree, list[torch.Tensor | int]]:
    """A tree with its positive integers as leaves too, since they may depend on the size of the input; and all leaves.

    Example:
        >>> from autoadapt.contracts.trees import flatten
        >>> with_numbers(*flatten([4, True, None]))[1]
        [4]
    """
    leaves: list[torch.Tensor | int] = []
    return _walked(tree, iter(tensors), leaves), leaves


def _walked(tree: Tree, remaining: Iterator[torch.Tensor], leaves: list[torch.Tensor | int]) -> Tree:
    """As `with_numbers`; tensors are used up, and leaves are appended, in order."""
    match tree:
        case Slot():
            leaves.append(next(remaining))
            return tree
        case Constant(value=int(value)) if not isinstance(value, bool) and value > 0:
            leaves.append(value)
            return Slot()
        case Container():
            children = tuple(_walked(child, remaining, leaves) for child in tree.children)
            return tree.model_copy(update={"children": children})
        case _:
            return tree


def as_sizes(leaf: torch.Tensor | int) -> torch.Tensor:
    """A tensor as it is; a number as a tensor of that size, so that a capture finds it as a function of the input."""
    return leaf if isinstance(leaf, torch.Tensor) else torch.zeros((), dtype=torch.bool).expand(leaf)
