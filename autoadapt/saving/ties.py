"""Ties: parameters and buffers that are one memory under several names."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import Any, NamedTuple

import torch
from torch import nn

from autoadapt.errors import Mismatch, SavingError
from autoadapt.saving.module_states import named_tensors, put_tensors


def ties_of(tensors: Mapping[str, torch.Tensor]) -> dict[str, str]:
    """Tensors that are the same memory as another one: name -> the first name."""
    first: dict[Any, str] = {}
    ties = {}
    for name, tensor in tensors.items():
        key = (tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and first.setdefault(key, name) != name:
            ties[name] = first[key]
    return ties


def apart_of(net: nn.Module, ties: Mapping[str, str]) -> tuple[str, ...]:
    """The tied names that are a parameter or buffer of their own, over the memory of another one."""
    own = named_tensors(net)
    return tuple(name for name, kept in ties.items() if own[name] is not own[kept])


class _Held(NamedTuple):
    """A tensor where a module holds it."""

    name: str
    module: nn.Module
    attribute: str
    tensor: torch.Tensor


def _held(net: nn.Module, names: Collection[str]) -> Iterator[_Held]:
    for path, module in net.named_modules(remove_duplicate=False):
        for attribute, tensor in [*module._parameters.items(), *module._buffers.items()]:
            name = f"{path}.{attribute}" if path else attribute
            if tensor is not None and name in names:
                yield _Held(name, module, attribute, tensor)


def check_ties(net: nn.Module, noted: Mapping[str, str], names: Collection[str]) -> None:
    """Refuse a module that stands at two places where two were saved: it cannot hold what both of them held.

    Args:
        net: The module that takes the tensors.
        noted: What `ties_of` said of those that were saved.
        names: Those that were saved.

    Raises:
        SavingError: There is one.
    """
    first: dict[tuple[int, str], str] = {}
    faults = []
    for one in _held(net, names):
        before = first.setdefault((id(one.module), one.attribute), one.name)
        if noted.get(before, before) != noted.get(one.name, one.name):
            place, other = (name.rpartition(".")[0] for name in (one.name, before))
            faults.append(Mismatch(one.name, "a tensor of its own", f"`{place}` is `{other}`", "build it as it was"))
    if faults:
        raise SavingError(f"one module stands where two were saved, in {len(faults)} tensors", faults[:6])


def put_tied(
    net: nn.Module,
    tensors: Mapping[str, torch.Tensor],
    tied: Mapping[str, str],
    apart: Collection[str],
    also: Collection[str] = (),
) -> None:
    """Give a module tensors as `put_tensors` does, where the names that were one tensor or memory are so again.

    Args:
        net: The module that takes the tensors, which `check_ties` let pass.
        tensors: Those that were saved; others stay as they are.
        tied: What `ties_of` said of them.
        apart: What `apart_of` said of them.
        also: Further names that have their values already, and may be tied to those of `tensors`.
    """
    _put_objects(net, {name: kept for name, kept in tied.items() if name not in apart}, {*tensors, *also})
    put_tensors(net, tensors)
    own = named_tensors(net)
    for name in apart:
        if name in own and tied.get(name) in own:
            own[name].data = own[tied[name]].data


def _put_objects(net: nn.Module, noted: Mapping[str, str], names: Collection[str]) -> None:
    """Let the names that were one tensor be one, and those that were several be several; without values as yet."""
    made: dict[tuple[str, bool], torch.Tensor] = {}
    taken: set[int] = set()
    for one in _held(net, names):
        group = noted.get(one.name, one.name), isinstance(one.tensor, nn.Parameter)
        if group not in made:
            made[group] = one.tensor if id(one.tensor) not in taken else _another(one.tensor)
            taken.add(id(made[group]))
        if made[group] is not one.tensor:
            setattr(one.module, one.attribute, made[group])  # as recurrent layers, which list their weights, notice


def _another(tensor: torch.Tensor) -> torch.Tensor:
    made = torch.empty_like(tensor)
    return nn.Parameter(made, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else made
