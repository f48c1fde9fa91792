"""Class tokens: which vectors are made of a token that was joined in front of others, and of nothing else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from autoadapt.contracts.capturing.by_tensor import ByTensor

__all__ = ["ClassTokens"]

MOST = 16
"""How many tokens may stand in front of others, registers among them."""


@dataclass(frozen=True)
class _Joined:
    """Tokens of which the first ones are none of the image."""

    size: int
    """How many there are in all."""
    front: int


_ALONE = _Joined(0, 0)
"""Of the tokens in front alone."""


class ClassTokens:
    """Follows them through what torch runs: from where tensors are joined to where one of the first is picked.

    What is made of picked ones alone, as by a norm, a layer or their sum, is one as well; what they are mixed into
    with anything else that depends on the input, as by attention or a mean, is not.
    """

    def __init__(self) -> None:
        self._found = ByTensor[_Joined]()

    def is_one(self, tensor: torch.Tensor) -> bool:
        """Whether a tensor is made of such tokens alone."""
        return self._found.get(tensor) is _ALONE

    def note(
        self,
        name: str,
        named: Mapping[str, Any],
        given: Sequence[torch.Tensor],
        made: Sequence[torch.Tensor],
    ) -> None:
        """Note what an operation makes.

        Args:
            name: Of the operation.
            named: Its arguments.
            given: The tensors among these that depend on the input of the module.
            made: What it returns.
        """
        if name == "cat":
            self._note_all(made, self._joined(named["tensors"], named.get("dim") or 0, given))
        elif self._found:
            told = [self._found.get(tensor) for tensor in given]
            for number, tensor in enumerate(made):
                cut = self._cut(name, named, tensor, number)
                self._note_all([tensor], cut if cut is not None else _together(told))

    def _note_all(self, made: Sequence[torch.Tensor], told: _Joined | None) -> None:
        for tensor in made:
            self._found.put(tensor, told)

    def _joined(self, parts: Sequence[torch.Tensor], axis: int, given: Sequence[torch.Tensor]) -> _Joined | None:
        """What comes of joining parts: tokens in front of the largest part, of an axis that lists tokens."""
        told = [self._found.get(part) for part in given]
        if all(one is _ALONE for one in told):
            return _together(told)
        if any(part.dim() != 3 for part in parts) or axis % 3 == 2:
            return None
        sizes = [part.shape[axis] for part in parts]
        largest = sizes.index(max(sizes))
        known = self._found.get(parts[largest])
        inside = known.front if known is not None and known.size == sizes[largest] else 0
        front = sum(sizes[:largest]) + inside
        return _Joined(sum(sizes), front) if 0 < front <= MOST and front < sum(sizes) else None

    def _cut(self, name: str, named: Mapping[str, Any], made: torch.Tensor, number: int) -> _Joined | None:
        """What comes of cutting along an axis that lists tokens; None where another axis is cut, or none."""
        if name not in ("select", "slice", "split_with_sizes"):
            return None
        read: torch.Tensor = named["self"]
        known, axis = self._found.get(read), named["dim"] % read.dim()
        if known is None or known is _ALONE or read.shape[axis] != known.size:
            return None
        first = named.get("index", named.get("start")) or 0
        if name == "split_with_sizes":
            first = sum(named["split_sizes"][:number])
        first = first + known.size if first < 0 else first
        count = 1 if name == "select" else made.shape[axis]
        if (named.get("step") or 1) == 1 and first + count <= known.front:
            return _ALONE
        left = max(known.front - first, 0)
        return _Joined(count, left) if name != "select" else _Joined(known.size, 0)


def _together(told: Sequence[_Joined | None]) -> _Joined | None:
    """What comes of several tensors: tokens in front stay only where nothing else takes part."""
    if told and all(one is _ALONE for one in told):
        return _ALONE
    return next((one for one in told if one is not None and one is not _ALONE), None)
