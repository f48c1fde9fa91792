"""Mutants: copies of a module that are broken on purpose, to see whether tests notice."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias

import torch
from torch import nn

from autoadapt.adapting.building import AdaptedModule
from autoadapt.adapting.verification.casts import as_cast
from autoadapt.adapting.verification.checks import CHECKS, THOROUGH_CHECKS
from autoadapt.adapting.verification.sessions import Session
from autoadapt.contracts.capturing import capture
from autoadapt.contracts.instances import check_module
from autoadapt.contracts.trees import Container, Tree, flatten, rebuild
from autoadapt.contracts.views import clone_buffers, copy_module
from autoadapt.errors import Mismatch, VerificationError
from autoadapt.showing import Shown
from autoadapt.testing.differences import differs

Leaves: TypeAlias = list[torch.Tensor]
_Break: TypeAlias = Callable[[nn.Module, Leaves], Leaves]


@dataclass(frozen=True)
class Mutant:
    """A broken copy."""

    kind: str
    """What is wrong with it."""
    check: str
    """The check of `verify` that knows this kind."""
    module: nn.Module = field(repr=False)


@dataclass(frozen=True, repr=False)
class Caught(Shown):
    """Which kinds of fault a test notices.

    Example:
        >>> print(Caught(caught=("cut at odd sizes",), missed=("other dtype",)))
        1 of 2 kinds of fault are noticed
         caught  cut at odd sizes
         MISSED  other dtype
    """

    caught: tuple[str, ...]
    missed: tuple[str, ...]
    left_out: tuple[str, ...] = ()
    """Kinds that change nothing about this module, which no test could notice."""
    unasked: tuple[str, ...] = ()
    """Checks of `verify` whose faults no mutant has, so that nothing is said of them."""

    def __bool__(self) -> bool:
        return not self.missed

    def __str__(self) -> str:
        count = len(self.caught) + len(self.missed)
        lines = [f"{len(self.caught)} of {count} kinds of fault are noticed"]
        lines += [f" caught  {kind}" for kind in self.caught] + [f" MISSED  {kind}" for kind in self.missed]
        lines += [f" left out  {kind} (changes nothing here)" for kind in self.left_out]
        lines += [f" no mutant  for verify's {', '.join(self.unasked)}"] if self.unasked else []
        return "\n".join(lines)


def mutants(net: nn.Module, inputs: object = None) -> Iterator[Mutant]:
    """Broken copies of a module, one for each of many kinds of fault that `verify` knows.

    The report of `caught_by` names the checks that have none. Inputs are left as they are: tests may share theirs.

    A kind may change nothing about a module, as a cut at odd sizes where none is odd. An adapted module tells its
    sizes, any other one is captured at `inputs`; then such kinds are left out. Without inputs all are yielded.

    Args:
        net: The module; it is not changed, and its weights are shared.
        inputs: An example call, as for `capture`.

    Example:
        >>> [mutant.kind for mutant in mutants(nn.Conv2d(3, 8, 1))][:3]
        ['cut at odd sizes', 'size of the first call', 'other dtype']
    """
    check_module(net, "net", VerificationError)
    session = _session(net, inputs)
    return (one for one in _all_mutants(net) if session is None or _changes(session, one))


def _changes(session: Session, one: Mutant) -> bool:
    if one.check in _OF_PRECISION:
        return any(spec.is_floating for spec in session.signature.outputs.leaves)
    return differs(session, one.module)


def _session(net: nn.Module, inputs: object) -> Session | None:
    """At which sizes the module is compared with its mutants; None where nothing tells them.

    Inputs are invented: of a given one the items of a larger batch would be equal.
    """
    if isinstance(net, AdaptedModule):
        return as_cast(Session(net, net.signature))
    return None if inputs is None else Session(net, capture(net, inputs))


def _all_mutants(net: nn.Module) -> Iterator[Mutant]:
    for kind, (check, change) in _LEAF_FAULTS.items():
        yield Mutant(kind, check, _broken(net, partial(_change_leaves, change)))
    for kind, (check, structure) in _CONTAINER_FAULTS.items():
        yield Mutant(kind, check, _broken(net, partial(_change_container, structure)))
    unused = copy_module(net, clone_buffers)
    unused.register_parameter("never_read", nn.Parameter(torch.zeros(1)))
    yield Mutant(_UNUSED, "gradients", unused)


def caught_by(test: Callable[[nn.Module], object], net: nn.Module, inputs: object = None) -> Caught:
    """Run a test on every mutant of a module and see which it notices.

    Args:
        test: Takes a module, and raises where it finds fault with it.
        net: A module that it finds no fault with.
        inputs: As for `mutants`: with them, kinds that change nothing about this module do not count as missed.

    Raises:
        AssertionError: The test fails for the module itself, so that failures of mutants say nothing.
        VerificationError: `test` is no function, or `net` no module.

    Example:
        >>> def test(net):
        ...     assert net(torch.zeros(1, 3, 8, 8)).shape == (1, 8, 8, 8)
        >>> "other dtype" in caught_by(test, nn.Conv2d(3, 8, 1)).missed
        True
    """
    check_module(net, "net", VerificationError)
    if isinstance(test, nn.Module) or not callable(test):
        fault = Mismatch("`test`", "a function that takes a module and raises", repr(test)[:60], "caught_by(test, net)")
        raise VerificationError("`test` is no function", [fault])
    try:
        test(net)
    except Exception as error:
        raise AssertionError("the test fails for the module itself") from error
    found: dict[bool, list[str]] = {True: [], False: []}
    chosen = list(mutants(net, inputs))
    for mutant in chosen:
        found[_notices(test, mutant.module)].append(mutant.kind)
    left_out = [kind for kind in _KINDS if kind not in [mutant.kind for mutant in chosen]]
    return Caught(tuple(found[True]), tuple(found[False]), tuple(left_out), _WITHOUT_MUTANT)


def _notices(test: Callable[[nn.Module], object], module: nn.Module) -> bool:
    try:
        test(module)
    except Exception:
        return True
    return False


def _broken(net: nn.Module, hook: Any) -> nn.Module:
    made = copy_module(net, clone_buffers)
    made.register_forward_hook(hook)
    return made


def _change_leaves(change: _Break, module: nn.Module, inputs: object, output: object) -> Any:
    """A hook that changes tensors and leaves their containers."""
    tree, tensors = flatten(output)
    return rebuild(tree, change(module, tensors))


def _change_container(change: Callable[[Tree], Tree], module: nn.Module, inputs: object, output: object) -> Any:
    """A hook that changes the outermost container."""
    tree, tensors = flatten(output)
    return rebuild(change(tree), tensors)


def _cut_at_odd_sizes(module: nn.Module, leaves: Leaves) -> Leaves:
    is_odd = leaves[-1].dim() > 1 and leaves[-1].shape[-1] % 2 == 1 and leaves[-1].shape[-1] > 1
    return [*leaves[:-1], leaves[-1][..., :-1]] if is_odd else leaves


def _size_of_the_first_call(module: nn.Module, leaves: Leaves) -> Leaves:
    kept = module.__dict__.setdefault("first_size", leaves[-1].shape[-1])
    found = leaves[-1]
    return [*leaves[:-1], found[..., torch.arange(kept, device=found.device) % found.shape[-1]]]


def _other_dtype(module: nn.Module, leaves: Leaves) -> Leaves:
    found = leaves[-1]
    return [*leaves[:-1], found.double() if found.is_floating_point() else found.float()]


def _items_mixed(module: nn.Module, leaves: Leaves) -> Leaves:
    return [leaf - leaf.mean(0, keepdim=True) if leaf.is_floating_point() else leaf.flip(0) for leaf in leaves]


def _detached(module: nn.Module, leaves: Leaves) -> Leaves:
    return [leaf.detach() for leaf in leaves]


def _other_in_training(module: nn.Module, leaves: Leaves) -> Leaves:
    return [leaf[..., :1] for leaf in leaves] if module.training else leaves


def _another_each_call(module: nn.Module, leaves: Leaves) -> Leaves:
    count = module.__dict__["calls"] = module.__dict__.get("calls", 0) + 1
    return [leaf * count if leaf.is_floating_point() else leaf for leaf in leaves]


def _batch_of_one(module: nn.Module, leaves: Leaves) -> Leaves:
    return [leaf[:1] for leaf in leaves]


def _levels_exchanged(module: nn.Module, leaves: Leaves) -> Leaves:
    return leaves[::-1] if len(leaves) > 1 else [leaves[0].transpose(-1, -2)]


def _expanded(module: nn.Module, leaves: Leaves) -> Leaves:
    return [*leaves[:-1], leaves[-1][..., :1].expand_as(leaves[-1])]


def _not_numbers(module: nn.Module, leaves: Leaves) -> Leaves:
    return [leaf * math.nan if leaf.is_floating_point() else leaf for leaf in leaves]


def _full_after_a_cast(module: nn.Module, leaves: Leaves) -> Leaves:
    return [leaf.float() if leaf.dtype == torch.bfloat16 else leaf for leaf in leaves]


def _overflow(module: nn.Module, leaves: Leaves) -> Leaves:
    return [leaf + math.inf if leaf.dtype == torch.float16 else leaf for leaf in leaves]


def _other_under_autocast(module: nn.Module, leaves: Leaves) -> Leaves:
    is_changed = [leaf.is_floating_point() and torch.is_autocast_enabled(leaf.device.type) for leaf in leaves]
    return [-leaf if changed else leaf for leaf, changed in zip(leaves, is_changed, strict=True)]


_LEAF_FAULTS: dict[str, tuple[str, _Break]] = {
    "cut at odd sizes": ("sizes", _cut_at_odd_sizes),
    "size of the first call": ("sizes", _size_of_the_first_call),
    "other dtype": ("signature", _other_dtype),
    "batch of one": ("signature", _batch_of_one),
    "levels or axes exchanged": ("signature", _levels_exchanged),
    "items of a batch mixed": ("calls", _items_mixed),
    "another answer each call": ("calls", _another_each_call),
    "other sizes in train mode": ("train mode", _other_in_training),
    "no gradient": ("train mode", _detached),
    "not a number": ("calls", _not_numbers),
    "places that share memory": ("calls", _expanded),
    "full precision after a cast": ("bfloat16", _full_after_a_cast),
    "overflow in half precision": ("float16", _overflow),
    "other values under autocast": ("autocast", _other_under_autocast),
}


def _wrapped(tree: Tree) -> Tree:
    return Container(kind="tuple", keys=(0,), children=(tree,))


def _other_container(tree: Tree) -> Tree:
    if not isinstance(tree, Container) or tree.kind not in ("list", "tuple", "dict", "ordered_dict"):
        return Container(kind="list", keys=(0,), children=(tree,))
    others = {"list": "tuple", "tuple": "list", "dict": "list", "ordered_dict": "list"}
    return tree.model_copy(update={"kind": others[tree.kind], "keys": tuple(range(len(tree.keys)))})


_CONTAINER_FAULTS: dict[str, tuple[str, Callable[[Tree], Tree]]] = {
    "another container": ("signature", _other_container),
    "one container more": ("signature", _wrapped),
}

_UNUSED = "parameter without gradient"
_KINDS = (*_LEAF_FAULTS, *_CONTAINER_FAULTS, _UNUSED)
_OF_PRECISION = ("bfloat16", "float16", "autocast")
"""Checks whose mutants differ in other precisions alone, by values that are no integers."""
_WITHOUT_MUTANT = tuple(
    name
    for name in (*CHECKS, *THOROUGH_CHECKS)
    if name not in ("gradients", *(check for check, _ in (*_LEAF_FAULTS.values(), *_CONTAINER_FAULTS.values())))
)
