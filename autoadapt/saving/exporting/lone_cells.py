"""Lone cells: from which sizes on no axis inside a module is 1, found by runs without values."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoadapt.adapting.verification.sessions import Session
from autoadapt.contracts.capturing.probing import Probe, ProbeError
from autoadapt.saving.exporting.ranges import SizeRange

_INSIDE = "below it an axis inside the module is 1, and an axis of 1 never varies"


def above_lone_cells(session: Session, ranges: Mapping[str, SizeRange]) -> dict[str, SizeRange]:
    """Ranges that begin where every axis inside the module that varies is longer than 1.

    The plan of an adapted module tells the sizes of its outputs and taps; what its backbone, or the model around it,
    does on the way is seen by running it on the meta device. Where it does not run there, ranges stay as they are.

    Args:
        session: Of the module.
        ranges: Of its input axes, as its signature and its plan tell them.
    """
    varying = [name for name, one in ranges.items() if name != "B" and not one.fixed]
    if not varying:
        return dict(ranges)
    found, runs = dict(ranges), _Runs(session, ranges)
    if runs.most is None or runs.is_enough({name: ranges[name].low for name in varying}):
        return found
    for name in varying:
        one, low = ranges[name], runs.smallest(name)
        if one.low < low < runs.large[name]:
            found[name] = one.model_copy(update={"low": low, "why": _INSIDE})
    return found


class _Runs:
    """Runs of one module at chosen sizes, beside one at large sizes."""

    def __init__(self, session: Session, ranges: Mapping[str, SizeRange]) -> None:
        self._session, self._ranges = session, ranges
        example = session.at(B=2)
        self.large = {
            name: ranges[name].near(2 if name == "B" else 2 * max(size, ranges[name].low) + 1)
            for name, size in example.items()
        }
        self._probe = Probe(session.net, session.arguments(example), real=False, inner=False)
        self.most = self._count(self.large)
        """Axes of 1 in all tensors of the run at large sizes, which are 1 at any size; None where it raises."""

    def is_enough(self, sizes: Mapping[str, int]) -> bool:
        """Whether the module runs at sizes, and no more axes are 1 than at large ones."""
        count = self._count(self.large | dict(sizes))
        return count is not None and self.most is not None and count <= self.most

    def smallest(self, name: str) -> int:
        """The smallest size of an axis that is enough while the others are large."""
        one = self._ranges[name]
        sizes = range(one.low, self.large[name] + 1, one.step)
        return sizes[bisect_left(sizes, True, hi=len(sizes) - 1, key=lambda size: self.is_enough({name: size}))]

    def _count(self, sizes: Mapping[str, int]) -> int | None:
        shapes = [spec.shape(sizes) for spec in self._session.signature.inputs.leaves]
        try:
            with _LoneCells() as seen:
                self._probe.run(shapes)
        except ProbeError:
            return None
        count: int = seen.count  # its class is untyped
        return count


class _LoneCells(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch annotates it in part
    """Counts axes of 1 in whatever operations return."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        tensors = (leaf for leaf in tree_leaves(returned) if isinstance(leaf, torch.Tensor))
        self.count += sum(size <= 1 for tensor in tensors for size in tensor.shape)
        return returned
