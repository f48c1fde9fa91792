"""Watching: what the rest of a model does with some of its submodules, seen in one run of a copy."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from autoadapt.contracts.capturing import bind
from autoadapt.contracts.capturing.arguments import told_example
from autoadapt.contracts.capturing.hook_stops import stopped_by_hook
from autoadapt.contracts.randomness import quiet
from autoadapt.contracts.trees import Path, Tree, flatten, path_text, paths
from autoadapt.contracts.views import clone_buffers, copy_module
from autoadapt.errors import AdaptError, CaptureError, Mismatch, SignatureError, SwapError
from autoadapt.swapping.containers import plain_tree, watched
from autoadapt.swapping.readings import Outcome, Reading, observed


@dataclass(frozen=True)
class Example:
    """How to run a model once."""

    run: Callable[[nn.Module], object]
    is_step: bool
    """Whether the caller wrote it, so that it may be a training step and needs gradients."""


@dataclass(frozen=True)
class Watched:
    """One or two runs of a whole model: what was seen of each submodule, and what the whole returned in each mode."""

    readings: dict[str, Reading]
    outcomes: dict[bool, Outcome]
    """What the whole returned, by whether it was in train mode."""


def as_example(model: nn.Module, inputs: object) -> Example:
    """A run of the model from what the caller gave: inputs, or a function of the model such as a training step."""
    if callable(inputs):
        return Example(inputs, is_step=True)
    if inputs is None:
        inputs = told_example(model)
    return Example(bind(model, inputs).call_apart, is_step=False)


def watch(model: nn.Module, example: Example, at: Sequence[str]) -> Watched:
    """Run a copy of the whole model and note what it does with some submodules.

    The copy runs in eval mode, and in train mode as well where the model is in that and the run does not raise:
    losses may read more.

    Args:
        model: The whole; it is only copied.
        example: How to run it.
        at: Paths of the submodules.

    Raises:
        CaptureError: The model raises in either mode.
        SwapError: A submodule never runs.
    """
    error: Exception | None = None
    readings: dict[str, Reading] = {}
    outcomes: dict[bool, Outcome] = {}
    for training in (False, True) if model.training else (False,):
        try:
            seen, outcomes[training] = watch_once(model, example, at, training)
        except AdaptError:  # it runs, and what is wrong is said already
            raise
        except Exception as raised:
            error = raised if error is None else error
            continue
        for path, reading in seen.items():
            if path in readings and readings[path].calls:
                readings[path].join(reading)
            else:
                readings[path] = reading
    if not outcomes:
        raise _raised(model, error) from error
    _refuse_unused(model, readings)
    return Watched(readings, outcomes)


def _raised(model: nn.Module, error: Exception | None) -> CaptureError:
    name, said = type(model).__name__, f"{type(error).__name__}: {error}".splitlines()[0]
    hook = stopped_by_hook(error) if error is not None else ""
    if hook:
        remedy = f"inputs=step  # a function of the model that calls it and catches {type(error).__name__}"
        found = f"{said.rstrip(': ')}, raised by its hook"
        fault = Mismatch(hook, "a hook that lets the forward pass end", found, remedy)
        return CaptureError(f"{name} is stopped by a hook of `{hook}`", [fault])
    fault = Mismatch(f"{name}(inputs)", "a forward pass", said, "call the model with these inputs first")
    return CaptureError(f"{name} raises at the given input", [fault])


def as_region(model: nn.Module, path: str) -> str:
    """What to do where a list of layers is walked by the code around it; empty for any other module."""
    walked = isinstance(model.get_submodule(path), (nn.Sequential, nn.ModuleList, nn.ModuleDict))
    return f'swap(model, ["{path}"], ...)  # the layers inside, as one region' if walked else ""


def _refuse_unused(model: nn.Module, readings: Mapping[str, Reading]) -> None:
    faults = []
    for path, reading in readings.items():
        if not reading.calls:
            called = ", ".join(f"{name}()" for name in reading.methods)
            found = f"only its method {called} is called" if called else "it is never called"
            remedy = "give the path of a module that is called; a callable inputs= gets the model: lambda model: ..."
            remedy = as_region(model, path) or remedy
            faults.append(Mismatch(path, "a module whose forward runs", found, remedy))
    if faults:
        raise SwapError(f"`{faults[0].where}` does not run when the model runs", faults)


def watch_once(
    model: nn.Module, example: Example, at: Sequence[str], training: bool, *, train: bool = False
) -> tuple[dict[str, Reading], Outcome]:
    """Watch with containers that note look-ups; code that does not take these is watched by its tensors alone.

    Args:
        model: The whole; it is only copied.
        example: How to run it.
        at: Paths of the submodules.
        training: Run in the modes that the model is in, instead of in eval mode.
        train: Run in train mode, whatever the model is in.
    """
    try:
        return _watch_copy(model, example, at, training, containers=True, train=train)
    except Exception:
        return _watch_copy(model, example, at, training, containers=False, train=train)


def _watch_copy(
    model: nn.Module, example: Example, at: Sequence[str], training: bool, *, containers: bool, train: bool
) -> tuple[dict[str, Reading], Outcome]:
    mode = _Watch(containers)

    def prepare(copied: nn.Module) -> None:
        if train:
            copied.train()
        for path in at:
            mode.observe(copied.get_submodule(path), path)

    returned = run_copy(model, example, prepare, training=training, mode=mode)
    tree, tensors = flatten(returned, any_keys=True)
    mode.note_escaped(tree, tensors)
    return mode.readings, outcome_of(returned)


def run_copy(
    model: nn.Module,
    example: Example,
    prepare: Callable[[nn.Module], None],
    *,
    training: bool,
    mode: contextlib.AbstractContextManager[Any] | None = None,
) -> Any:
    """Run a copy of a model, over the same weights but with buffers of its own, after something is done to it.

    Args:
        model: The original; it is only read.
        example: How to run it.
        prepare: What to do to the copy.
        training: Run in the modes that the model is in, instead of in eval mode.
        mode: What to enter around the run.
    """
    copied = copy_module(model, clone_buffers)
    prepare(copied)
    if not training:
        copied.eval()
    with quiet(), torch.set_grad_enabled(example.is_step), mode or contextlib.nullcontext():
        return example.run(copied)


def outcome_of(returned: object) -> Outcome:
    """Write down what a run returned; the keys of a whole model's answer may be anything."""
    tree, tensors = flatten(returned, any_keys=True)
    return Outcome(plain_tree(tree), tuple(tuple(t.shape) for t in tensors), tuple(t.dtype for t in tensors))


