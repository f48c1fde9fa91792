"""Alias checks: outputs that must be the very same tensor as another output or an input."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from autoadapt.contracts.signature import Signature
from autoadapt.errors import Mismatch


def broken_aliases(
    signature: Signature, outputs: Mapping[str, torch.Tensor], inputs: Mapping[str, torch.Tensor], at: str = ""
) -> list[Mismatch]:
    """Outputs that are not the very same tensor as another one, though the contract says so.

    Callers who write to one of them, or add both to a loss, would see the difference.

    Args:
        signature: The contract.
        outputs: The outputs of a module, by path.
        inputs: The inputs, by path with `inputs.` before it.
        at: A text to add to each place, such as the sizes of the call.

    Example:
        >>> twice = Signature.parse({"last": "f32[B]", "hidden": ["f32[B]", "f32[B] = last"]})
        >>> made = {path: torch.zeros(1) for path in twice.outputs.paths}
        >>> [(fault.where, fault.expected, fault.found) for fault in broken_aliases(twice, made, {})]
        [('hidden.1', 'the tensor last itself', 'another tensor')]
    """
    known = {**inputs, **outputs}
    return [
        Mismatch(path + at, f"the tensor {spec.same_as} itself", "another tensor")
        for path, spec in signature.outputs.items()
        if spec.same_as and spec.same_as in known and outputs[path] is not known[spec.same_as]
    ]
