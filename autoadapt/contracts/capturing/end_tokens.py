"""End tokens: which vectors are computed only from the first token of a sequence, or only from the last that counts."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from typing import Literal, TypeAlias

import torch

from autoadapt.contracts.capturing.followers import Follower, Made, shared
from autoadapt.contracts.dims import Dim

End: TypeAlias = Literal["first", "last"]


def end_tokens_followed(tokens: Callable[[torch.Tensor], Collection[int]]) -> Follower[End]:
    """Follows first and last tokens from where one token of each sample is selected.

    A token counts as the first one where it is selected by the index 0, and as the last one where it is selected by the
    index -1 or size - 1, as with padding in front, or by a tensor of indices that depends on the input, as with padding
    behind; and so does what is computed from such tokens alone.

    Args:
        tokens: Returns the axes of a tensor that list tokens.
    """

    def picked(made: Made[End]) -> End | None:
        return (_picked(made, tokens) if made.named else None) or shared(made)

    return Follower(dict.fromkeys(("select", "slice", "index", "gather"), picked), shared)


def _picked(made: Made[End], tokens: Callable[[torch.Tensor], Collection[int]]) -> End | None:
    named, read = made.named, made.named["self"]
    if read.dim() != 3 or not read.is_floating_point():
        return None
    if "indices" in named:
        indices = [one for one in named["indices"] if one is not None]
        is_one_each = len(indices) == 2 and made.tensor.dim() == 2 and all(one.dim() == 1 for one in indices)
        depends = any(one is other for one in indices for other in made.given)
        return "last" if is_one_each and depends else None
    axis = named["dim"] % 3
    if axis not in tokens(read):
        return None
    index = named["index"] if "index" in named else named["start"] or 0
    if isinstance(index, torch.Tensor):
        is_one_each = made.tensor.shape[axis] == 1 and any(index is one for one in made.given)
        return "last" if is_one_each else None
    size = read.shape[axis]
    if index % size == size - 1:
        return "last"
    is_one = made.tensor.dim() == 2 or made.tensor.shape[axis] == 1
    return "first" if index % size == 0 and is_one else None


def end_tokens(outputs: Sequence[Sequence[Dim]], told: Sequence[Sequence[End | None]]) -> dict[int, End]:
    """For outputs that are vectors, by number, the token that they are computed from in all runs.

    Args:
        outputs: The dims of each output.
        told: For each run and each output, the token that it was computed from.
    """
    vectors = [i for i, dims in enumerate(outputs) if [bool(dim.axes) for dim in dims] == [True, False]]
    found = {i: {run[i] for run in told} for i in vectors}
    return {i: end for i, ends in found.items() if len(ends) == 1 and (end := next(iter(ends))) is not None}
