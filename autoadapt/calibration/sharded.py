"""Sharded: models of which each process holds a part (FSDP2). They run as they are; what is small is copied whole."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from autoadapt.contracts.modes import in_eval_mode
from autoadapt.contracts.views import clone_buffers, copy_module
from autoadapt.errors import CalibrationError, Mismatch
from autoadapt.weights.tensor_specs import is_sharded as is_part

_FSDP = ("torch.distributed.fsdp", "torch.distributed._composable.fsdp")
"""Where it stands; the second in torch 2.5."""


def is_sharded(module: nn.Module) -> bool:
    """Whether each process holds a part of its parameters."""
    return bool(_managed(module)) or any(map(is_part, module.parameters()))


def refuse_sharded(sharded: Sequence[nn.Module], device: object, trains: bool) -> None:
    """Refuse to move or to train models of which each process holds a part.

    Raises:
        CalibrationError: That is asked for.
    """
    if sharded and device is not None:
        fault = Mismatch("device", "None: sharded modules run where they are", str(device), "leave device= out")
        raise CalibrationError("sharded modules are not moved", [fault])
    if sharded and trains:
        fault = Mismatch("net, like", "whole modules", "sharded ones", "calibrate, which runs them as they are")
        raise CalibrationError("sharded modules are not distilled", [fault])


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """All of a tensor, gathered where each process holds a part; every process must ask."""
    part: Any = tensor
    gathered: torch.Tensor = part.full_tensor() if is_part(part) else tensor
    return gathered


def write_whole(tensor: torch.Tensor, values: torch.Tensor) -> None:
    """Write into a tensor; where each process holds a part, all give the same values, and each keeps its own."""
    if is_part(tensor):
        from torch.distributed.tensor import distribute_tensor

        part: Any = tensor
        values = values.to(part.device, part.dtype)
        values = distribute_tensor(values, part.device_mesh, part.placements, src_data_rank=None)
    tensor.copy_(values)


def copied(module: nn.Module) -> nn.Module:
    """A copy that runs; with weights of its own where the module is sharded, else over the same ones."""
    return whole_copy(module) if is_sharded(module) else copy_module(module, clone_buffers)


def whole_copy(module: nn.Module, without: nn.Module | None = None) -> nn.Module:
    """A copy whose tensors are whole and its own, that no longer gathers anything when it runs.

    Args:
        module: The original; every process must ask for it at once.
        without: A module inside that is left out; an identity stands in its place.
    """
    _reshard([module])
    with _without(module, without), _unmanaged(module):
        return copy_module(module, clone_buffers)


@contextlib.contextmanager
def undisturbed(modules: Sequence[nn.Module]) -> Iterator[None]:
    """A caller's modules in eval mode, to be run; their modes and buffers are put back."""
    parts = [(part, part.training) for module in modules for part in module.modules()]
    buffers = [(tensor, tensor.detach().clone()) for module in modules for tensor in module.buffers()]
    try:
        for module in modules:
            in_eval_mode(module)
        yield
    except BaseException:
        for root in (one for module in modules for one in _managed(module)[:1]):
            getattr(root, "reset_iter_state", int)()  # new in torch 2.14
        raise
    finally:
        _reshard(modules)
        for part, mode in parts:
            part.training = mode
        with torch.no_grad():
            for tensor, before in buffers:
                tensor.copy_(before)


def calling(module: nn.Module, model: nn.Module | None = None, at: str = "") -> Any:
    """A call of a module, inside a model, that is not looked into: a sharded one has other parameters while it runs."""

    def called(*args: Any, **kwargs: Any) -> Any:
        with _unsharded(module if model is None else model, at):
            return module(*args, **kwargs)

    return called


@contextlib.contextmanager
def _unsharded(model: nn.Module, path: str) -> Iterator[None]:
    """What modules around an inner one hold of it is gathered, so that it can be called by itself."""
    names = path.split(".") if path else []
    around: list[Any] = [model.get_submodule(".".join(names[:depth])) for depth in range(len(names))]
    managed = [one for parent in around for one in _managed(parent)[:1] if one is parent]
    for part in managed:
        part.unshard()
    try:
        yield
    finally:
        _reshard(managed)


def _managed(module: nn.Module) -> list[Any]:
    """Modules inside that FSDP2 gathers before they run."""
    kinds = tuple({kind for name in _FSDP if (kind := getattr(sys.modules.get(name), "FSDPModule", None))})
    return [part for part in module.modules() if isinstance(part, kinds)]


def _reshard(modules: Sequence[nn.Module]) -> None:
    """Parameters as each process keeps them: a model that has run may have gathered them."""
    for part in (one for module in modules for one in _managed(module)):
        part.reshard()


@contextlib.contextmanager
def _without(module: nn.Module, inner: nn.Module | None) -> Iterator[None]:
    """An identity in the place of a module inside, for as long as the block runs."""
    places = [(part, name) for part in module.modules() for name, child in part._modules.items() if child is inner]
    places = places if inner is not None else []
    try:
        for part, name in places:
            part._modules[name] = nn.Identity()
        yield
    finally:
        for part, name in places:
            part._modules[name] = inner


@contextlib.contextmanager
def _unmanaged(module: nn.Module) -> Iterator[None]:
    """Modules of FSDP2 as the plain ones that they were, of whole tensors and without its hooks, in the block."""
    managed, gathered = {id(part) for part in _managed(module)}, dict[int, torch.Tensor | None]()
    before = [(part, type(part), dict(vars(part))) for part in module.modules()]
    try:
        for part, kind, state in before:
            now = vars(part)
            for key in ("_parameters", "_buffers"):
                now[key] = {name: _own(tensor, gathered) for name, tensor in state[key].items()}
            if id(part) in managed:
                part.__class__ = kind.__mro__[2]  # FSDP puts a class of its own and FSDPModule before it
                hooked = [name for name, one in state.items() if name.endswith("_hooks") and isinstance(one, dict)]
                now |= {name: _without_fsdp(state[name]) for name in hooked}
                for name in [name for name in state if name.startswith("__composable_api")]:
                    del now[name]
        yield
    finally:
        for part, kind, state in before:
            part.__class__ = kind
            vars(part).clear()
            vars(part).update(state)


def _own(tensor: torch.Tensor | None, gathered: dict[int, torch.Tensor | None]) -> torch.Tensor | None:
    """A whole tensor of its own, one for all places where the same one stands."""
    if tensor is not None and id(tensor) not in gathered:
        made = whole(tensor).detach().clone()
        is_parameter = isinstance(tensor, nn.Parameter)
        gathered[id(tensor)] = nn.Parameter(made, requires_grad=tensor.requires_grad) if is_parameter else made
    return gathered.get(id(tensor))


def _without_fsdp(hooks: Any) -> Any:
    module_of = {key: str(getattr(hook, "__module__", "")) for key, hook in hooks.items()}
    return type(hooks)((key, hook) for key, hook in hooks.items() if not module_of[key].startswith(_FSDP))
