"""Differences: whether a broken copy gives anything else than the module, at legal sizes, twice, in both modes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import nn

from autoadapt.adapting.verification.sessions import Session, differing_tree
from autoadapt.contracts.trees import Tree, flatten
from autoadapt.contracts.views import clone_buffers, copy_module

Flat: TypeAlias = tuple[Tree, list[torch.Tensor]]
"""A value as its containers and its tensors."""


def differs(session: Session, mutant: nn.Module) -> bool:
    """Whether a broken copy is another module than that of a session, by what its calls give and by its parameters.

    Both are copied, and run at the same sizes one after the other: some faults show from the second call on.

    Args:
        session: Of the module.
        mutant: The broken copy; not run itself.

    Example:
        >>> from autoadapt.contracts.capturing import capture
        >>> net, x = nn.Conv2d(3, 2, 1), torch.randn(1, 3, 8, 8)
        >>> session = Session(net, capture(net, x), inputs=x)
        >>> differs(session, copy_module(net, clone_buffers)), differs(session, nn.Conv2d(3, 2, 1))
        (False, True)
    """
    if {name for name, _ in session.net.named_parameters()} != {name for name, _ in mutant.named_parameters()}:
        return True
    pair = [copy_module(one, clone_buffers) for one in (session.net, mutant)]
    calls = [session.at(**sizes, B=batch) for sizes in session.sizes for batch in session.batches]
    return any(_differ_at(session, pair, sizes, mode) for mode in (False, True) for sizes in calls)


def _differ_at(session: Session, pair: list[nn.Module], sizes: Mapping[str, int], training: bool) -> bool:
    for one in pair:
        one.train(training)
    calls = [_call(session, one, sizes) for one in pair]
    try:
        expected = calls[0]()
    except Exception:  # it does not take this size or mode itself
        return False
    try:
        found = calls[1]()
    except Exception:
        return True
    return _are_others(expected, found)


def _call(session: Session, module: nn.Module, sizes: Mapping[str, int]) -> Callable[[], Flat]:
    def run() -> Flat:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return flatten(session.arguments(sizes).call(module))

    return run


def _are_others(expected: Flat, found: Flat) -> bool:
    if differing_tree(expected[0], found[0]) or len(expected[1]) != len(found[1]):
        return True
    return any(
        (one.shape, one.dtype, one.requires_grad) != (other.shape, other.dtype, other.requires_grad)
        or not torch.allclose(one, other, rtol=0, atol=0, equal_nan=one.is_floating_point())
        for one, other in zip(expected[1], found[1], strict=True)
    )
