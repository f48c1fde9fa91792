"""Returned masks: outputs that are the mask of the output's frames, computed from an input mask of samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import Form, Mask, Returned, frames_of

# Dimension letters: B batch, N tokens or samples, M frames.


def returned_mask(
    path: str,
    mask: Mask,
    lengths: Sequence[Dim],
    runs: Sequence[tuple[torch.Tensor, torch.Tensor]],
) -> Returned | None:
    """The form in which an output is a mask of frames; None where it is none.

    Args:
        path: The path of the output.
        mask: The input mask.
        lengths: Dims that may be the number of frames.
        runs: For two runs or more, which samples the mask let count, `[B, N]`, and the output.
    """
    kinds: tuple[tuple[Form, bool], ...] = (("truth", True), ("truth", False), ("lengths", True))
    for dim in dict.fromkeys(one for one in lengths if one.axes == {mask.axis}):
        frames = frames_of(dim, mask.axis)
        if frames is None and dim != Dim.axis(mask.axis):
            continue
        for form, counts in kinds:
            made = Returned(path=path, form=form, counts=counts, frames=frames)
            if all(is_told(made, counting_BN, output) for counting_BN, output in runs):
                return made
    return None


def is_told(told: Returned, counting_BN: torch.Tensor, output: torch.Tensor) -> bool:
    """Whether an output is the mask of its frames in one run.

    Args:
        told: The form in which it should be.
        counting_BN: Which samples count.
        output: The output.
    """
    first, step = told.frames or (0, 1)
    counting_BM = counting_BN[:, first::step]
    if told.form == "lengths":
        return output.shape == counting_BM.shape[:1] and bool((output.cpu() == counting_BM.sum(1)).all())
    expected_BM = counting_BM if told.counts else ~counting_BM
    return output.shape == expected_BM.shape and bool((output.cpu() == expected_BM.to(output.dtype)).all())
