"""Readings: residual streams that no module returns, noted where the next module reads them.

Where the caller of a block writes `x = attend(x) + x`, the block returns its branch only. The residual stream behind it
is a sum that no module returns, and that the next block reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.utils.weak import TensorWeakRef

from autoadapt.contracts.capturing.inner_leaves import InnerKey, InnerLeaf
from autoadapt.contracts.leaves import READ


@dataclass
class _Caller:
    """A module that calls the elements of a ModuleList in turn, and the sums that these read."""

    element: str = ""
    """The number of the element that ran last."""
    ends: dict[InnerKey, InnerLeaf] = field(default_factory=dict)
    """The first reading of each element: the stream at the end of the element before it."""
    after: dict[InnerKey, InnerLeaf] = field(default_factory=dict)
    """Readings of other modules since the last element began."""

    def last_stream(self) -> dict[InnerKey, InnerLeaf]:
        """The first reading of another module behind the last element, if it has as many axes as the stream had."""
        ranks = {len(leaf.shape) for leaf in self.ends.values()}
        return dict([(key, leaf) for key, leaf in self.after.items() if len(leaf.shape) in ranks][:1])


class Readings:
    """The streams at the ends of elements of lists, where no module returns them."""

    def __init__(self) -> None:
        self._calls: dict[str, int] = {}
        self._seen: dict[tuple[str, int], tuple[TensorWeakRef, int]] = {}
        self._callers: dict[str, _Caller] = {}

    def begin(self, name: str, caller: str, value: object, leaf: InnerLeaf | None) -> None:
        """Note the beginning of a call.

        Args:
            name: Path of the module.
            caller: Path of the module that calls it.
            value: Its first argument.
            leaf: What is noted of that, where functions computed it from several module outputs; else None.
        """
        call = self._calls[name] = self._calls.get(name, -1) + 1
        row = self._callers.setdefault(caller, _Caller())
        element = _element(name.removeprefix(f"{caller}.") if caller else name)
        moves_on = element not in ("", row.element)
        is_first = moves_on and not row.element  # which reads an embedding
        if moves_on:
            row.ends |= row.last_stream() if leaf is None else {}  # a module between the elements read it instead
            row.element, row.after = element, {}
        if leaf is None or not isinstance(value, torch.Tensor):
            return
        if self._was_read(caller, value, leaf.version) or is_first:
            return
        if moves_on:
            row.ends[name, call, READ] = leaf
        elif not element and row.element:
            row.after[name, call, READ] = leaf

    def of_streams(self) -> dict[InnerKey, InnerLeaf]:
        """All streams, from the end of the first element to that of the last."""
        found: dict[InnerKey, InnerLeaf] = {}
        for row in self._callers.values():
            found |= row.ends | row.last_stream()
        return found

    def _was_read(self, caller: str, tensor: torch.Tensor, version: int) -> bool:
        """Whether a module with the same caller has read a tensor before, and nothing has written to it since."""
        known = self._seen.get((caller, id(tensor)))
        self._seen[caller, id(tensor)] = (TensorWeakRef(tensor), version)
        return known is not None and known[0]() is tensor and known[1] == version


def _element(path: str) -> str:
    """The number of the list element that a module is, or is inside of, for the first list on its path.

    Example:
        >>> _element("layers.3.1"), _element("norm")
        ('3', '')
    """
    return next((part for part in path.split(".") if part.isdigit()), "")
