"""Sample outputs: what a module made of invented inputs when it was saved, and whether it does when restored."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch

from autoadapt.adapting.building import AdaptedModule
from autoadapt.adapting.verification.sessions import Session, said
from autoadapt.contracts.instances import dtype_of
from autoadapt.contracts.randomness import quiet
from autoadapt.contracts.signature import dtype_name
from autoadapt.contracts.unfit import off_the_meta_device
from autoadapt.errors import AdaptError, Mismatch
from autoadapt.saving.folder_configs import Leaf, Witness

_SAMPLES = 8
_TOLERANCE = 0.02  # of the scale: other processors round otherwise, another activation differs by more
_HALF, _HALF_TOLERANCE = ("f16", "bf16"), 0.1


def witness_of(net: AdaptedModule, noted: Mapping[str, int] | None = None) -> Witness:
    """Run a copy of a module once, in eval mode, one sample at the size that was probed.

    Args:
        net: The module.
        noted: Sizes to run at, where an earlier run noted them, and they are legal.

    Raises:
        AdaptError: It does not run on invented inputs, or returns other containers than its contract says.
    """
    with off_the_meta_device():
        return _witness(net, noted)


def _witness(net: AdaptedModule, noted: Mapping[str, int] | None) -> Witness:
    session = Session(net, net.signature)
    axes = net.signature.axes
    is_legal = noted is not None and noted.keys() == axes.keys() and all(noted[name] in axes[name] for name in axes)
    sizes = dict(noted) if noted is not None and is_legal else session.at(B=1)
    own = dtype_of(net)
    wanted = None if own in {spec.torch_dtype for spec in net.signature.inputs.leaves} else own
    try:
        with quiet():
            torch.manual_seed(0)
            leaves = session.leaves(session.arguments(sizes, dtype=wanted).call(session.copy()))
    except AdaptError:
        raise
    except Exception as error:  # whatever a model raises
        fault = Mismatch("a run on invented inputs", "outputs", said(error), "check=False")
        raise AdaptError("the module does not run on invented inputs", [fault]) from error
    return Witness(sizes=sizes, leaves={path: _leaf(tensor) for path, tensor in leaves.items()})


def _leaf(tensor: torch.Tensor) -> Leaf:
    shape, dtype = tuple(tensor.shape), dtype_name(tensor.dtype)
    if not tensor.is_floating_point() or not tensor.numel():
        return Leaf(dtype=dtype, shape=shape)
    flat = tensor.detach().flatten().double()
    scale = float(flat.square().mean().sqrt())
    if not math.isfinite(scale):
        return Leaf(dtype=dtype, shape=shape)
    samples = flat[:: max(flat.numel() // _SAMPLES, 1)][:_SAMPLES]
    return Leaf(dtype=dtype, shape=shape, scale=scale, samples=tuple(samples.tolist()))


def differences(net: AdaptedModule, before: Witness) -> list[Mismatch]:
    """What a module does otherwise than it did when it was saved, and what it does not keep of its contract."""
    try:
        now = witness_of(net, before.sizes)
    except AdaptError as error:
        return list(error.mismatches) or [Mismatch("a run", "outputs", error.summary)]
    faults = []
    for path, spec in net.signature.outputs.items():
        leaf, noted = now.leaves[path], before.leaves.get(path)
        contract = spec.shape(now.sizes)
        if leaf.shape != contract:
            faults.append(Mismatch(f"output {path}", f"shape {list(contract)}", f"shape {list(leaf.shape)}"))
        elif noted is None or (noted.dtype, noted.shape) != (leaf.dtype, leaf.shape):
            expected = f"{noted.dtype}{list(noted.shape)}" if noted else "nothing noted"
            faults.append(Mismatch(f"output {path}", expected, f"{leaf.dtype}{list(leaf.shape)}"))
        elif (off := _distance(noted, leaf)) > (_HALF_TOLERANCE if leaf.dtype in _HALF else _TOLERANCE):
            expected, found = "the values of the module that was saved", f"off by {off:.1%} of their scale"
            faults.append(Mismatch(f"output {path}", expected, found, _REMEDY, _WHY))
    return faults


_WHY = "the module that was given, or that its package makes now, works otherwise than the one that was saved"
_REMEDY = "restore(..., new=the module that was adapted)\nrestore(..., strict=False)      to have it nevertheless"


def _distance(left: Leaf, right: Leaf) -> float:
    if left.scale is None or right.scale is None or len(left.samples) != len(right.samples):
        return 0.0 if left == right else math.inf
    unit = max(left.scale, 1e-12)
    pairs = zip(left.samples, right.samples, strict=True)
    return max([abs(left.scale - right.scale), *(abs(a - b) for a, b in pairs)]) / unit
