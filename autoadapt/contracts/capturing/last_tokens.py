"""Last tokens: which vectors are made of the token at the end of a sequence, or of the last one that counts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch

from autoadapt.contracts.capturing.followers import Follower, Made
from autoadapt.contracts.dims import Dim

__all__ = ["last_tokens", "last_tokens_followed"]


def last_tokens_followed(tokens: Callable[[torch.Tensor], Collection[int]]) -> Follower[bool]:
    """Follows them from where one of each sample's tokens is picked.

    It is the last one where it is picked by -1 or by the size, as with padding in front, and where a tensor tells which
    for each sample, as with padding behind: of lengths, or of where the end is found. What is made of picked ones
    alone is one as well.

    Args:
        tokens: Gives the axes of a tensor that list tokens.
    """

    def picked(made: Made[bool]) -> bool | None:
        return True if made.named and _picks_last(made, tokens) else _alone(made)

    return Follower(dict.fromkeys(("select", "slice", "index", "gather"), picked), _alone)


def _alone(made: Made[bool]) -> bool | None:
    return True if made.given and all(made.told) else None


def _picks_last(made: Made[bool], tokens: Callable[[torch.Tensor], Collection[int]]) -> bool:
    named, read = made.named, made.named["self"]
    if read.dim() != 3 or not read.is_floating_point():
        return False
    if "indices" in named:
        indices = [one for one in named["indices"] if one is not None]
        is_one_each = len(indices) == 2 and made.tensor.dim() == 2 and all(one.dim() == 1 for one in indices)
        return is_one_each and any(one is other for one in indices for other in made.given)
    axis = named["dim"] % 3
    if axis not in tokens(read):
        return False
    index = named["index"] if "index" in named else named["start"] or 0
    if isinstance(index, torch.Tensor):
        return made.tensor.shape[axis] == 1 and any(index is one for one in made.given)
    return bool((index - read.shape[axis]) % read.shape[axis] == read.shape[axis] - 1)


def last_tokens(outputs: Sequence[Sequence[Dim]], told: Sequence[Sequence[bool]]) -> set[int]:
    """The outputs that are vectors made of last tokens in all runs, by their number.

    Args:
        outputs: The dims of each output.
        told: For each run and output whether it was one.
    """
    vectors = [i for i, dims in enumerate(outputs) if [bool(dim.axes) for dim in dims] == [True, False]]
    return {i for i in vectors if told and all(run[i] for run in told)}
