"""Traces: one run of a model as calls of modules and functions, with the values that each reads and returns.

A value is a number that stands for a tensor; a tensor that is written to in place is another value from then on.
"""

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
from autoadapt.files.reading import one_line

Run = Callable[[nn.Module], object]


@dataclass(frozen=True)
class Step:
    """A function call, or the end of a module's call, which reads and returns the module's output."""

    name: str
    reads: tuple[int, ...]
    makes: tuple[int, ...]
    within: tuple[int, ...]
    """Indices of the module calls in which it ran, the innermost last."""
    overwrites: bool = False
    """Whether it wrote to one of its arguments in place."""
    looks: bool = False
    """Whether it only asked for the shape or another property of a tensor."""


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
    """The highest value when it began: all values up to this one are older."""
    form: Form
    """The form of its arguments."""
    left: int = -1
    """How many steps had run when it ended."""
    tree: Tree | None = None
    returned: tuple[int, ...] = ()
    shapes: tuple[tuple[int, ...], ...] = ()
    """The shapes of the tensors that it returned."""

    @property
    def leaves(self) -> dict[str, int]:
        """The returned values by path."""
        names = path_texts(self.tree) if self.tree is not None else ()
        return dict(zip(names, self.returned, strict=True))


@dataclass
class Trace:
    """One run."""

    steps: list[Step] = field(default_factory=list)
    calls: list[Call] = field(default_factory=list)
    parameters: dict[int, str] = field(default_factory=dict)
    """Names of the values that are parameters."""
    unregistered: dict[int, PlainModule] = field(default_factory=dict)
    """Values that are parameters or buffers of modules in plain attributes, and these modules."""
    constants: set[int] = field(default_factory=set)
    """Values that are buffers, or tensors in plain attributes of modules."""
    numbers: set[int] = field(default_factory=set)
    """Values that are Python integers, whose readers cannot be traced."""
    state: dict[str, int] = field(default_factory=dict)
    """The values of buffers at the end, by name."""
    before: dict[int, int] = field(default_factory=dict)
    """The previous value of a tensor that was written to in place, by its new value."""

    def history(self, value: int) -> Iterator[int]:
        """A value, and all earlier values of the same tensor, the latest first."""
        yield value
        while value in self.before:
            value = self.before[value]
            yield value


def trace(model: nn.Module, run: Run, *, training: bool = False, grad: bool = False, train: bool = False) -> Trace:
    """Trace one run of a copy of a model.

    Args:
        model: The model; only copied.
        run: Calls it.
        training: Run in the model's own modes, instead of in eval mode.
        grad: Run with gradients, as a training step does.
        train: Run in train mode, whatever the model's modes are.
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
    """A trace in eval mode, and one in the model's own modes if it is in train mode; without those that raise.

    Raises:
        CaptureError: The model raises in all of them.
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
        assert error is not None, "raised in the first mode"
        name, remedy = type(model).__name__, "call the model with these inputs first"
        fault = Mismatch(f"{name}(inputs)", "a forward pass", one_line(error), remedy)
        raise CaptureError(f"{name} raises at the given input", [fault]) from error
    return found


class _Tracer(TorchFunctionMode):
    """Gives each tensor a number, its value; a tensor that is written to in place gets a new one."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._module = module
        self.trace = Trace()
        self._running: list[int] = []
        self._known: dict[int, tuple[TensorWeakRef, int]] = {}
        """Values of tensors, by `id`."""
        self._memory: dict[int, tuple[TensorWeakRef, int]] = {}
        """The same by storage, for tensors that no function returned, as by `as_subclass`."""
        self._aliases: list[list[TensorWeakRef]] = []
        """Groups of a tensor and its aliases, which `_told_apart` makes where modules return an argument unchanged."""
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
        """A new value for a tensor that was written to in place."""
        known = self._known.get(id(tensor))
        number = self._renamed(tensor)
        if known is not None and known[0]() is tensor:
            self.trace.before[number] = known[1]
        return number

    def _over(self, made: Sequence[torch.Tensor], read: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """The tensors that a function wrote to: arguments that it returned, what they are views of, and aliases."""
        over = [tensor for tensor in made if any(tensor is one for one in read)]
        over += [tensor._base for tensor in over if tensor._base is not None]
        groups = [[one() for one in group] for group in self._aliases]
        touched = [group for group in groups if any(one is tensor for one in group for tensor in over)]
        over += [one for group in touched for one in group if one is not None]
        return list({id(tensor): tensor for tensor in over}.values())

    def _made(self, leaf: torch.Tensor | int) -> int:
        """A new value for a leaf that a module returned."""
        if isinstance(leaf, torch.Tensor):
            return self._renamed(leaf)
        self._count += 1
        self.trace.numbers.add(self._count)
        return self._count

    def _renamed(self, tensor: torch.Tensor) -> int:
        """A new value for a tensor."""
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
        """A forward hook, which notes what a call of the region returned."""
        number = self._running[-1]
        call = self.trace.calls[number]
        tree, tensors = flatten(returned, any_keys=True)
        given, unseen = tensors, any(id(tensor) not in self._known for tensor in tensors)
        tensors, handed_on = self._told_apart(call, tree, tensors, returned)
        reads = (*self._numbers(given), *(call.given if unseen else ()))
        call.tree, leaves = with_numbers(tree, tensors)
        call.returned = tuple(map(self._made, leaves))
        with torch._C.DisableTorchFunction():  # stand-ins refuse to give their shape to functions
            call.shapes = tuple(tuple(tensor.shape) for tensor in tensors)
        self.trace.steps.append(Step(f"{call.path}()", reads, call.returned, tuple(self._running)))
        call.left = len(self.trace.steps)
        self._running.pop()
        return handed_on

    def _told_apart(
        self, call: Call, tree: Tree, tensors: list[torch.Tensor], returned: object
    ) -> tuple[list[torch.Tensor], object]:
        """The output of a module, with an alias for each tensor that is older than the call, as from a dropout.

        Without it one could not see from which of two modules a reader takes a tensor that both return.
        """
        old = [any(one <= call.known for one in self.trace.history(self._number(tensor))) for tensor in tensors]
        if not any(old):
            return tensors, returned
        try:
            with torch._C.DisableTorchFunction():
                made = [_alias(one) if is_old else one for one, is_old in zip(tensors, old, strict=True)]
            handed_on = rebuild(tree, made)
        except Exception:  # a tensor that cannot be viewed, or a container that cannot be rebuilt
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
        """Note the model's output, as a last step that reads it, and the values of its buffers."""
        self.trace.state = {name: self._number(buffer) for name, buffer in self._module.named_buffers()}
        self.trace.steps.append(Step("return", self._numbers(returned), (), ()))


def _memory_of(tensor: torch.Tensor) -> int | None:
    """A number for the storage of a tensor; None where it has none, or no values."""
    with torch._C.DisableTorchFunction():
        try:
            return tensor.untyped_storage()._cdata if tensor.numel() else None
        except Exception:  # sparse tensors, and subclasses without a storage
            return None


def _alias(tensor: torch.Tensor) -> torch.Tensor:
    """Another tensor object over the same storage; of the same class where that is a subclass."""
    keeps_class = type(tensor) not in (torch.Tensor, torch.nn.Parameter)
    return copy.copy(tensor) if keeps_class and not tensor.requires_grad else tensor.view_as(tensor)


_LOOKS = frozenset(
    {"__get__", "size", "dim", "numel", "stride", "is_floating_point", "__len__", "ndimension", "is_contiguous", "type"}
)
