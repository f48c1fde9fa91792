"""Casts: the signature of a module that is cast to another dtype, as by `net.half()`."""

from __future__ import annotations

from collections.abc import Collection

import torch

from autoadapt.contracts.signature.signatures import Signature
from autoadapt.contracts.signature.specs import TensorSpec, dtype_name
from autoadapt.contracts.signature.values import Values


def in_dtype(signature: Signature, dtype: torch.dtype, *, but: Collection[str] = ()) -> Signature:
    """A signature with floating-point inputs and outputs of a dtype; complex ones get its complex counterpart.

    Args:
        signature: Of the module before.
        dtype: What the module is cast to.
        but: Paths of outputs that keep their dtype whatever it is cast to.

    Example:
        >>> print(in_dtype(Signature.parse(["f32[B, 8]", "i64[B]"], inputs={"x": "f32[B, 3]"}), torch.float16))
        module
         input   x  f16[B, 3]
         output  list of 2
           [0]   f16[B, 8]
           [1]   i64[B]
    """

    def cast(spec: TensorSpec) -> TensorSpec:
        to = dtype.to_complex() if spec.torch_dtype.is_complex else dtype
        return spec.model_copy(update={"dtype": dtype_name(to)}) if spec.is_floating else spec

    def changed(values: Values, kept: Collection[str] = ()) -> Values:
        leaves = tuple(spec if path in kept else cast(spec) for path, spec in values.items())
        return values.model_copy(update={"leaves": leaves})

    trained = signature.train_outputs
    update = {"inputs": changed(signature.inputs), "outputs": changed(signature.outputs, but)}
    return signature.model_copy(update={**update, "train_outputs": trained and changed(trained, but)})
