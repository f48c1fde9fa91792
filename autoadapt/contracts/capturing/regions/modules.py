"""Region modules: a region as an `nn.Module`, which runs the model around it with other inputs for the region."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments, bind_call
from autoadapt.contracts.capturing.regions.forms import Form, form_of
from autoadapt.contracts.capturing.regions.hooks import leave_before
from autoadapt.contracts.capturing.regions.numbers import as_sizes, with_numbers
from autoadapt.contracts.capturing.regions.passages import Region, Returned
from autoadapt.contracts.capturing.regions.traces import Run
from autoadapt.contracts.leaves import leaf
from autoadapt.contracts.randomness import quiet
from autoadapt.contracts.trees import Tree, flatten, path_texts, rebuild
from autoadapt.contracts.views import clone_buffers, copy_module


class RegionModule(nn.Module):
    """Takes the inputs of a region and returns a dict of the leaves that are read outside of it, or the only one.

    A copy of the model runs; a hook replaces the arguments of the region's first member. Between members the model's
    own code runs, so that shapes are those of the model at every size.

    Args:
        model: The model; only copied.
        region: The region.
        run: Calls the model.
        names: The leaves to return; by default all that are read outside.
    """

    def __init__(self, model: nn.Module, region: Region, run: Run, names: Sequence[str] | None = None) -> None:
        super().__init__()
        copied = copy_module(model, clone_buffers)
        self.arguments, around = _arguments(copied, region, run)
        self._region = region
        self._names = region.named if names is None else tuple(names)
        self._run: Any = around.call if around is not None else run
        self._around = around
        self.whole = copied.get_submodule(region.runner) if region.runner is not None else copied
        self._inputs: tuple[Any, ...] = ()
        self._taken: dict[str, list[Any]] = {}
        self._count = 0
        self._forms: list[Form] = []
        members = {id(copied.get_submodule(path)) for path in region.members}
        for path in region.members:
            member = copied.get_submodule(path)
            member.register_forward_pre_hook(functools.partial(self._enter, path), with_kwargs=True)
            leave_before(member, functools.partial(self._leave, path))
        inner = {id(one) for path in region.members for one in copied.get_submodule(path).modules()}
        for one in self.whole.modules():
            if id(one) not in members | inner and one is not self.whole and not isinstance(one, torch.jit.ScriptModule):
                one.register_forward_pre_hook(self._stop)

    @property
    def order(self) -> tuple[Returned, ...]:
        """The calls of the members in one pass."""
        return self._region.order

    @property
    def call(self) -> Arguments:
        """The inputs of the region when the model runs."""
        return Arguments(self.arguments.values, len(self.arguments.values))

    def forward(self, *inputs: Any) -> Any:
        """Run the model to the end of the region."""
        taken = {name: value for values in self._passed(inputs) for name, value in self._named(values).items()}
        named = {name: taken[name] for name in self._names}
        return next(iter(named.values())) if len(named) == 1 else named

    def trees(self, *inputs: Any) -> list[Tree]:
        """The tree that each member returns, constants included."""
        return [with_numbers(*flatten(output, any_keys=True))[0] for _, output in self._passed(inputs)]

    def forms(self, *inputs: Any) -> list[Form]:
        """The form of each member's call."""
        self._passed(inputs)
        return self._forms

    def _passed(self, inputs: tuple[Any, ...]) -> list[list[Any]]:
        """The index and the output of each call in the region."""
        self._inputs, self._taken, self._count, self._forms = inputs, {}, 0, []
        try:
            self._call()
        except _PassedError:
            pass
        except Exception:
            if self._count < len(self._region.order):
                raise
        taken = list(self._taken.values())
        self._inputs, self._taken = (), {}
        return taken

    def _call(self) -> None:
        if self._around is None:
            self._run(self.whole)
            return
        tree, tensors = flatten(self._around.values)
        given = flatten(self._inputs)[1]
        known = {tuple(one.shape): new for one, new in zip(flatten(self.arguments.values)[1], given, strict=True)}
        values = rebuild(tree, [known.get(tuple(tensor.shape), tensor) for tensor in tensors])
        Arguments(values, self._around.positional).call(self.whole)

    def _named(self, values: list[Any]) -> Mapping[str, Any]:
        number, output = values
        one = self._region.order[number]
        names = path_texts(one.tree)
        return {name: _plain(as_sizes(leaf(output, path))) for name, path in zip(one.names, names, strict=True) if name}

    def _enter(self, path: str, _module: nn.Module, args: Any, kwargs: dict[str, Any]) -> Any:
        if self._count == len(self._forms) < len(self._region.order) and self._region.order[self._count].path == path:
            self._forms.append(form_of(args, kwargs))
        if self._count or path != self._region.first:
            return None
        names = list(self.arguments.values)
        positional = self.arguments.positional
        given = dict(zip(names, self._inputs, strict=True))
        return tuple(given[n] for n in names[:positional]), {n: given[n] for n in names[positional:]}

    def _leave(self, path: str, _module: nn.Module, _args: Any, output: Any) -> None:
        order = self._region.order
        if self._count < len(order) and order[self._count].path == path:
            self._taken[str(self._count)] = [self._count, output]
            self._count += 1

    def _stop(self, _module: nn.Module, _args: Any) -> None:
        """End the run when a module is called after the region."""
        if self._count == len(self._region.order):
            raise _PassedError


def _plain(value: torch.Tensor) -> torch.Tensor:
    """A tensor of a subclass, such as a stand-in that refuses to give values, as a plain tensor."""
    if type(value) in (torch.Tensor, nn.Parameter):
        return value
    with torch._C.DisableTorchFunctionSubclass():  # below a mode torch 2.5 refuses as_subclass
        made: torch.Tensor = torch.ops.aten.alias.default(value)
    return made


class _PassedError(BaseException):
    """The region has been passed; a `BaseException`, which models do not catch."""


def _arguments(copied: nn.Module, region: Region, run: Run) -> tuple[Arguments, Arguments | None]:
    """The arguments of the first member and of the module around the region (`Region.runner`), in the first pass."""
    found: dict[str, Arguments] = {}

    def note(name: str, module: nn.Module, args: Any, kwargs: Any) -> None:
        if name == "runner" and "first" in found:
            return
        if name == "runner" or "first" not in found:
            found[name] = _as_they_are(bind_call(module, args, kwargs))

    first = copied.get_submodule(region.first)
    handles = [first.register_forward_pre_hook(functools.partial(note, "first"), with_kwargs=True)]
    if region.runner is not None:
        runner = copied.get_submodule(region.runner)
        handles.append(runner.register_forward_pre_hook(functools.partial(note, "runner"), with_kwargs=True))
    modes = {path: one.training for path, one in copied.named_modules()}
    copied.eval()
    try:
        with quiet():
            run(copied)
    except Exception:
        if "first" not in found:
            raise
    finally:
        for handle in handles:
            handle.remove()
    for path, one in copied.named_modules():
        one.training = modes[path]
    return found["first"], found.get("runner")


def _as_they_are(arguments: Arguments) -> Arguments:
    """The arguments in new containers, since the call may change its own."""
    tree, tensors = flatten(arguments.values)
    return Arguments(rebuild(tree, [tensor.detach() for tensor in tensors]), arguments.positional)
