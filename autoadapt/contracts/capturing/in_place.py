"""In place: the arguments that a submodule gets when the whole model runs, and the error where that raises."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments, bind_call
from autoadapt.contracts.capturing.hook_stops import stopped_by_hook
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.trees import flatten, rebuild
from autoadapt.contracts.views import clone_buffers, copy_module
from autoadapt.errors import CaptureError, InputError, Mismatch, nearest


def find_submodule(model: nn.Module, path: str) -> nn.Module:
    """The module at a path.

    Raises:
        CaptureError: There is none.
    """
    named = dict(model.named_modules())
    if path not in named:
        near = nearest(path, named)
        found = f"no module of that name{'; nearest: ' + ', '.join(near) if near else ''}"
        remedy = f'at="{near[0]}"' if near else "print(model)"
        raise CaptureError(
            f"there is no module at `{path}`", [Mismatch(path, "a path in named_modules()", found, remedy)]
        )
    return model.get_submodule(path)


def arguments_in_place(model: nn.Module, arguments: Arguments, path: str) -> Arguments:
    """The arguments of the first call of a submodule, in one real run of a copy of the whole model."""
    copied = copy_module(model, clone_buffers)
    watched = copied.get_submodule(path)
    calls: list[Arguments] = []

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not calls:
            calls.append(_as_they_are(bind_call(module, args, kwargs)))

    watched.register_forward_pre_hook(note, with_kwargs=True)
    with undisturbed(), _explained(model):
        copied.eval()
        try:
            arguments.call(copied)
        except Exception as error:
            if not calls or not stopped_by_hook(error):  # behind the submodule, a hook may stop the run
                raise
    if not calls:
        fault = Mismatch(path, "a module that runs", "it is never called", "give the path of a module that is used")
        raise CaptureError(f"`{path}` does not run when the model runs", [fault])
    return calls[0]


def _as_they_are(arguments: Arguments) -> Arguments:
    """The arguments in new containers, since the call may change its own."""
    tree, tensors = flatten(arguments.values)
    return Arguments(rebuild(tree, tensors), arguments.positional)


@contextlib.contextmanager
def _explained(model: nn.Module) -> Iterator[None]:
    try:
        yield
    except Exception as error:
        raise raised(model, error, f"{type(error).__name__}: {error}") from error


def first_sentence(said: str) -> str:
    """The first line of one of torch's messages, without the announcement of a list behind it.

    Example:
        >>> first_sentence("TypeError: conv2d() got (list), but expected one of:\\n * (Tensor input)")
        'TypeError: conv2d() got (list)'
    """
    return (said.splitlines() or [""])[0].removesuffix(", but expected one of:")


def raised(model: nn.Module, error: BaseException | None, said: str, inputs: Sequence[torch.Tensor] = ()) -> InputError:
    """The error for a model that raises at its inputs, or that one of its hooks stops.

    Args:
        model: The model.
        error: What it raised, where that is known.
        said: The message of that.
        inputs: The tensors that it was given.
    """
    name = type(model).__name__
    hook = stopped_by_hook(error) if error is not None else ""
    if hook:
        found, remedy = (
            f"{said.splitlines()[0].rstrip(': ')}, raised by its hook",
            "handle.remove()  # or capture a part",
        )
        fault = Mismatch(hook, "a hook that lets the forward pass end", found, f'{remedy}: capture(..., at="{hook}")')
        return InputError(f"{name} is stopped by a hook of `{hook}`", [fault])
    fault = Mismatch(f"{name}(inputs)", "a forward pass", first_sentence(said), _remedy(model, inputs))
    return InputError(f"{name} raises at the given input", [fault])


def _remedy(model: nn.Module, inputs: Sequence[torch.Tensor]) -> str:
    """The remedy: another dtype of model or inputs where these differ, else to try the call."""
    own = {p.dtype for p in model.parameters() if p.is_floating_point()}
    given = {tensor.dtype for tensor in inputs if tensor.is_floating_point()}
    if len(own) == len(given) == 1 and own != given:
        return f"module.to({next(iter(given))}), or inputs of {next(iter(own))}"
    if own and any(tensor.dtype == torch.uint8 and tensor.dim() > 2 for tensor in inputs):
        return "inputs=x.float() / 255  # images as floating-point numbers"
    return "call the model with these inputs first"
