"""Value nodes: what brings back what held of the old values, in torch.fx nodes."""

from __future__ import annotations

from collections.abc import Callable

import torch.nn.functional as F
from torch import fx

from autoadapt.adapting.operations import Restore
from autoadapt.adapting.value_operations import ACTIVATIONS

__all__ = ["restored"]

_FUNCTIONS = {"norm 1": F.normalize, "probabilities": F.softmax, "log-probabilities": F.log_softmax}


def restored(step: Restore, node: fx.Node, put: Callable[..., fx.Node]) -> fx.Node:
    """A node whose vectors have norm 1, or are probabilities or their logarithms, or whose values lie within bounds.

    Args:
        step: Along which axis, and whether those behind it belong to the vectors.
        node: What comes in.
        put: Writes a node that goes by the name of the chain at hand.
    """
    if step.what in ACTIVATIONS:
        return put("call_method", ACTIVATIONS[step.what], node)
    vectors = put("call_method", "flatten", node, step.axis) if step.on else node
    made = put("call_function", _FUNCTIONS[step.what], vectors, dim=step.axis)
    return put("call_method", "view_as", made, node) if step.on else made
