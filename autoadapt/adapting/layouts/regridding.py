"""Regridding: bringing cells among other tokens, such as class tokens and registers, to another grid; these stay."""

from __future__ import annotations

from collections.abc import Sequence

from autoadapt.adapting.layouts.arranging import Work, works
from autoadapt.adapting.layouts.assigning import Assignment, assign
from autoadapt.adapting.layouts.factors import Factored
from autoadapt.adapting.operations import Operation, Project, ResizeTokens


def regridded(have: Factored, want: Factored) -> tuple[ResizeTokens, ...]:
    """The steps from tokens `[B, N, C]` to another grid between as many other tokens; empty for other tensors.

    Cells go where those of a map without other tokens would go.
    """
    extra, wanted_extra = ((*one.prefixes, *one.suffixes) for one in (have, want))
    if extra != wanted_extra or not any(extra) or len(have.spec.dims) != 3 or any((*extra[:3:2], *extra[3::2])):
        return ()
    sides, wanted = ([atom.kind for atom in tensor.atoms[1]] for tensor in (have, want))
    alike = sorted(map(sorted, sides)) == sorted(map(sorted, wanted)) and len({*sides}) == len(sides)
    channels = have.spec.dims[2].constant and want.spec.dims[2].constant
    if not (alike and 1 <= len(sides) <= 3) or have.spec.dims[0] != want.spec.dims[0] or not channels:
        return ()
    cells = assign(have.atoms[1:2], want.atoms[1:2])
    assert isinstance(cells, Assignment), "both have the same axes"
    return _on_grid(cells, have.prefixes[1], have.suffixes[1])


def with_projection(
    steps: Sequence[ResizeTokens], have: Factored, want: Factored, *, forced: bool
) -> tuple[Operation, ...]:
    """The steps with a projection where there are fewest tokens, since it commutes with interpolation.

    Args:
        steps: The steps from `have` to the grid of `want`.
        have: Tokens of the source.
        want: Tokens of the target.
        forced: Add a projection even where the channels agree.
    """
    source, target = have.spec.dims[2].constant, want.spec.dims[2].constant
    assert source, "tokens that are regridded have channels"
    assert target, "tokens that are regridded have channels"
    if source == target and not forced:
        return tuple(steps)
    shrinks = [bool(step.kernel) or max(step.step, default=1) > 1 for step in steps]
    fewest = max((at for at, one in enumerate(shrinks, 1) if one), default=0)
    return (*steps[:fewest], Project(form="linear", source=source, target=target), *steps[fewest:])


def _on_grid(cells: Assignment, leading: int, trailing: int) -> tuple[ResizeTokens, ...]:
    """The steps that an assignment of cells needs, between other tokens; at least one, which turns their order.

    Cells are pooled and resized in one step.
    """
    (held,), (wanted,) = cells.source, cells.target
    needed = works(cells, project=False)
    pooled = {name: size for work in needed for name, size in work.kernel.items()}
    resizes = any(work.kind == "resize" for work in needed)
    needed = [work for work in needed if not (work.kind == "pool" and resizes)] or [Work("resize", {})]
    sizes, steps = {name: atom.dim for name, atom in cells.before.items()}, []
    for work in needed:
        before = tuple(sizes[name] for name in held)
        sizes |= work.then
        places = [work.places.get(name, (0.0, 1.0)) for name in wanted if work.places]
        step = ResizeTokens(
            prefix=leading,
            source=before,
            dims=tuple(sizes[name] for name in wanted),
            kernel=tuple(pooled.get(name, 1) for name in wanted) if pooled and not places else (),
            order=tuple(held.index(name) for name in wanted) if held != wanted else (),
            first=tuple(first for first, _ in places),
            step=tuple(step for _, step in places),
            suffix=trailing,
        )
        steps.append(step)
        held = wanted
    return tuple(steps)
