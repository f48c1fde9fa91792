"""Refusals: modules, inputs, outputs and taps that cannot be captured, each with its error."""

from __future__ import annotations

import operator
import sys
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments, meta_call
from autoadapt.contracts.capturing.probing import Probe, ProbeError
from autoadapt.contracts.signature import Signature
from autoadapt.contracts.trees import Container, Opaque, Tree, flatten, path_text, paths
from autoadapt.errors import CaptureError, Mismatch, PlanError, nearest


def check_names(module: nn.Module) -> None:
    """Refuse modules in which two submodules have one path, since the name of a child has a dot.

    Raises:
        CaptureError: There are such submodules.
    """
    counts = Counter(name for name, _ in module.named_modules())
    faults = [
        Mismatch(name, "one module of this name", f"{count} of them", "name children without dots")
        for name, count in counts.items()
        if count > 1
    ]
    if faults:
        raise CaptureError(f"{type(module).__name__} has inner modules that share a name", faults)


def refuse_objects(name: str, tree: Tree, path: tuple[Any, ...] = ()) -> None:
    """Refuse outputs in objects that are no containers.

    Raises:
        CaptureError: There is one; its path is named.
    """
    match tree:
        case Opaque(type=kind):
            where = path_text(path)
            fault = Mismatch(where, "tensors in containers", f"a {kind}", "return the tensors it holds")
            raise CaptureError(f"{name} returns an object that autoadapt cannot look into", [fault])
        case Container(keys=keys, children=children):
            for key, child in zip(keys, children, strict=True):
                refuse_objects(name, child, (*path, key))
        case _:
            return


def refuse_object_inputs(tree: Tree, value: Any, path: tuple[Any, ...] = ()) -> None:
    """Refuse inputs that are objects of unknown structure.

    Raises:
        CaptureError: There is one; the remedy registers its class.
    """
    match tree:
        case Opaque(type=kind):
            expected = "a tensor, a container of them, or an object of a class that torch can take apart"
            fault = Mismatch(f"inputs.{path_text(path)}", expected, f"a {kind}", _registration(value, path_text(path)))
            raise CaptureError(f"nothing tells the tensors of a {kind.rpartition(':')[2]}", [fault])
        case Container(keys=keys, children=children):
            for key, child in zip(keys, children, strict=True):
                refuse_object_inputs(child, part_of(value, key), (*path, key))
        case _:
            return


def part_of(value: Any, key: Any) -> Any:
    """The item of a container, or the attribute of an object or named tuple; None where there is no such attribute."""
    has_items = isinstance(value, Mapping) or (isinstance(value, Sequence) and not isinstance(key, str))
    return operator.getitem(value, key) if has_items else getattr(value, str(key), None)


def tensor_names(value: Any) -> list[str]:
    """The names of an object's attributes that are tensors, sorted."""
    listed = value.keys() if callable(getattr(value, "keys", None)) else getattr(value, "__dict__", {})
    return sorted(str(one) for one in listed if isinstance(getattr(value, str(one), None), torch.Tensor))


def _registration(value: Any, path: str) -> str:
    """Lines of code that register the class of an object as a pytree node with all its tensors.

    Args:
        value: The object.
        path: Its path among the inputs, from which the code takes the class where it cannot be imported.
    """
    module, name = type(value).__module__, type(value).__name__
    names = [one for one in tensor_names(value) if one != "ptr"]  # torch_geometric's starts of graphs, as in `batch`
    is_there = getattr(sys.modules.get(module), name, None) is type(value)
    found = f"from {module} import {name}" if is_there else f"{name} = type({path})"
    return f"""{found}
from torch.utils import _pytree as pytree
names = {names}  # of the tensors that the module reads
pytree.register_pytree_node(
    {name},
    lambda one: ([getattr(one, name) for name in names], None),
    lambda parts, _: {name}(**dict(zip(names, parts))),
    flatten_with_keys_fn=lambda one: ([(pytree.GetAttrKey(name), getattr(one, name)) for name in names], None),
)"""


def refuse_empty(arguments: Arguments) -> None:
    """Refuse inputs without values.

    Raises:
        CaptureError: One of them is empty.
    """
    tree, tensors = flatten(arguments.values)
    empty = [path for path, tensor in zip(paths(tree), tensors, strict=True) if tensor.numel() == 0]
    if empty:
        faults = [
            Mismatch(
                path_text(path), "a tensor with at least one value", "an empty tensor", "torch.randn(2, 3, 224, 224)"
            )
            for path in empty
        ]
        raise CaptureError("an input is empty", faults)


def refuse_stored(name: str, kinds: Mapping[str, str]) -> None:
    """Refuse tensors that are not plain strided ones.

    Args:
        name: The name of the module.
        kinds: How each tensor is stored, by its path, as from `kind_of`.

    Raises:
        CaptureError: Some are sparse, quantised, nested or fake.
    """
    remedies = {
        "quantized": ".dequantize()",
        "nested": "torch.nested.to_padded_tensor(..., 0.0)",
        "fake": "make it outside of FakeTensorMode, with values",
    }
    faults = [
        Mismatch(where, "a dense tensor (torch.strided)", f"{kind} storage", remedies.get(kind, ".to_dense()"))
        for where, kind in kinds.items()
        if kind
    ]
    if faults:
        raise CaptureError(f"{name} takes or returns tensors that are not dense", faults)


def check_taps(module: nn.Module, source: Signature, taps: Mapping[str, str]) -> None:
    """Refuse the caller's taps that cannot be taken, with the reason for each.

    Args:
        module: The new module.
        source: Its signature, captured with inner outputs.
        taps: Names of inner outputs, by target.

    Raises:
        PlanError: A tap does not exist, is never called, is called a varying number of times, or gives no tensor.
    """
    known = [output.name for output in source.inner]
    offered = [*known, *source.outputs.paths, *(f"inputs.{path}" for path in source.inputs.paths)]
    faults = []
    for target, tap in taps.items():
        if tap not in offered:
            found = _why_not(module, source, tap)
            near = nearest(tap.partition("@")[0].partition(":")[0], known) or known[:3]
            options = "  # or ".join(f'taps={{"{target}": "{name}"}}' for name in near[:2])
            faults.append(Mismatch(f"taps[{target!r}]", "an inner module that returns a tensor", found, options))
    if faults:
        raise PlanError(f"{source.name} cannot be tapped there", faults)


def _why_not(module: nn.Module, source: Signature, tap: str) -> str:
    """Why a module cannot be tapped at a name."""
    path = tap.partition("@")[0].partition(":")[0]
    names = dict(module.named_modules())
    if path not in names:
        return f"`{path}` does not exist"
    noted = [output.name for output in source.inner if output.module == path]
    if noted:
        return f"`{tap}` is none of what it returns: {', '.join(noted[:4])}"
    calls = _calls(module, source, path)
    if not calls:
        return f"`{path}` is never called"
    if not any(calls):
        return f"`{path}` returns no tensor"
    return f"`{path}` is called a varying number of times ({len(calls)} at the probed size), or returns varying tensors"


def _calls(module: nn.Module, source: Signature, path: str) -> list[bool]:
    """For each call of an inner module at the example's sizes, whether it returns a tensor."""
    found: list[bool] = []
    arguments = meta_call(source, source.sizes())
    for real in (False, True):
        found.clear()
        probe = Probe(module, arguments, real=real, inner=False)
        probe.watch(path, lambda output: found.append(bool(flatten(output)[1])))
        try:
            probe.run()
        except ProbeError:
            continue
        return found
    return found
