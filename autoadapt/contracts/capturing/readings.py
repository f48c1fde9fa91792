"""Readings: tensors that functions between modules added up, noted where the next module reads them.

A block that its caller writes as `x = attend(x) + x` returns its branch only. The residual stream, which such a block
hands on, no module returns: it is what the next one reads.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch.utils.weak import TensorWeakRef

from autoadapt.contracts.capturing.inner_leaves import InnerKey, InnerLeaf
from autoadapt.contracts.leaves import READ

__all__ = ["Readings"]


@dataclass
class _Caller:
    """A module that runs the elements of a list, one after the other, and what they read of it."""

    element: str = ""
    """The number of the element that ran last."""
    ends: dict[InnerKey, InnerLeaf] = field(default_factory=dict)
    """What elements read first, and so the ones before them hand on."""
    after: dict[InnerKey, InnerLeaf] = field(default_factory=dict)
    """What others read since the last element began."""

    def last_stream(self) -> dict[InnerKey, InnerLeaf]:
        """What others read first of a stream, with as many axes as it had before: a stage may have other sizes."""
        ranks = {len(leaf.shape) for leaf in self.ends.values()}
        return dict([(key, leaf) for key, leaf in self.after.items() if len(leaf.shape) in ranks][:1])


class Readings:
    """What the elements of lists hand on where no module returns it: for each the first reading of the next one."""

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
            leaf: What is known of that, where it is made of several tensors that modules returned, and no module's.
        """
        call = self._calls[name] = self._calls.get(name, -1) + 1
        row = self._callers.setdefault(caller, _Caller())
        element = _element(name.removeprefix(f"{caller}.") if caller else name)
        moves_on = element not in ("", row.element)
        is_first = moves_on and not row.element  # which reads an embedding
        if moves_on:
            row.ends |= row.last_stream() if leaf is None else {}  # a module between elements read it, and hands on
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
        """What hands on a stream, from the end of the first element to that of the last."""
        found: dict[InnerKey, InnerLeaf] = {}
        for row in self._callers.values():
            found |= row.ends | row.last_stream()
        return found

    def _was_read(self, caller: str, tensor: torch.Tensor, version: int) -> bool:
        """Whether a module that this one calls read it before, and it was not written to since."""
        known = self._seen.get((caller, id(tensor)))
        self._seen[caller, id(tensor)] = (TensorWeakRef(tensor), version)
        return known is not None and known[0]() is tensor and known[1] == version


def _element(path: str) -> str:
    """The number of the element that a module is or stands in, of the first list on the way to it.

    Example:
        >>> _element("layers.3.1"), _element("norm")
        ('3', '')
    """
    return next((part for part in path.split(".") if part.isdigit()), "")
