"""Last tokens: which vectors are made of the token at the end of a sequence, or of the last one that counts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import torch

from autoadapt.contracts.capturing.by_tensor import ByTensor
from autoadapt.contracts.dims import Dim

__all__ = ["LastTokens", "last_tokens"]


class LastTokens:
    """Follows them through what torch runs: from where one of each sample's tokens is picked.

    It is the last one where it is picked by -1 or by the size, as with padding in front, and where a tensor tells which
    for each sample, as with padding behind: of lengths, or of where the end is found. What is made of picked ones
    alone is one as well.

    Args:
        tokens: Gives the axes of a tensor that list tokens.
    """

    def __init__(self, tokens: Callable[[torch.Tensor], Collection[int]]) -> None:
        self._tokens = tokens
        self._found = ByTensor[bool]()

    def is_one(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is made of such tokens alone."""
        return bool(self._found.get(tensor))

    def note(
        self, name: str, named: Mapping[str, Any], given: Sequence[torch.Tensor], made: Sequence[torch.Tensor]
    ) -> None:
        """Note what an operation makes.

        Args:
            name: Of the operation.
            named: Its arguments.
            given: The tensors among these that depend on the input of the module.
            made: What it returns.
        """
        picks = name in _PICKING and bool(named) and self._picks_last(name, named, given, made[0])
        if picks or self._found:
            told = True if picks or (given and all(map(self.is_one, given))) else None
            for tensor in made:
                self._found.put(tensor, told)

    def _picks_last(
        self, name: str, named: Mapping[str, Any], given: Sequence[torch.Tensor], made: torch.Tensor
    ) -> bool:
        read: torch.Tensor = named["self"]
        if read.dim() != 3 or not read.is_floating_point():
            return False
        if name == "index":
            indices = [one for one in named["indices"] if one is not None]
            is_one_each = len(indices) == 2 and made.dim() == 2 and all(one.dim() == 1 for one in indices)
            return is_one_each and any(one is other for one in indices for other in given)
        axis = named["dim"] % 3
        if axis not in self._tokens(read):
            return False
        if name == "gather":
            return made.shape[axis] == 1 and any(named["index"] is one for one in given)
        first = named["index"] if name == "select" else named.get("start") or 0
        return bool((first - read.shape[axis]) % read.shape[axis] == read.shape[axis] - 1)


_PICKING = frozenset({"select", "slice", "index", "gather"})


def last_tokens(outputs: Sequence[Sequence[Dim]], told: Sequence[Sequence[bool]]) -> set[int]:
    """The outputs that are vectors made of last tokens in all runs, by their number.

    Args:
        outputs: The dims of each output.
        told: For each run and output whether it was one.
    """
    vectors = [i for i, dims in enumerate(outputs) if [bool(dim.axes) for dim in dims] == [True, False]]
    return {i for i in vectors if told and all(run[i] for run in told)}
