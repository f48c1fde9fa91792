"""Train runs: what a module returns, or raises, in train mode."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence

import torch

from autoadapt.contracts.capturing.probing import Observation, Probe, ProbeError, Shape
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import Role, TensorSpec, Values, dtype_name
from autoadapt.errors import SignatureError
from autoadapt.errors.printable import visible

_OF_THE_RUN = ("meta", "device", "not implemented", "more than 1 value per channel", "grad")
"""Words in errors that are due to how the run is made: without values, at one size, with gradients."""


def in_train_mode(probe: Probe, shapes: Sequence[Shape]) -> tuple[Observation | None, str]:
    """A run in train mode; or None, and the message of what the module raised, such as for missing targets."""
    with contextlib.suppress(SignatureError):
        try:
            return probe.run(shapes, training=True), ""
        except ProbeError as error:
            said = visible(str(error))
            return None, "" if any(words in said.lower() for words in _OF_THE_RUN) else said
    return None, ""


def train_outputs(found: Observation | None, first: Observation | None) -> Values | None:
    """The outputs in train mode at one size; None where they are as in eval mode."""
    if found is None or first is None or any(found.kinds):
        return None
    if (found.tree, found.shapes, found.dtypes) == (first.tree, first.shapes, first.dtypes):
        return None
    dims = [tuple(map(Dim, shape)) for shape in found.shapes]
    return Values(tree=found.tree, leaves=tuple(map(spec_of, found.dtypes, dims)))


def spec_of(dtype: torch.dtype, dims: tuple[Dim, ...], role: Role | None = None, same_as: str = "") -> TensorSpec:
    """The spec of a tensor; without a role, that of its dtype: floats are features, booleans masks."""
    floating = dtype.is_floating_point or dtype.is_complex
    default: Role = "feature" if floating else "mask" if dtype is torch.bool else "other"
    return TensorSpec(dtype=dtype_name(dtype), dims=dims, role=role or default, same_as=same_as)
