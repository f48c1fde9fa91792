"""Channels without a gradient: those of an output that are detached, while others of the same output are not.

The gradient of a sum over the whole output does not show this, since the other channels have one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from autoadapt.adapting.verification.sessions import Session
from autoadapt.contracts.signature import TensorSpec
from autoadapt.contracts.trees import flatten
from autoadapt.errors import Mismatch


def cut_channels(session: Session, *, train: bool) -> list[Mismatch]:
    """Channels whose values depend on the input though no gradient passes through them.

    Nothing where the module has an operation that cannot be differentiated twice, such as some custom kernels.
    """
    copied, arguments = session.copy(), session.arguments(session.small(B=2), requires_grad=True)
    copied.train(train)
    given = flatten(arguments.values)[1]
    try:
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):  # the other backends cannot be differentiated twice
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
    """The change of each output with a random step of all targets at once, according to autograd.

    It is the product of the Jacobian with that step, by two backward passes (Townsend, A new trick for calculating
    Jacobian vector products, 2017).

    Args:
        outputs: By path; all require gradients.
        targets: Inputs and parameters.
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
    """For each axis of fixed size, which of its channels do not change though their values vary.

    Channels of one value, such as the zeros of ReLU, may rightly have no gradient, and are none of them.

    Args:
        session: The verification of the module.
        path: The output.
        values: What it was.
        change: Of the same shape; how the values change, by `_changes`.

    Yields:
        The axis and a mask over its channels, [C].
    """
    spec: TensorSpec = dict(session.signature.outputs.items())[path]
    if not spec.is_floating or spec.role != "feature":
        return
    for axis, dim in enumerate(spec.dims):
        if not dim.axes and change.shape[axis] > 1:
            first = values.detach().movedim(axis, 0).flatten(1)[:, :1]
            varies = (values.detach().movedim(axis, 0).flatten(1) != first).any(1)
            yield axis, varies & (_along(change, axis) == 0)


def _along(values: torch.Tensor, axis: int) -> torch.Tensor:
    """The largest absolute value of each channel, [C]."""
    return values.movedim(axis, 0).flatten(1).abs().amax(1)


def _elsewhere(session: Session, copied: nn.Module, given: list[torch.Tensor]) -> dict[str, torch.Tensor]:
    """The outputs for other inputs: channels that are equal there, such as coordinate grids, depend on no input."""
    with torch.no_grad():
        other = [one.detach().flip(0) * -0.5 if one.is_floating_point() else one for one in given]
        return session.leaves(session.rebuilt(other).call(copied))


def _counted(cut: torch.Tensor) -> str:
    indices = cut.nonzero().flatten().tolist()
    return f"channels {', '.join(map(str, indices[:4]))}{', ...' if len(indices) > 4 else ''} of {len(cut)}"
