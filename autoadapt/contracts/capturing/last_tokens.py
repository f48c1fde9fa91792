"""Last tokens: which vectors are computed only from the last token of a sequence, or the last one that counts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

import torch

from autoadapt.contracts.capturing.followers import Follower, Made
from autoadapt.contracts.dims import Dim

__all__ = ["last_tokens", "last_tokens_followed"]


def last_tokens_followed(tokens: Callable[[torch.Tensor], Collection[int]]) -> Follower[bool]:
    """Follows last tokens from where one token of each sample is selected.

    A token counts as the last one where it is selected by the index -1 or size - 1, as with padding in front, or by a
    tensor of indices that depends on the input, as with padding behind; and what is computed from such tokens alone.

    Args:
        tokens: Returns the axes of a tensor that list tokens.
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
    """The numbers of outputs that are vectors, computed from last tokens in all runs.

    Args:
        outputs: The dims of each output.
        told: For each run and each output, whether it was computed from last tokens.
    """
    vectors = [i for i, dims in enumerate(outputs) if [bool(dim.axes) for dim in dims] == [True, False]]
    return {i for i in vectors if told and all(run[i] for run in told)}