class _Watch(TorchFunctionMode):
    """While it is active, tensors that observed modules returned are noted where a torch function takes them."""

    def __init__(self, containers: bool) -> None:
        super().__init__()
        self.readings: dict[str, Reading] = {}
        self._containers = containers
        self._leaves: dict[int, tuple[torch.Tensor, list[tuple[Reading, str]]]] = {}
        self._made: dict[int, dict[int, tuple[torch.Tensor, str]]] = {}

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        if self._leaves:
            self._note_used(args)
            self._note_used((kwargs or {}).values())
        return func(*args, **(kwargs or {}))

    def _note_used(self, values: Any) -> None:
        for value in values:
            if isinstance(value, torch.Tensor):
                for reading, path in self._paths(value):
                    reading.used.add(path)
            elif isinstance(value, (list, tuple)):
                self._note_used(value)

    def _paths(self, tensor: torch.Tensor) -> list[tuple[Reading, str]]:
        """The leaves that a tensor is; of several in one output those that were looked up, if there are any."""
        places = self._leaves.get(id(tensor), (tensor, []))[1]
        looked_up = [(reading, path) for reading, path in places if path in reading.looked_up]
        return looked_up or places

    def observe(self, module: nn.Module, path: str) -> None:
        """Have a module of the copy tell what is done with it."""
        reading = self.readings[path] = Reading()
        made: dict[int, tuple[torch.Tensor, str]] = {}
        self._made[id(reading)] = made
        for name, inner in module.named_modules():
            if name and not isinstance(inner, torch.jit.ScriptModule):
                inner.register_forward_hook(functools.partial(_note_made, made, f"{path}.{name}"))
        module.__class__ = observed(type(module), reading, self._returned)

    def _returned(self, reading: Reading, value: object) -> object:
        """Note what a call returned, and hand on what notes its look-ups."""
        tree, tensors = flatten(value)
        for path, tensor in zip(paths(tree), tensors, strict=True):
            _, places = self._leaves.setdefault(id(tensor), (tensor, []))
            places.append((reading, path_text(path)))
            made = self._made[id(reading)].get(id(tensor))
            if made is not None:
                reading.inside[path_text(path)] = made[1]
        self._made[id(reading)].clear()
        if not self._containers:
            return value

        def note(path: Path) -> None:
            reading.looked_up.add(path_text(path))

        return watched(value, note)

    def note_escaped(self, tree: Tree, tensors: Sequence[torch.Tensor]) -> None:
        """Find observed tensors in what the whole returned."""
        for path, tensor in zip(paths(tree), tensors, strict=True):
            for reading, leaf in self._leaves.get(id(tensor), (tensor, []))[1]:
                reading.escaped.setdefault(leaf, []).append(path_text(path))


def _note_made(
    made: dict[int, tuple[torch.Tensor, str]], path: str, _module: nn.Module, _args: object, returned: object
) -> None:
    """Modules further out finish later, so that the outermost one is what stays."""
    for tensor in _tensors(returned):
        made[id(tensor)] = (tensor, path)


def _tensors(value: object) -> list[torch.Tensor]:
    try:
        return flatten(value)[1]
    except SignatureError:  # a container that paths cannot name
        return []
