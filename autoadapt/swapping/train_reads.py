"""Train reads: what the rest of a model reads only in train mode, of a model that stands in eval mode."""

from __future__ import annotations

import warnings
from collections.abc import Sequence

from torch import nn

from autoadapt.swapping.successors import Successor
from autoadapt.swapping.watching import Example, Watched, watch_once


def with_train_reads(
    model: nn.Module, example: Example, planned: Sequence[Successor], seen: Watched
) -> list[Successor]:
    """The same successors, with a remark and a warning where one leaves out what is read in train mode alone.

    Args:
        model: The whole. One in train mode was watched in both modes, and all that it reads counts.
        example: How to run it; a run in train mode that raises tells nothing, as that of a detector without targets.
        planned: What takes the places.
        seen: What was read in eval mode.
    """
    if model.training or not any(one.part.left_out for one in planned):
        return list(planned)
    try:
        readings, _ = watch_once(model, example, [one.place.path for one in planned], True, train=True)
    except Exception:  # whatever it raises in the other mode, it was not asked to run there
        return list(planned)
    return [_warned(one, readings[one.place.path].read, seen.readings[one.place.path].read) for one in planned]


def _warned(one: Successor, in_train: set[str], in_eval: set[str]) -> Successor:
    lost = [path for path in one.part.left_out if path in in_train - in_eval]
    if not lost:
        return one
    remark = (
        f"in train mode the model reads {', '.join(lost)} of `{one.place.path}`, in eval mode only "
        f"{', '.join(sorted(in_eval)) or 'nothing'}; it is in eval mode, so that is left out. model.train() first, "
        f"or inputs= can be a training step, or outputs={sorted({*in_eval, *lost})}"
    )
    warnings.warn(remark, UserWarning, stacklevel=4)
    return one.with_remarks(remark)
