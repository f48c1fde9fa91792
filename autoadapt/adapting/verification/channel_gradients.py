"""Channels without a gradient: where an output learns in part, and no sum over it shows that."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from autoadapt.adapting.verification.sessions import Session
from autoadapt.contracts.signature import TensorSpec
from autoadapt.contracts.trees import flatten
from autoadapt.errors import Mismatch

__all__ = ["cut_channels"]


def cut_channels(session: Session, *, train: bool) -> list[Mismatch]:
    """Channels whose values follow the input and that no gradient leaves.

    Nothing where the module has an operation that can be differentiated once only, as custom kernels.

    Args:
        session: The module.
        train: In train mode, else in eval mode.
    """
    copied, arguments = session.copy(), session.arguments(session.small(B=2), requires_grad=True)
    copied.train(train)
    given = flatten(arguments.values)[1]
    try:
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the others are differentiated once only
            leaves = session.leaves(session.rebuilt([one.clone() for one in given]).call(copied))
            targets = [one for one in (*given, *copied.parameters()) if one.requires_grad]
            changes = _changes({path: one for path, one in leaves.items() if one.requires_grad}, targets)
    except RuntimeError:
        return []
    found = {path: dict(_still(session, path, leaves[path], change)) for path, change in changes.items()}
    if not any(found.values()):
        return []
    others = _elsewhere(session, copied, given)
    return [
        Mismatch(f"{path}, {_counted(cut)}, along axis {axis}", "a gradient", "none: they are detached")
        for path, axes in found.items()
        for axis, still in axes.items()
        if bool((cut := still & (_along(leaves[path].detach() - others[path], axis) != 0)).any())
    ]


def _changes(outputs: Mapping[str, torch.Tensor], targets: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """How each value changes with a step of all targets at once, as far as gradients know: the product of the Jacobian
    with that step, by going back twice (Townsend, A new trick for calculating Jacobian vector products, 2017).
    """
    weights = [torch.zeros_like(output, requires_grad=True) for output in outputs.values()]
    gradients = torch.autograd.grad([*outputs.values()], targets, weights, create_graph=True, allow_unused=True)
    live = [one for one in gradients if one is not None and one.requires_grad]
    generator = torch.Generator().manual_seed(0)
    steps = [torch.randn(one.shape, generator=generator).to(one) for one in live]
    found = torch.autograd.grad(live, weights, steps, allow_unused=True) if live and weights else []
    return {path: one for path, one in zip(outputs, found, strict=False) if one is not None}


def _still(
    session: Session, path: str, values: torch.Tensor, change: torch.Tensor
) -> Iterator[tuple[int, torch.Tensor]]:
    """Of each axis of channels which do not change, though their values vary: a constant, as of ReLU, may well be."""
    spec: TensorSpec = dict(session.signature.outputs.items())[path]
    if not spec.is_floating or spec.role != "feature":
        return
    for axis, dim in enumerate(spec.dims):
        if not dim.axes and change.shape[axis] > 1:
            first = values.detach().movedim(axis, 0).flatten(1)[:, :1]
            varies = (values.detach().movedim(axis, 0).flatten(1) != first).any(1)
            yield axis, varies & (_along(change, axis) == 0)


def _along(values: torch.Tensor, axis: int) -> torch.Tensor:
    """The largest of each channel, without signs."""
    return values.movedim(axis, 0).flatten(1).abs().amax(1)


def _elsewhere(session: Session, copied: nn.Module, given: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The outputs of other values: what is the same there, as a grid of coordinates, follows no input."""
    with torch.no_grad():
        other = [one.detach().flip(0) * -0.5 if one.is_floating_point() else one for one in given]
        return session.leaves(session.rebuilt(other).call(copied))


def _counted(cut: torch.Tensor) -> str:
    indices = cut.nonzero().flatten().tolist()
    return f"channels {', '.join(map(str, indices[:4]))}{', ...' if len(indices) > 4 else ''} of {len(cut)}"
