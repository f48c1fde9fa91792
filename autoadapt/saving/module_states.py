"""States: what a module holds besides its code: tensors, modes, what is frozen, what is said of it."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Collection, Iterator, Mapping
from enum import Enum
from typing import Any, Literal

import torch
from torch import nn

from autoadapt.adapting.building import AdaptedModule, Said, own_attributes
from autoadapt.contracts.capturing.regions import HOOKS, callers_hooks
from autoadapt.contracts.trees import Container, Tree, flatten, has_opaque, rebuild, type_path
from autoadapt.errors import AdaptError, Mismatch, SavingError
from autoadapt.saving.folder_configs import Fact


def named_tensors(net: nn.Module) -> dict[str, torch.Tensor]:
    """Every parameter and buffer by each of its names, those that a state dict leaves out too."""
    return dict([*net.named_parameters(remove_duplicate=False), *net.named_buffers(remove_duplicate=False)])


def all_tensors(net: nn.Module) -> dict[str, torch.Tensor]:
    """The values of `named_tensors`, without gradients."""
    return {name: tensor.detach() for name, tensor in named_tensors(net).items()}


def unsaveable(state: Mapping[str, Any], tensors: Mapping[str, torch.Tensor], called: str) -> list[Mismatch]:
    """What of a module no file can hold: state that is no tensor, and tensors without values."""
    faults = [
        Mismatch(name, "a parameter or a buffer", f"a {type(value).__name__}", "save it yourself, beside the folder")
        for name, value in state.items()
        if name not in tensors
    ]
    remedy = f'{called}.to_empty(device="cpu"), then load weights'
    values = (name for name, tensor in tensors.items() if tensor.is_meta)
    return faults + [Mismatch(name, "values", "a tensor on the meta device", remedy) for name in values]


def unkept_buffers(net: nn.Module) -> set[str]:
    """Names of the buffers that a state dict leaves out."""
    found = set()
    for path, module in net.named_modules(remove_duplicate=False):
        found |= {f"{path}.{name}" if path else name for name in module._non_persistent_buffers_set}
    return found & {name for name, _ in net.named_buffers(remove_duplicate=False)}


def give_memory(net: nn.Module) -> None:
    """Put tensors of the meta device on the CPU, without values; unlike `to_empty`, what was tied stays so."""
    made: dict[int, torch.Tensor] = {}
    for module in net.modules():
        for held in (module._parameters, module._buffers):
            for name, tensor in held.items():
                if tensor is not None and tensor.is_meta:
                    if id(tensor) not in made:
                        empty = torch.empty_like(tensor, device="cpu")
                        is_parameter = isinstance(tensor, nn.Parameter)
                        made[id(tensor)] = nn.Parameter(empty, tensor.requires_grad) if is_parameter else empty
                    held[name] = made[id(tensor)]  # type: ignore[assignment]


def checksum_of(tensors: Mapping[str, torch.Tensor]) -> str:
    """A checksum of names, dtypes, shapes and bits."""
    found = hashlib.sha256()
    for name, tensor in sorted(tensors.items()):
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        found.update(flat.view(torch.uint8).numpy().data if flat.numel() else b"")
    return found.hexdigest()


def put_tensors(net: nn.Module, tensors: Mapping[str, torch.Tensor]) -> None:
    """Give parameters and buffers the values and dtypes of others, in storage of their own.

    Whoever shared the old storage keeps it as it was.
    """
    own = named_tensors(net)
    with torch.no_grad():
        for tensor, value in {id(own[name]): (own[name], value) for name, value in tensors.items()}.values():
            tensor.data = value.to(tensor.device, copy=True)


def channels_last_parts(net: nn.Module) -> tuple[str, ...]:
    """The children whose convolutions lie in memory with channels last."""
    return tuple(name for name, child in net.named_children() if any(map(_is_channels_last, child.parameters())))


def _is_channels_last(tensor: torch.Tensor) -> bool:
    if tensor.dim() != 4 or tensor.stride() == torch.empty(tensor.shape, device="meta").stride():
        return False
    return tensor.is_contiguous(memory_format=torch.channels_last)


def modes_of(net: nn.Module) -> dict[str, bool]:
    """The mode of a module, and of each part that is in another mode than what it stands in."""
    modes = {"": net.training}
    for path, module in net.named_modules():
        if path and module.training != net.get_submodule(path.rpartition(".")[0]).training:
            modes[path] = module.training
    return modes


def put_modes(net: nn.Module, modes: Mapping[str, bool]) -> None:
    """Set modes that were noted; parts that are not there are passed over."""
    for path, module in net.named_modules():
        if path in modes:
            module.training = modes[path]
        elif path:
            module.training = net.get_submodule(path.rpartition(".")[0]).training


def frozen_parts(net: nn.Module) -> tuple[str, ...]:
    """Parts whose parameters all take no gradient, the largest that there are, and single parameters."""
    return tuple(_frozen(net, ""))


def _frozen(module: nn.Module, path: str) -> Iterator[str]:
    parameters = list(module.parameters())
    if parameters and not any(parameter.requires_grad for parameter in parameters):
        yield path
        return
    before = f"{path}." if path else ""
    yield from (before + name for name, p in module.named_parameters(recurse=False) if not p.requires_grad)
    for name, child in module.named_children():
        yield from _frozen(child, before + name)


def set_frozen(net: nn.Module, frozen: Collection[str]) -> None:
    """Let exactly these parts take no gradient."""
    for name, parameter in net.named_parameters():
        is_frozen = any(not part or name == part or name.startswith(f"{part}.") for part in frozen)
        parameter.requires_grad_(not is_frozen and (parameter.is_floating_point() or parameter.is_complex()))


def facts_of(net: AdaptedModule) -> tuple[dict[str, Fact], list[str]]:
    """What consumers read off a module, and the names of what no file can hold."""
    facts, left = {}, []
    for name, value in own_attributes(net).items():
        fact = None if name in ("borrowed", *_REPORTS) or not _may_be_said(name, type(net)) else _fact(value)
        if name.startswith("_") or name in _REPORTS:
            continue
        if fact is not None:
            facts[name] = fact
        else:
            left += [f"{method}()" for method in value] if name == "borrowed" else [name]
    return facts, left


def hooked_parts(net: AdaptedModule) -> list[str]:
    """The module and those of its adapters whose calls or gradients have hooks of the caller, in words."""
    parts = {"the module": net, **{f"adapters.{path}": part for path, part in net.adapters.named_modules() if path}}
    return [f"hooks of {path}" for path, part in parts.items() if any(callers_hooks(part, kind) for kind in _OF_HOOKS)]


_OF_HOOKS = (*HOOKS, "_backward_hooks", "_backward_pre_hooks")
_REPORTS = ("swapped", "folded")
"""What is told of how it came into a bigger model; `folded` is saved with that."""
_HIDDEN = frozenset({"type", "compile", "half", "float", "double", "bfloat16", "share_memory"})
"""Methods of every module that only convert it, which an attribute may hide, as `type` does in each layer of YOLO."""


def _may_be_said(name: str, of: object) -> bool:
    """Whether an attribute may have a name: one that hides nothing by which a module is run, saved or trained."""
    return name.isidentifier() and not name.startswith("_") and (name in _HIDDEN or not hasattr(of, name))


def _fact(value: Any) -> Fact | None:
    if isinstance(value, Said):
        return _of_data("method", value.value)
    if type(value).__name__ == "FeatureInfo" and type(value).__module__.startswith("timm."):
        return _of_data("feature_info", {"info": value.info, "out_indices": value.out_indices})
    if isinstance(value, Enum):
        return _of_data("enum", [type_path(type(value)), value.value])
    return _of_data("value", value)


def _of_data(form: Literal["value", "method", "feature_info", "enum"], value: Any) -> Fact | None:
    """A value as a fact; None where it is more than plain values in plain containers."""
    try:
        tree, tensors = flatten(value)
    except AdaptError:
        return None
    return None if tensors or has_opaque(tree) or not _is_plain(tree) else Fact(form=form, value=tree)


def _is_plain(tree: Tree) -> bool:
    return not isinstance(tree, Container) or (not tree.type and all(map(_is_plain, tree.children)))


def put_facts(net: AdaptedModule, facts: Mapping[str, Fact]) -> None:
    """Let a module say what was noted.

    Raises:
        SavingError: A fact is none that `save` writes.
    """
    for name, fact in facts.items():
        if not _is_plain(fact.value) or not _may_be_said(name, net):
            fault = Mismatch(f"facts.{name}", "a plain value under a free name", str(fact)[:60], "aa.save(net, folder)")
            raise SavingError(f"the config says something of `{name}` that cannot be put on a module", [fault])
        value = rebuild(fact.value, [])
        if fact.form == "enum" and isinstance(value, (list, tuple)) and len(value) == 2:
            setattr(net, name, _member(value))
        elif fact.form == "feature_info":
            if (made := _feature_info(value)) is not None:
                setattr(net, name, made)
        else:
            setattr(net, name, Said(value) if fact.form == "method" else value)


def _member(value: Any) -> Any:
    """Of an enumeration that is imported already; else its plain value."""
    module, _, kind = str(value[0]).partition(":")
    found = getattr(sys.modules.get(module), kind, None)
    if not isinstance(found, type) or not issubclass(found, Enum):
        return value[1]
    return next((member for member in found if member.value == value[1]), value[1])


def _feature_info(value: Any) -> Any:
    """Of timm's class; nothing where timm is not installed, since then nobody reads it."""
    try:
        made = importlib.import_module("timm.models").FeatureInfo
    except ImportError:
        return None
    try:
        return made(value["info"], value["out_indices"])
    except (LookupError, TypeError, AttributeError, AssertionError):  # no such facts: nobody could read them either
        return None


def same_bits(left: torch.Tensor, right: torch.Tensor) -> bool:
    """Whether two tensors are equal bit for bit; NaN counts as itself."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    first, second = (tensor.cpu().contiguous().reshape(-1).view(torch.uint8) for tensor in (left, right))
    return torch.equal(first, second)
