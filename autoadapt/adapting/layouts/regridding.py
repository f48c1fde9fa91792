"""Regridding: resizing the grid of tokens whose leading tokens, such as class tokens, stay."""

from __future__ import annotations

from autoadapt.adapting.layouts.factors import Factored, kernel_of
from autoadapt.adapting.operations import Operation, Project, ResizeTokens


def regridded(have: Factored, want: Factored, *, project: bool) -> tuple[Operation, ...] | None:
    """The steps from tokens `[B, N, C]` to others with as many leading tokens; None for other tensors.

    A projection is applied where there are fewer tokens, since it commutes with interpolation.

    Args:
        have: Tokens of the source.
        want: Tokens of the target.
        project: Add a projection even where the channels agree.
    """
    if any((*have.suffixes, *want.suffixes)):
        return None
    if have.prefixes != want.prefixes or len(have.spec.dims) != 3 or any(have.prefixes[::2]):
        return None
    sides, wanted = ([atom.kind for atom in tensor.atoms[1]] for tensor in (have, want))
    alike = sorted(map(sorted, sides)) == sorted(map(sorted, wanted)) and len({*sides}) == len(sides)
    order = tuple(sides.index(kind) for kind in wanted) if alike else ()
    cells = [(have.atoms[1][side], right) for side, right in zip(order, want.atoms[1], strict=False)]
    source, target = have.spec.dims[2].constant, want.spec.dims[2].constant
    if not (alike and 1 <= len(cells) <= 3) or have.spec.dims[0] != want.spec.dims[0] or not (source and target):
        return None
    kernel = tuple(kernel_of(left, right) for left, right in cells)
    resized = ResizeTokens(
        prefix=have.prefixes[1],
        source=tuple(left.dim for left in have.atoms[1]),
        dims=tuple(right.dim for _, right in cells),
        kernel=kernel if max(kernel) > 1 else (),
        order=order if [*order] != sorted(order) else (),
    )
    if source == target and not project:
        return (resized,)
    learned = Project(form="linear", source=source, target=target)
    return (resized, learned) if max(kernel) > 1 else (learned, resized)
