"""Value bounds: the bounds within which activations leave the values of tensors, by the operations that run."""

from __future__ import annotations

from autoadapt.contracts.capturing.followers import Follower, Made, Rule, shared
from autoadapt.contracts.signature import Bound


def value_bounds_followed() -> Follower[Bound]:
    """Follows bounds from activations through operations that move or average values.

    Values alone do not show them: they may lie between 0 and 1 by chance.
    """
    made = {name: _always(bound) for bound, names in _MADE.items() for name in names}
    made |= dict.fromkeys(CLAMPING, _clamped)
    return Follower({**dict.fromkeys(_KEEPING, shared), **made}, _always(None))


def _always(bound: Bound | None) -> Rule[Bound]:
    return lambda _: bound


def _clamped(made: Made[Bound]) -> Bound | None:
    """The bound of `clamp` and the like, where they cut off at 0 or above."""
    least = made.named.get("min", made.named.get("min_val"))
    return "never negative" if isinstance(least, int | float) and least >= 0 else None


_MADE: dict[Bound, tuple[str, ...]] = {
    "never negative": ("relu", "abs", "exp", "softplus", "square"),
    "between 0 and 1": ("sigmoid", "hardsigmoid"),
    "between -1 and 1": ("tanh",),
}
"""Activations by the bounds of their results."""

CLAMPING = frozenset({"hardtanh", "clamp", "clamp_min"})
"""Operations whose arguments are the bounds."""

_KEEPING = frozenset(
    {
        *("view", "_unsafe_view", "reshape", "_reshape_alias", "permute", "transpose", "t", "expand", "clone", "alias"),
        *("squeeze", "unsqueeze", "select", "slice", "split", "split_with_sizes", "cat", "stack", "detach", "_to_copy"),
        *(f"{kind}_pool{n}d{tail}" for kind in ("max", "avg") for n in (1, 2, 3) for tail in ("", "_with_indices")),
        *(f"_adaptive_avg_pool{n}d" for n in (2, 3)),
        *("mean", "amax", "amin", "max", "min", "upsample_nearest2d", "upsample_bilinear2d", "index", "gather"),
    }
)
"""Operations that move, select or average values."""
