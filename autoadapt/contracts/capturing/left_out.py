"""Left out: tensors of an input object that its pytree registration leaves out although the module reads them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.capturing.devices import is_dear
from autoadapt.contracts.capturing.hiding import others
from autoadapt.contracts.capturing.probing import Work
from autoadapt.contracts.capturing.refusals import part_of, tensor_names
from autoadapt.contracts.capturing.run_values import are_equal
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.trees import Container, Tree, flatten, path_text, rebuild
from autoadapt.contracts.views import eval_copy
from autoadapt.errors import CaptureError, Mismatch


def refuse_left_out(module: nn.Module, arguments: Arguments, work: Work) -> None:
    """Refuse inputs of a registered class whose registration leaves out tensors that change the outputs.

    An object is flattened and rebuilt for each run, by its registration; a graph without its edge features would be
    captured as one that has none. Tensors that the module does not read may be left out.

    Args:
        module: The module; only copies of it run.
        arguments: The example call.
        work: Work of one run.

    Raises:
        CaptureError: The registration leaves such tensors out; the names are listed for each object.
    """
    tree, tensors = flatten(arguments.values)
    left = dict(_left_out(tree, arguments.values, {id(tensor) for tensor in tensors}))
    if not left or is_dear(module, 3 * work.multiply_adds):
        return
    again = Arguments(rebuild(tree, tensors), arguments.positional)
    given, made, repeated = (_outputs(module, call) for call in (arguments, again, arguments))
    with _changed([tensor for held in left.values() for tensor in held.values()]):
        other = _outputs(module, arguments)
    if _alike(given, repeated) and not (_alike(given, made) and _alike(given, other)):
        faults = [
            Mismatch(f"inputs.{path}", "every tensor that the module reads", f"no {', '.join(held)}", _REMEDY)
            for path, held in left.items()
        ]
        raise CaptureError("what is registered of an input object leaves out tensors that the module reads", faults)


_REMEDY = "hand them over in the functions of register_pytree_node, flatten and unflatten"


def _left_out(
    tree: Tree, value: Any, known: set[int], path: tuple[Any, ...] = ()
) -> Iterator[tuple[str, dict[str, torch.Tensor]]]:
    """The path of each object with tensors that are not among the known ones, and these tensors by name."""
    if not isinstance(tree, Container):
        return
    if not isinstance(value, (Mapping, Sequence)):
        held = {name: getattr(value, name) for name in tensor_names(value)}
        if left := {name: tensor for name, tensor in held.items() if id(tensor) not in known}:
            yield path_text(path), left
    for key, child in zip(tree.keys, tree.children, strict=True):
        yield from _left_out(child, part_of(value, key), known, (*path, key))


@contextlib.contextmanager
def _changed(tensors: Sequence[torch.Tensor]) -> Iterator[None]:
    """Change the values of tensors within a block, since ones and zeros may have no effect although they are read."""
    with torch.no_grad():
        before = [tensor.detach().clone() for tensor in tensors]
        try:
            for tensor, value in zip(tensors, before, strict=True):
                tensor.detach().copy_(others(value, value))
            yield
        finally:
            for tensor, value in zip(tensors, before, strict=True):
                tensor.detach().copy_(value)


def _outputs(module: nn.Module, call: Arguments) -> list[torch.Tensor] | None:
    """The outputs of a copy of a module; None where it raises."""
    with undisturbed(), torch.no_grad():
        try:
            return flatten(call.call(eval_copy(module)))[1]
        except Exception:  # the capture itself will report that
            return None


def _alike(left: list[torch.Tensor] | None, right: list[torch.Tensor] | None) -> bool:
    if left is None or right is None:
        return left is right
    return len(left) == len(right) and all(map(are_equal, left, right))
