"""Passes: the running calls of a swapped region, and what each of its modules hands on in them."""

from __future__ import annotations

import functools
import itertools
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from pydantic import Field
from torch import nn
from torch.fx import Proxy
from torch.utils._pytree import tree_leaves

from autoadapt.contracts.capturing.arguments import tensors_in
from autoadapt.contracts.capturing.regions import Form, Region, Returned, form_of, form_text, is_like
from autoadapt.contracts.facts import MadeByHand
from autoadapt.contracts.leaves import RunningCalls, leaf
from autoadapt.contracts.signature import Signature
from autoadapt.contracts.trees import Slot, rebuild
from autoadapt.swapping.activation_checkpoints import Reruns, running_checkpoint
from autoadapt.swapping.blanks import Blank, blank_of, not_a_number
from autoadapt.swapping.unread import PARTING, Known, Unread, unread, unread_shapeless


class Handing(MadeByHand):
    """What each module of a swapped region hands on, as data."""

    order: tuple[Returned, ...] = Field(min_length=1)
    served: tuple[str, ...]
    """The leaves that the adapted module returns."""
    axes: dict[str, tuple[int, int]]
    """For each input axis the tensor, among those that the region is given, and which of its axes it is."""
    blanks: dict[str, Blank]
    is_bare: bool
    """Whether it returns its one leaf without a container."""
    parent: str | None
    """The innermost module whose call holds a pass."""
    learned: tuple[str, ...] = ()
    """Functions between the modules that take weights of the model itself."""
    mixing: tuple[str, ...] = ()
    """Functions that take more tensors than one."""
    taking: tuple[str, ...] = ()
    """Functions that take a part of what modules return."""

    @property
    def paths(self) -> tuple[str, ...]:
        """Where the modules of the region stand, each once; the adapted one first."""
        return tuple(dict.fromkeys(one.path for one in self.order))

    @classmethod
    def of(cls, region: Region, signature: Signature, served: Sequence[str]) -> Handing:
        """For a region of which an adapted module returns some leaves.

        Args:
            region: The region.
            signature: What it returns at every size, as `RegionModule` does.
            served: The leaves that the adapted module returns.
        """
        axes: dict[str, tuple[int, int]] = {}
        for number, spec in enumerate(signature.inputs.leaves):
            for at, dim in enumerate(spec.dims):
                axes.setdefault(str(dim), (number, at))
        specs = signature.outputs.leaves
        by_name = dict(zip(region.named, specs, strict=True))
        over = {name for one in region.order if one.overwritten for name in one.names}
        blanks = {
            name: blank_of(spec, is_written=name in over, is_number=name in region.numbers)
            for name, spec in by_name.items()
            if name not in served
        }
        used = frozenset[str]().union(*(dim.axes for n in blanks for dim in by_name[n].dims))
        read = {name: axes[name] for name in axes if name in used}
        return cls(
            order=region.order,
            served=tuple(served),
            axes=read,
            blanks=blanks,
            is_bare=len(region.named) == 1,
            parent=region.parent,
            learned=region.learned_functions,
            mixing=region.mixing_functions,
            taking=tuple(name for name in region.taking_functions if name in PARTING),
        )


