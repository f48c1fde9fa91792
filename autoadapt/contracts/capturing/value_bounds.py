"""Value bounds: which tensors an activation leaves within bounds, told by the operation that made them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from autoadapt.contracts.capturing.by_tensor import ByTensor
from autoadapt.contracts.signature import Bound

__all__ = ["ValueBounds"]


class ValueBounds:
    """Follows them through what torch runs: from activations through what moves or averages values.

    Values alone do not tell: small ones lie between 0 and 1 by chance.
    """

    def __init__(self) -> None:
        self._found = ByTensor[Bound]()

    def of(self, tensor: torch.Tensor) -> Bound | None:
        """The bounds of a tensor; None where none are known."""
        return self._found.get(tensor)

    def note(self, name: str, given: Sequence[torch.Tensor], made: Sequence[torch.Tensor]) -> None:
        """Note what an operation makes.

        Args:
            name: Of the operation.
            given: The tensors among its arguments that depend on the input of the module.
            made: What it returns.
        """
        bound = _MADE.get(name)
        if bound is None and name in _KEEPING:
            told = {self._found.get(tensor) for tensor in given}
            bound = told.pop() if len(told) == 1 else None
        if bound is not None or self._found:
            for tensor in made:
                self._found.put(tensor, bound)


_MADE: Mapping[str, Bound] = {
    **dict.fromkeys(("relu", "abs", "exp", "softplus", "square"), "never negative"),
    **dict.fromkeys(("sigmoid", "hardsigmoid"), "between 0 and 1"),
    "tanh": "between -1 and 1",
}
"""Activations, and the bounds of what they return."""

_KEEPING = frozenset(
    {
        *("view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "expand", "clone", "alias"),
        *("squeeze", "unsqueeze", "select", "slice", "split", "split_with_sizes", "cat", "stack", "detach", "_to_copy"),
        *(f"{kind}_pool{n}d{tail}" for kind in ("max", "avg") for n in (1, 2, 3) for tail in ("", "_with_indices")),
        *(f"_adaptive_avg_pool{n}d" for n in (2, 3)),
        *("mean", "amax", "amin", "max", "min", "upsample_nearest2d", "upsample_bilinear2d", "index", "gather"),
    }
)
"""Operations that move, pick or average values."""
