"""Arguments: how a module is called, as names and values."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autoadapt.contracts.capturing.given_inputs import as_tensors
from autoadapt.contracts.instances import check_module
from autoadapt.contracts.kept_weights import kept_weights
from autoadapt.contracts.signature import Parameter, Signature, TensorSpec
from autoadapt.contracts.trees import Constant, Opaque, flatten, rebuild
from autoadapt.errors import CaptureError, Mismatch


@dataclass(frozen=True)
class Arguments:
    """The values a module is called with, by the names of its own parameters."""

    values: dict[str, Any]
    positional: int

    def call(self, module: nn.Module) -> Any:
        """Call the module as its caller would; what it writes to its own parameters is put back."""
        args = list(self.values.values())[: self.positional]
        kwargs = dict(list(self.values.items())[self.positional :])
        with kept_weights(module) if isinstance(module, nn.Module) else contextlib.nullcontext():
            return module(*args, **kwargs)

    @property
    def of_clip(self) -> bool:
        """Whether a clip or a volume is among them."""
        return any(tensor.is_floating_point() and tensor.dim() == 5 for tensor in flatten(self.values)[1])

    def fresh(self) -> Arguments:
        """The same call with tensors of its own, for a run that may write to them."""
        tree, tensors = flatten(self.values)
        copies = [tensor.detach().clone().requires_grad_(tensor.requires_grad) for tensor in tensors]
        return Arguments(rebuild(tree, copies), self.positional)

    def call_apart(self, module: nn.Module) -> Any:
        """Call the module, which may write to what it is given: lists, dicts and tensors of the caller stay."""
        try:
            given = self.fresh()
        except Exception:  # something that cannot be made anew; it is handed on
            given = self
        return given.call(module)


def meta_tensors(specs: Iterable[TensorSpec], sizes: Mapping[str, int]) -> list[torch.Tensor]:
    """A tensor on the meta device for each spec, at the given sizes of the input axes."""
    return [torch.empty(spec.shape(sizes), dtype=spec.torch_dtype, device="meta") for spec in specs]


def meta_call(signature: Signature, sizes: Mapping[str, int]) -> Arguments:
    """A call on the meta device of the inputs of a signature, at the given sizes of its axes."""
    tensors = meta_tensors(signature.inputs.leaves, sizes)
    return Arguments(rebuild(signature.inputs.tree, tensors), signature.positional)


def bind(module: nn.Module, inputs: object) -> Arguments:
    """The inputs of a call by the names of `forward`'s parameters.

    Args:
        module: The module that would be called.
        inputs: A tensor or a list is the one argument; a tuple holds positional arguments; a dict holds keyword
            arguments (write `({...},)` for a dict as the one argument). NumPy arrays stand for tensors.

    Raises:
        CaptureError: It is no module, what is given is no input, or the call does not fit the module's `forward`.
    """
    if isinstance(inputs, Arguments):
        return inputs
    check_module(module, "model", CaptureError)
    inputs = as_tensors(module, inputs)
    args = inputs if isinstance(inputs, tuple) else () if isinstance(inputs, Mapping) else (inputs,)
    kwargs = {str(key): value for key, value in inputs.items()} if isinstance(inputs, Mapping) else {}
    return bind_call(module, args, kwargs)


def bind_call(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
    """As `bind`, for the arguments of one call."""
    try:
        signature = inspect.signature(module.forward)
    except (TypeError, ValueError):  # compiled code has no signature that Python can read
        return _named(tuple(f"args_{i}" for i in range(len(args))), args, kwargs)
    try:
        signature.bind(*args, **kwargs)
    except TypeError as error:
        fault = Mismatch(
            f"{type(module).__name__}.forward",
            f"a call that fits forward{signature}",
            str(error),
            "inputs=tensor, inputs=(first, second) or inputs={'name': tensor}",
        )
        raise CaptureError(f"the inputs do not fit {type(module).__name__}", [fault]) from error
    return _named(_parameter_names(signature, len(args)), args, kwargs)


def _named(names: tuple[str, ...], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Arguments:
    return Arguments(dict(zip(names, args, strict=True)) | dict(kwargs), positional=len(args))


def _parameter_names(signature: inspect.Signature, count: int) -> tuple[str, ...]:
    plain = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)
    names = [parameter.name for parameter in signature.parameters.values() if parameter.kind in plain][:count]
    return (*names, *(f"args_{i}" for i in range(count - len(names))))


def parameters_of(module: nn.Module, given: Arguments) -> tuple[Parameter, ...]:
    """All parameters of `forward` in order; none where none of them is optional, or Python cannot read them.

    Parameters behind `*args` are left out, since no further positional argument reaches them.
    """
    listed = _listed(module)
    takes_any = any(one.kind is one.VAR_POSITIONAL for one in listed)
    others = ("VAR_POSITIONAL", "KEYWORD_ONLY" if takes_any else "")
    found = [_parameter(one, getattr(module, "config", None)) for one in listed if one.kind.name not in others]
    by_place = list(given.values)[: given.positional]
    known = [one.name for one in found[: len(by_place)]] == by_place
    return tuple(found) if known and any(one != Parameter(name=one.name) for one in found) else ()


def _listed(module: nn.Module) -> list[inspect.Parameter]:
    """The parameters of `forward`; none where Python cannot read its signature."""
    try:
        return list(inspect.signature(module.forward).parameters.values())
    except (TypeError, ValueError):  # compiled code has no signature that Python can read
        return []


def names_taken(module: nn.Module) -> list[str]:
    """The names of `forward`'s parameters, in order."""
    return [one.name for one in _listed(module) if one.kind in (one.POSITIONAL_OR_KEYWORD, one.KEYWORD_ONLY)]


