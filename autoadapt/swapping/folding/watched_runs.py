"""Watched runs: a copy of a model runs, and what is made of its adapted module's output is followed on the way."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from autoadapt.contracts.capturing.arguments import tensors_in
from autoadapt.contracts.modes import in_eval_mode, in_train_mode
from autoadapt.contracts.views import clone_buffers, copy_module
from autoadapt.swapping.folding.statements import Statement


class Watch(TorchFunctionMode):
    """What is known of tensors while a model runs."""

    def __init__(self) -> None:
        super().__init__()
        self._known: dict[int, tuple[torch.Tensor, Statement]] = {}

    def statement(self, tensor: object) -> Statement | None:
        """What is known of a tensor; nothing of any other value."""
        found = self._known.get(id(tensor))
        return None if found is None else found[1]

    def stated_in(self, value: object) -> list[Statement]:
        """What is known of the tensors in a value."""
        return [one for tensor in tensors_in(value) if (one := self.statement(tensor)) is not None]

    @abstractmethod
    def begin(self, output: object) -> None:
        """Note what the adapted module returns."""

    @abstractmethod
    def end(self, output: object) -> None:
        """Note what the model returns."""

    @abstractmethod
    def entering(self, name: str) -> Callable[..., None]:
        """A forward pre-hook of a module."""

    @abstractmethod
    def leaving(self, module: nn.Module, _args: Any, _output: Any) -> None:
        """A forward hook of a module, also where it raises."""


_Watch = TypeVar("_Watch", bound=Watch)


def watched(
    model: nn.Module,
    path: str,
    call: Callable[[nn.Module], Any],
    start: Callable[[nn.Module], _Watch],
    in_training: bool,
) -> _Watch:
    """Run a copy of a model under a watch.

    Args:
        model: It is not changed.
        path: Where the adapted module stands; what is inside it is not followed.
        call: Runs the model.
        start: Makes the watch of the copy.
        in_training: Whether it runs in train mode.
    """
    copied = (in_train_mode if in_training else in_eval_mode)(copy_module(model, clone_buffers))
    watch = start(copied)

    def note(_module: nn.Module, _args: object, output: object) -> None:
        watch.begin(output)  # before the hook by which the first module of a region hands on a part of it

    handles = [copied.get_submodule(path).register_forward_hook(note, prepend=True)]
    for name, module in copied.named_modules():
        if name != path and not name.startswith(f"{path}."):
            handles.append(module.register_forward_pre_hook(watch.entering(name), with_kwargs=True))
            handles.append(module.register_forward_hook(watch.leaving, always_call=True))
    try:
        with watch:
            watch.end(call(copied))
    finally:
        for handle in handles:
            handle.remove()
    return watch