@dataclass(eq=False)
class Passes:
    """The running passes through a swapped region, and what each of its modules hands on.

    The levels of a pass belong to the call of the module around the region: each thread has its own, calls within
    calls too, and they are gone when the call ends, also where it raises. Where the model's methods are called past
    the module itself, they belong to the last pass that began in the thread. What a checkpoint computes again in the
    backward pass gets the levels of its first run.
    """

    handing: Handing
    _running: RunningCalls = field(default_factory=RunningCalls)
    _reruns: Reruns = field(default_factory=Reruns)

    @functools.cached_property
    def _known(self) -> Known:
        return Known(self.handing.learned, self.handing.mixing, self.handing.taking)

    def begin(self, _module: nn.Module, _args: Any) -> None:
        """A forward pre-hook of the module around."""
        self._running.taken.append({"within": []})

    def end(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        """A forward hook of the module around, also where it raises."""
        if self._running.taken:
            self._running.taken.pop()

    def put_on(self, parent: nn.Module) -> None:
        """Have the calls of the module around keep the levels of their own."""
        parent.register_forward_pre_hook(self.begin)
        parent.register_forward_hook(self.end, always_call=True)

    def take_over(self, net: nn.Module) -> None:
        """Have an adapted module hand on only what is read at its place, instead of all that it returns."""
        net.__dict__["hand_on"] = self
        net.register_forward_hook(self.first, with_kwargs=True)

    def first(self, module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], returned: Any) -> Any:
        """The forward hook of the adapted module."""
        if not self._running.taken:
            self._running.taken.append({})
        taken = self._running.taken[-1]
        self._refuse_beginning(taken)
        _empty(taken)
        taken["given"] = list(tensors_in((args, kwargs))) or _followed((args, kwargs))
        for name in self.handing.served:
            taken[f"level {name}"] = [returned if self.handing.is_bare else leaf(returned, name)]
        taken["calls"], taken["drops"] = [], [True] if module.training else []
        taken["trains"] = [] if torch.compiler.is_compiling() else _training(module)
        return self._handed_on(self.handing.order[0].path, taken)

    def next(self, path: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """What a stand-in hands on.

        Raises:
            RuntimeError: It runs outside a pass that began at the first module of the region.
        """
        checkpoint = None if torch.compiler.is_compiling() else self._reruns.here()
        again = None if checkpoint is None else self._reruns.again(checkpoint, path)
        if again is not None:
            return again[0]
        taken = self._running.taken[-1] if self._running.taken else {}
        number = len(taken.get("calls", self.handing.order))
        if dropped := self._dropped(path, taken):
            taken["calls"] += dropped
            number = len(taken["calls"])
        if number == len(self.handing.order) or self.handing.order[number].path != path:
            raise RuntimeError(
                f"{path} stands in for a module of a swapped region, which runs in this order: "
                f"{', '.join(one.path for one in self.handing.order)}"
            )
        self._refuse_other_arguments(path, form_of(args, kwargs), number)
        self._refuse_foreign(path, list(tensors_in((args, kwargs))), taken)
        self._refuse_lost_gradients(path, taken, number)
        began = taken.get("trains", [])[-1:]
        value = self._handed_on(path, taken)
        if checkpoint is not None and began != [checkpoint]:  # one that the region began in begins it again
            self._reruns.note(checkpoint, path, value)
        return value

    def _dropped(self, path: str, taken: dict[str, list[Any]]) -> list[str]:
        """Modules that were left out before one, as training drops layers at random; of these nothing is read."""
        if not taken.get("drops"):
            return []
        ahead = self.handing.order[len(taken["calls"]) :]
        before = list(itertools.takewhile(lambda one: one.path != path and not any(one.read), ahead))
        is_next = len(before) < len(ahead) and ahead[len(before)].path == path
        return [one.path for one in before] if is_next else []

    def _refuse_other_arguments(self, path: str, form: Form, number: int) -> None:
        """Refuse arguments of other kinds than when the region was swapped: nobody would look at them.

        Raises:
            RuntimeError: It is so.
        """
        forms = self.handing.order[number].forms
        if forms and not any(is_like(one, form) for one in forms):
            seen = ") or (".join(map(form_text, forms))
            raise RuntimeError(
                f"{path} stands in for a module of a swapped region and takes no arguments: it is given "
                f"({form_text(form)}), and was given ({seen}) when the region was swapped; swap with inputs= that give "
                f"these"
            )

    def _refuse_beginning(self, taken: dict[str, list[Any]]) -> None:
        """Refuse to begin a pass before the last one in the same call has ended: whose levels come next is not seen.

        Raises:
            RuntimeError: It is so.
        """
        if "within" in taken and taken.get("calls"):
            first, then = self.handing.order[0].path, self.handing.order[len(taken["calls"])].path
            raise RuntimeError(
                f"{first} begins another pass of a swapped region before {then} has run in the last one, which was not "
                f"so when it was swapped; swap with inputs= that take this path"
            )

    def _refuse_foreign(self, path: str, given: list[torch.Tensor], taken: dict[str, list[Any]]) -> None:
        """Refuse values that come from elsewhere than the region: nobody would look at them.

        Raises:
            RuntimeError: It is so.
        """
        if _is_program() or not given:
            return
        mine = [one for one in given if isinstance(one, Unread)]
        mixing = next((one.mixed for one in mine if one.mixed), "")
        follows = self.handing.order[len(taken["calls"])].follows
        if mixing or (follows and not mine and "others" not in taken):
            what = f"what {mixing} made of it and another part" if mixing else "a tensor of another part"
            what = f"what {mixing} took" if mixing in PARTING else what
            raise RuntimeError(
                f"{path} stands in for a module of a swapped region and is given {what} of the model, which was not so "
                f"when it was swapped; swap with inputs= that take this path"
            )

    def _refuse_lost_gradients(self, path: str, taken: dict[str, list[Any]], number: int) -> None:
        """Refuse to hand on a level where gradients do not get back to the adapted module, as they did before.

        Raises:
            RuntimeError: It is so.
        """
        if torch.compiler.is_compiling() or not any(
            f"level {name}" in taken for name in self.handing.order[number].names
        ):
            return
        trains, had_gradients, within, _ = taken["trains"]
        here = None if torch.is_grad_enabled() else running_checkpoint()
        if trains and (here is not within or (torch.is_grad_enabled() and not had_gradients)):
            raise RuntimeError(
                f"{path} would hand on a level of {self.handing.paths[0]} without its gradients, since one of the two "
                f"runs under torch.no_grad() or in a checkpoint of its own that is reentrant: "
                f"checkpoint(..., use_reentrant=False) keeps them"
            )

    def _handed_on(self, path: str, taken: dict[str, list[Any]]) -> Any:
        number = len(taken["calls"])
        one = self.handing.order[number]
        taken["calls"].append(path)
        leaves = [self._leaf(one, name, taken) for name in one.names]
        if not all(isinstance(value, (Unread, int)) for value in leaves):
            taken["others"] = []
        value = leaves[0] if isinstance(one.tree, Slot) else rebuild(one.tree, leaves)
        if len(taken["calls"]) == len(self.handing.order):
            _empty(taken)
        return value

    def _leaf(self, one: Returned, name: str, taken: dict[str, list[Any]]) -> Any:
        path = one.path
        if f"level {name}" in taken:
            level = taken[f"level {name}"][0]
            if one.overwritten:  # the new module may keep it for its backward pass, or return it twice
                level = level.clone()
            return level.detach() if not torch.is_grad_enabled() and level.requires_grad else level
        given = taken["given"]
        is_program = _is_program() or isinstance(given[0], Proxy)
        if name not in self.handing.blanks:
            return not_a_number(given[0]) if is_program else unread_shapeless(path, given[0].device)
        sizes = {axis: given[tensor].shape[at] for axis, (tensor, at) in self.handing.axes.items()}
        blank = self.handing.blanks[name].like(given[0], sizes, value=math.nan)
        return blank if is_program or isinstance(blank, int) else unread(path, blank, self._known)


def _is_program() -> bool:
    """Whether a compiler or a tracer follows, so that nothing can raise later."""
    return torch.compiler.is_compiling() or torch._C._get_tracing_state() is not None


def _followed(values: Any) -> list[Any]:
    """Arguments that are no tensors, since `torch.fx.symbolic_trace` follows what is done with them."""
    return [one for one in tree_leaves(values) if isinstance(one, Proxy)]


def _empty(taken: dict[str, list[Any]]) -> None:
    """Forget a pass, but not whether it belongs to a running call of the module around."""
    for name in [name for name in taken if name != "within"]:
        del taken[name]


def take_off(model: nn.Module, living: Collection[Passes]) -> None:
    """Take off a model the hooks of swapped regions of which nothing stands in it any more."""
    for module in model.modules():
        for hooks in (module._forward_pre_hooks, module._forward_hooks):
            for key, hook in list(hooks.items()):
                passes = getattr(hook, "__self__", None)
                if isinstance(passes, Passes) and passes not in living:
                    del hooks[key]
                    module._forward_hooks_always_called.pop(key, None)


def _training(module: nn.Module) -> list[Any]:
    """Whether a module trains, whether there are gradients, and the checkpoints, reentrant or not, that it runs in."""
    trains = module.training and any(p.requires_grad for p in module.parameters())
    has_gradients = torch.is_grad_enabled()
    return [trains, has_gradients, None if has_gradients else running_checkpoint(), Reruns.here()]