def named_only(module: nn.Module) -> list[str]:
    """The names of `forward`'s keyword-only parameters."""
    return [one.name for one in _listed(module) if one.kind is one.KEYWORD_ONLY]


def keyword_only(module: nn.Module) -> list[str]:
    """The names of `forward`'s required keyword-only parameters, where it has no positional ones."""
    listed = _listed(module)
    by_place = [one for one in listed if one.kind in (one.POSITIONAL_OR_KEYWORD, one.POSITIONAL_ONLY)]
    return [one.name for one in listed if one.kind is one.KEYWORD_ONLY and one.default is one.empty and not by_place]


def _parameter(one: inspect.Parameter, config: object) -> Parameter:
    """A parameter of `forward`, with its default and what the config has for it."""
    if one.kind is one.VAR_KEYWORD:
        names = [name.removeprefix("_") for name in getattr(config, "__dict__", ())]
        flags = ((name, on) for name in names if isinstance(on := getattr(config, name, None), bool))
        return Parameter(name=one.name, further=tuple(flags))
    if one.default is one.empty:
        return Parameter(name=one.name)
    if not _is_plain(one.default):
        return Parameter(name=one.name, default=Opaque(type=type(one.default).__name__))
    told = getattr(config, one.name, None) if one.default is None else None
    is_told = told is not None and _is_plain(told)
    return Parameter(name=one.name, default=Constant(value=one.default), told=Constant(value=told) if is_told else None)


def _is_plain(value: object) -> bool:
    """Whether it is None, a number or a text, and so can be written into code and compared."""
    return type(value) in (bool, int, float, str, type(None)) and value == value


def told_inputs(module: nn.Module) -> torch.Tensor:
    """An input of the size that the module's own configuration has, on the meta device.

    Read from `patch_embed.img_size` or `pretrained_cfg["input_size"]` (timm); from `config.image_size`,
    `config.num_channels` and `config.num_frames` (transformers); or from `config.num_mel_bins` with
    `2*config.max_source_positions` frames behind the bands (Whisper), or `config.max_length` frames before them (AST).

    Raises:
        CaptureError: The module has none of these.
    """
    told = getattr(module, "pretrained_cfg", None) or getattr(module, "default_cfg", None) or {}
    size = told.get("input_size") if isinstance(told, Mapping) else None
    built = getattr(getattr(module, "patch_embed", None), "img_size", None)
    if size is not None and isinstance(built, tuple):  # timm's configuration tells the size of the weights alone
        size = (size[0], *built)
    config = getattr(module, "config", None)
    if size is None and config is not None and getattr(config, "image_size", None) is not None:
        image = config.image_size
        height, width = image if isinstance(image, (list, tuple)) else (image, image)
        size = (getattr(config, "num_channels", 3), height, width)
        if getattr(config, "num_frames", None):
            return torch.empty(2, config.num_frames, *size, device="meta")
    if size is None and (bands := getattr(config, "num_mel_bins", None)):
        positions = getattr(config, "max_source_positions", None)
        frames = 2 * positions if positions else getattr(config, "max_length", None)
        if frames:
            return torch.empty(2, *((bands, frames) if positions else (frames, bands)), device="meta")
    if size is None:
        name = type(module).__name__
        fault = Mismatch(name, "a model that tells its input size", "none", "inputs=torch.randn(2, 3, 224, 224)")
        raise CaptureError(f"{name} does not tell what it takes, and no inputs were given", [fault])
    return torch.empty(2, _channels(module, size[0]), *size[1:], device="meta")


def told_example(module: nn.Module) -> torch.Tensor:
    """The same input with values, drawn from a fixed seed.

    Raises:
        CaptureError: As by `told_inputs`.
    """
    return torch.randn(told_inputs(module).shape, generator=torch.Generator().manual_seed(0))


def _channels(module: nn.Module, told: int) -> int:
    """The channels of the configuration; those of the first convolution where none reads as many."""
    reads = [part.in_channels for part in module.modules() if isinstance(part, (nn.Conv2d, nn.Conv3d))]
    return told if not reads or told in reads else reads[0]


def tensors_in(value: object) -> Iterator[torch.Tensor]:
    """The tensors among arguments or results, also those in lists, tuples and mappings."""
    if isinstance(value, torch.Tensor):
        yield value
    elif type(value) not in _NO_CONTAINERS and isinstance(value, (tuple, list, Mapping)):
        for one in value.values() if isinstance(value, Mapping) else value:
            yield from tensors_in(one)


_NO_CONTAINERS = frozenset({int, float, bool, str, type(None)})
"""Types of most arguments, for which the slower checks are skipped."""
