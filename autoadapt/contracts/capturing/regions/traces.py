"""Traces: one run of a model as the calls of its modules and functions, with the values that each reads and makes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils.weak import TensorWeakRef

from autoadapt.contracts.capturing.arguments import tensors_in
from autoadapt.contracts.capturing.regions.forms import Form, form_of
from autoadapt.contracts.capturing.regions.hooks import leave_before
from autoadapt.contracts.capturing.regions.numbers import with_numbers
from autoadapt.contracts.instances import plain_tensors_of, tensors_of
from autoadapt.contracts.plain_modules import PlainModule, plain_modules
from autoadapt.contracts.randomness import quiet
from autoadapt.contracts.trees import Tree, flatten, path_texts, rebuild
from autoadapt.contracts.views import clone_buffers, copy_module
from autoadapt.errors import AdaptError, CaptureError, Mismatch

__all__ = ["Call", "Run", "Step", "Trace", "trace", "traces_of"]

Run = Callable[[nn.Module], object]


@dataclass(frozen=True)
class Step:
    """A function that ran, or the end of a module's call, which hands on what the module returns.

    Values are numbers. What a function writes over is another value from then on.
    """

    name: str
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    within: tuple[int, ...]
    """Numbers of the calls of modules that it ran in, the innermost last."""
    overwrites: bool = False
    """Whether it returned one of the tensors that it was given."""
    looks: bool = False
    """Whether it only told the shape or the kind of a tensor."""


@dataclass
class Call:
    """A call of a module."""

    path: str
    within: tuple[int, ...]
    entered: int
    """How many steps had run when it began."""
    given: tuple[int, ...]
    """The values among its arguments, in their order."""
    known: int
    """The last value that there was when it began."""
    form: Form
    """What kinds of arguments it is given."""
    left: int = -1
    tree: Tree | None = None
    returned: tuple[int, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    """Those of the tensors that it returned."""

    @property
    def leaves(self) -> dict[str, int]:
        """What it returned, by path."""
        names = path_texts(self.tree) if self.tree is not None else ()
        return dict(zip(names, self.returned, strict=True))


@dataclass
class Trace:
    """What was seen of one run."""

    steps: list[Step] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    parameters: dict[int, str] = field(default_factory=dict)
    """Values that are parameters, and their names."""
    unregistered: dict[int, PlainModule] = field(default_factory=dict)
    """Values that are parameters or buffers of modules in plain lists, and these."""
    constants: set[int] = field(default_factory=set)
    """Values that are buffers, or that modules hold in plain attributes."""
    numbers: set[int] = field(default_factory=set)
    """Values that are numbers, of which nobody can see who reads them."""
    state: dict[str, int] = field(default_factory=dict)
    """What the buffers were when it ended, by name."""
    before: dict[int, int] = field(default_factory=dict)
    """For each value that was written over another: what the same tensor, or the one of which it is a view, was."""

    def history(self, value: int) -> Iterator[int]:
        """A value, and what the tensor that holds it was before, the latest first."""
        yield value
        while value in self.before:
            value = self.before[value]
            yield value


def trace(model: nn.Module, run: Run, *, training: bool = False, grad: bool = False, train: bool = False) -> Trace:
    """Run a copy of a model once and write down what it does.

    Args:
        model: The model; only copied.
        run: Calls it.
        training: Run in the modes that the model is in, instead of in eval mode.
        grad: Whether the run needs gradients, as a training step does.
        train: Run in train mode, whatever the model is in.
    """
    copied = copy_module(model, clone_buffers)
    if train:
        copied.train()
    elif not training:
        copied.eval()
    tracer = _Tracer(copied)
    with quiet(), torch.set_grad_enabled(grad), tracer:
        returned = run(copied)
    tracer.end(returned)
    return tracer.trace


def traces_of(model: nn.Module, run: Run, *, grad: bool = False) -> list[Trace]:
    """Traces in eval mode, and in the model's own modes where it is in train mode and the run does not raise.

    Raises:
        CaptureError: The model raises in both.
    """
    error: Exception | None = None
    found = []
    for training in (False, True) if model.training else (False,):
        try:
            found.append(trace(model, run, training=training, grad=grad))
        except AdaptError:
            raise
        except Exception as raised:
            error = raised if error is None else error
    if not found:
        name, said = type(model).__name__, f"{type(error).__name__}: {error}".splitlines()[0]
        fault = Mismatch(f"{name}(inputs)", "a forward pass", said, "call the model with these inputs first")
        raise CaptureError(f"{name} raises at the given input", [fault]) from error
    return found


class _Tracer(TorchFunctionMode):
    """Numbers every tensor that it sees; a tensor that is written over gets a new number."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = module
        self.trace = Trace()
        self._running: list[int] = []
        self._known: dict[int, tuple[TensorWeakRef, int]] = {}
        self._memory: dict[int, tuple[TensorWeakRef, int]] = {}
        """The same by the memory that it lies in, for what is made past all functions, as by `as_subclass`."""
        self._aliases: list[list[TensorWeakRef]] = []
        """Tensors that one call after the other returned as they were given them, each beside the alias of it."""
        self._count = 0
        for name, parameter in module.named_parameters():
            self.trace.parameters[self._renamed(parameter)] = name
        self.trace.constants |= {self._renamed(buffer) for buffer in module.buffers()}
        registered = set(module.modules())
        for plain in plain_modules(module):
            if plain.module not in registered:
                self.trace.unregistered |= {self._renamed(one): plain for one in tensors_of(plain.module)}
        held = [one for one in plain_tensors_of(module) if id(one) not in self._known]
        self.trace.constants |= {self._number(one) for one in held}
        for path, inner in module.named_modules():
            if not isinstance(inner, torch.jit.ScriptModule):  # which takes no hooks
                inner.register_forward_pre_hook(self._entering(path), with_kwargs=True, prepend=True)
                leave_before(inner, self._leaving)

    def _written(self, tensor: torch.Tensor) -> int:
        """A new number for a tensor of which the values are other ones now."""
        known = self._known.get(id(tensor))
        number = self._renamed(tensor)
        if known is not None and known[0]() is tensor:
            self.trace.before[number] = known[1]
        return number

    def _over(self, made: Sequence[torch.Tensor], read: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The tensors in memory that a function wrote over: those that it was given and returned, and aliases."""
        over = [tensor for tensor in made if any(tensor is one for one in read)]
        over += [tensor._base for tensor in over if tensor._base is not None]
        groups = [[one() for one in group] for group in self._aliases]
        touched = [group for group in groups if any(one is tensor for one in group for tensor in over)]
        over += [one for group in touched for one in group if one is not None]
        return list({id(tensor): tensor for tensor in over}.values())

    def _made(self, leaf: torch.Tensor | int) -> int:
        """A new number for what a module returned."""
        if isinstance(leaf, torch.Tensor):
            return self._renamed(leaf)
        self._count += 1
        self.trace.numbers.add(self._count)
        return self._count

    def _renamed(self, tensor: torch.Tensor) -> int:
        """A new number for a tensor."""
        self._count += 1
        self._known[id(tensor)] = TensorWeakRef(tensor), self._count
        if (place := _memory_of(tensor)) is not None:
            self._memory[place] = self._known[id(tensor)]
        return self._count

    def _number(self, tensor: torch.Tensor) -> int:
        known = self._known.get(id(tensor))
        if known is not None and known[0]() is tensor:
            return known[1]
        place = _memory_of(tensor)
        same = None if place is None else self._memory.get(place)
        if same is not None and same[0]() is not None:
            return same[1]
        return self._renamed(tensor)

    def _numbers(self, value: Any) -> tuple[int, ...]:
        return tuple(map(self._number, tensors_in(value)))

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        read = list(tensors_in((args, given)))
        reads = tuple(map(self._number, read))
        returned = func(*args, **given)
        made = list(tensors_in(args[:1] if func is torch.Tensor.__setitem__ else returned))
        over = self._over(made, read)
        new = [tensor for tensor in made if not any(tensor is one for one in over)]
        makes = (*map(self._renamed, new), *map(self._written, over))
        name = getattr(func, "__name__", str(func))
        looks = not makes and name in _LOOKS
        self.trace.steps.append(Step(name, reads, makes, tuple(self._running), bool(over), looks))
        return returned

    def _entering(self, path: str) -> Callable[..., None]:
        def enter(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            given = self._numbers((args, kwargs))
            self._running.append(len(self.trace.calls))
            here = tuple(self._running[:-1]), len(self.trace.steps), given, self._count
            self.trace.calls.append(Call(path, *here, form_of(args, kwargs)))

        return enter

    def _leaving(self, _module: nn.Module, _args: Any, returned: object) -> object:
        number = self._running[-1]
        call = self.trace.calls[number]
        tree, tensors = flatten(returned, any_keys=True)
        given, unseen = tensors, any(id(tensor) not in self._known for tensor in tensors)
        tensors, handed_on = self._told_apart(call, tree, tensors, returned)
        reads = (*self._numbers(given), *(call.given if unseen else ()))
        call.tree, leaves = with_numbers(tree, tensors)
        call.returned = tuple(map(self._made, leaves))
        with torch._C.DisableTorchFunction():  # those of tensors that refuse to tell theirs, as stand-ins hand them on
            call.shapes = tuple(tuple(tensor.shape) for tensor in tensors)
        self.trace.steps.append(Step(f"{call.path}()", reads, call.returned, tuple(self._running)))
        call.left = len(self.trace.steps)
        self._running.pop()
        return handed_on

    def _told_apart(
        self, call: Call, tree: Tree, tensors: list[torch.Tensor], returned: object
    ) -> tuple[list[torch.Tensor], object]:
        """What a module returned, with an alias for each tensor that was there before it ran, as a dropout returns it.

        Else one could not see which of two modules the tensor is taken from that both return.
        """
        old = [any(one <= call.known for one in self.trace.history(self._number(tensor))) for tensor in tensors]
        if not any(old):
            return tensors, returned
        try:
            with torch._C.DisableTorchFunction():
                made = [_alias(one) if is_old else one for one, is_old in zip(tensors, old, strict=True)]
            handed_on = rebuild(tree, made)
        except Exception:  # of a kind that cannot be viewed, or in a container that cannot be made anew
            return tensors, returned
        for one, alias, is_old in zip(tensors, made, old, strict=True):
            if is_old:
                group = next((group for group in self._aliases if any(other() is one for other in group)), None)
                if group is None:
                    group = [TensorWeakRef(one)]
                    self._aliases.append(group)
                group.append(TensorWeakRef(alias))
        return made, handed_on

    def end(self, returned: object) -> None:
        """Note what the whole returned, as a last step that reads it, and what it left in its buffers."""
        self.trace.state = {name: self._number(buffer) for name, buffer in self._module.named_buffers()}
        self.trace.steps.append(Step("return", self._numbers(returned), (), ()))


def _memory_of(tensor: torch.Tensor) -> int | None:
    """What stands for the memory that a tensor lies in; None where that is not told."""
    with torch._C.DisableTorchFunction():
        try:
            return tensor.untyped_storage()._cdata if tensor.numel() else None
        except Exception:  # sparse ones, and such as have no memory of their own
            return None


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    """Another tensor over the same memory, of the same class where that has a say in what functions do."""
    keeps_class = type(tensor) not in (torch.Tensor, torch.nn.Parameter)
    return copy.copy(tensor) if keeps_class and not tensor.requires_grad else tensor.view_as(tensor)


_LOOKS = frozenset(
    {"__get__", "size", "dim", "numel", "stride", "is_floating_point", "__len__", "ndimension", "is_contiguous", "type"}
)
