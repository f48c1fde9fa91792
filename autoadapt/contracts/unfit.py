"""Unfit modules: refusals of sharded, fake and lazy parameters; the default device and precision that a copy needs."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.parameter import is_lazy

from autoadapt.contracts.instances import parts_of, tensors_of
from autoadapt.errors import CaptureError, Mismatch


def refuse_unfit(module: nn.Module) -> None:
    """Refuse modules with sharded tensors (FSDP, `DTensor`), `FakeTensor`s, or lazy parameters without a shape.

    Raises:
        CaptureError: The module has some.
    """
    kinds = {type(one).__name__ for one in (*tensors_of(module), torch.empty(0))}
    if kinds <= {"Tensor", "Parameter", "Buffer"} and not any(map(_is_sharded, parts_of(module))):
        return
    _refuse_lazy(module)
    named = [*module.named_parameters(), *module.named_buffers(), ("FakeTensorMode", torch.empty(0))]
    fake = [path for path, tensor in named if type(tensor).__name__ == "FakeTensor"]
    sharded = [path for path, tensor in named if type(tensor).__name__ == "DTensor"]
    sharded += [path for path, part in module.named_modules() if _is_sharded(part)]
    name = type(module).__name__
    if sharded:
        remedy = "adapt the module first, and shard what you get: fully_shard(net)"
        fault = Mismatch(sharded[0] or name, "whole tensors", f"{name} is sharded (FSDP, DTensor)", remedy)
        raise CaptureError(f"{name} is sharded over processes", [fault])
    if fake:
        remedy = 'leave FakeTensorMode; modules without memory are made by `with torch.device("meta"):`'
        fault = Mismatch(fake[-1], "tensors of a device, or of the meta device", "FakeTensor", remedy)
        raise CaptureError(f"{name} cannot be run on fake tensors", [fault])


def _is_sharded(part: nn.Module) -> bool:
    return type(part).__name__ == "FullyShardedDataParallel"


def _refuse_lazy(module: nn.Module) -> None:
    """Refuse layers whose parameters get their shapes from the first input."""
    named = [*module.named_parameters(), *module.named_buffers()]
    lazy = [name for name, tensor in named if is_lazy(tensor)]
    if lazy:
        layers = {name.rpartition(".")[0] for name in lazy}
        found = [f"{type(module.get_submodule(path)).__name__}, which has not run yet" for path in sorted(layers)]
        remedy = "model(inputs)  # run the model once first"
        faults = [
            Mismatch(path or type(module).__name__, "parameters that have a shape", text, remedy)
            for path, text in zip(sorted(layers), found, strict=True)
        ]
        raise CaptureError(f"{type(module).__name__} has parameters without a shape: run the model once first", faults)


def off_the_meta_device() -> contextlib.AbstractContextManager[object]:
    """Make the CPU the default device while `torch.set_default_device("meta")` is in effect; else do nothing."""
    return torch.device("cpu") if default_device().type == "meta" else contextlib.nullcontext()


@contextlib.contextmanager
def without_autocast() -> Iterator[None]:
    """Leave the caller's autocast: contracts have a module's own dtypes, and what keeps them runs in both."""
    with contextlib.ExitStack() as left:
        for device in ("cpu", "cuda", "mps", "xpu"):
            if torch.is_autocast_enabled(device):
                left.enter_context(torch.autocast(device, enabled=False))
        yield


def default_device() -> torch.device:
    """As `torch.get_default_device()`, which in torch 2.5 raises after `set_default_device(None)`."""
    return torch.empty(0).device
