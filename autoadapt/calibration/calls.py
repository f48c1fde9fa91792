"""Calls: what a loader gives, as calls of a model and their sizes."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from autoadapt.adapting.planning import Plan
from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.capturing.meant_inputs import meant_code
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.instances import dtype_of
from autoadapt.contracts.trees import flatten, path_texts


def fields(batch: object, model: nn.Module) -> object:
    """What a loader gives, without labels: of a list or dict of fields those that the model needs or knows."""
    if isinstance(batch, dict):
        return _known(batch, model)
    if type(batch) is not list or not batch or not all(isinstance(field, torch.Tensor) for field in batch):
        return batch
    parameters = list(inspect.signature(model.forward).parameters.values())
    takes_list = bool(parameters) and "list" in str(parameters[0].annotation).lower()
    if _are_images(batch) and (len(batch) > 1 or takes_list):
        return batch  # images of their own sizes, for a detector
    needed = sum(p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD for p in parameters)
    return tuple(batch[: max(needed, 1)])


def _known(batch: dict[Any, Any], model: nn.Module) -> dict[Any, Any]:
    """The fields that a model has arguments for; all of them where it takes any, or lacks one that it needs."""
    parameters = inspect.signature(model.forward).parameters
    takes_any = any(one.kind is one.VAR_KEYWORD for one in parameters.values())
    needed = {
        name for name, one in parameters.items() if one.default is one.empty and one.kind is not one.VAR_POSITIONAL
    }
    if takes_any or not needed or not needed <= batch.keys():
        return batch
    return {name: value for name, value in batch.items() if name in parameters}


def apart(arguments: Arguments) -> list[Arguments]:
    """A call for each image where a list has images of different sizes: together they would all be padded alike."""
    lists = {name: value for name, value in arguments.values.items() if isinstance(value, (list, tuple))}
    shapes = [[tensor.shape for tensor in value] for value in lists.values() if _are_images(value)]
    if all(len(set(each)) == 1 for each in shapes):
        return [arguments]
    count = len(shapes[0])
    listed = [name for name, value in lists.items() if len(value) == count]
    return [
        Arguments(
            {name: [value[i]] if name in listed else value for name, value in arguments.values.items()},
            arguments.positional,
        )
        for i in range(count)
    ]


def meant_data(batch: object) -> str:
    """What the caller may have meant by batches of which one is no call of the model, as code."""
    first = batch[0] if isinstance(batch, (list, tuple)) and batch else batch
    if isinstance(first, (str, os.PathLike)):
        return "data=(torchvision.io.decode_image(name)[None] / 255 for name in names)"
    field = f"batch[{next(iter(batch), 'image')!r}]" if isinstance(batch, dict) else "batch[0]"
    return f"data=({field} for batch in loader)"


def meant_batches(model: nn.Module, arguments: Arguments) -> str:
    """The batches with which a model runs that raises at those of the caller, as code; empty where none are known."""
    first = next(iter(arguments.values.values()))
    if len(arguments.values) > 1 or not isinstance(first, torch.Tensor):
        return ""
    dtype = dtype_of(model)
    if first.dtype == dtype:
        code = meant_code(model, first)
    else:
        code = f"x.to({dtype})" if first.dtype.is_floating_point else f"x.to({dtype}) / 255"
    return code and f"data=({code} for x in images)"


def cast_like(old: nn.Module, new: nn.Module) -> str:
    """The cast with which the weights of both models are of one dtype, as code; empty where they are."""
    dtype = dtype_of(old)
    return "" if dtype_of(new) == dtype else f"net.to({dtype})  # as the old model is"


def _are_images(values: Sequence[object]) -> bool:
    return bool(values) and all(isinstance(value, torch.Tensor) and value.dim() == 3 for value in values)


def named_tensors(value: object) -> dict[str, torch.Tensor]:
    """The tensors in the containers of a value, by path."""
    tree, tensors = flatten(value)
    return dict(zip(path_texts(tree), tensors, strict=True))


def sizes_of(plan: Plan, call: Arguments) -> dict[str, int]:
    """Sizes of the plan's input axes in a call: of inputs by name, then of those of other names in their order."""
    given = named_tensors(call.values)
    specs = dict(plan.target.inputs.items())
    others = iter([tensor for path, tensor in given.items() if path not in specs])
    found: dict[str, int] = {}
    for path, spec in specs.items():
        tensor = given[path] if path in given else next(others, None)
        if tensor is not None:
            named = zip(spec.dims, tensor.shape, strict=False)
            found |= {str(dim): size for dim, size in named if dim.axes and dim == Dim.axis(str(dim))}
    return found
