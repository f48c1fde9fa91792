"""Cutting: a view returns what its taps take; what serves nothing that is read no longer runs where that is safe."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch
from torch import nn

from autoadapt.adapting.building.side_branches import leaves_the_rest_alone
from autoadapt.adapting.building.train_only import train_only
from autoadapt.adapting.planning import CutCost, Plan
from autoadapt.contracts.caches import OutsideCaches, apart
from autoadapt.contracts.capturing import Arguments
from autoadapt.contracts.leaves import place_of_tap
from autoadapt.contracts.meta_device import on_the_meta_device
from autoadapt.contracts.modes import in_eval_mode, in_train_mode
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.signature import Signature
from autoadapt.contracts.tapping import hand_on_copies, overwritten, takes_what_is_read, tap
from autoadapt.contracts.trees import flatten, path_texts, rebuild
from autoadapt.contracts.views import backward, copy_module, cut, freeze_unused, on_meta
from autoadapt.errors import BuildError, Mismatch

__all__ = ["MetaRun", "tapped"]

Taps: TypeAlias = Sequence[tuple[str, int, str]]


def tapped(backbone: nn.Module, plan: Plan) -> Plan:
    """Put the taps on a view and take off what they leave without use.

    Args:
        backbone: A view; it is changed.
        plan: What is read of it.

    Returns:
        The plan with what was really cut, with the parameters that are frozen, and with the taps of which a copy is
        taken since something writes over them.
    """
    run = MetaRun(plan, backbone)
    if not plan.taps and not run.unread:
        return plan
    taps = [(one.module, one.call, one.path) for one in plan.taps.values()]
    runs = False
    if taps:
        tap(backbone, taps)
        plan, runs = _without_auxiliary(backbone, plan, run)
    done = _cut(backbone, plan, taps, run, known=runs)
    hit = _overwritten(backbone, taps, run)
    hand_on_copies(backbone, hit)
    over = {place_of_tap(path, leaf) for path, _, leaf in hit}
    marked = {
        name: one.model_copy(update={"overwritten": place_of_tap(one.module, one.path) in over})
        for name, one in plan.taps.items()
    }
    frozen = tuple(freeze_unused(backbone, run))
    return plan.model_copy(update={"taps": marked, "cut": done, "frozen": frozen})


class MetaRun:
    """Runs a view on the meta device and gives the tensors that a plan reads of it."""

    def __init__(self, plan: Plan, backbone: nn.Module) -> None:
        self._plan, self._source, self._backbone = plan, plan.source, backbone
        self._caches = OutsideCaches(backbone)
        self._read = {route.source for route in plan.routes}
        self.unread = set(self._source.outputs.paths) - self._read
        """Outputs that no route begins with."""

    def __call__(self, module: nn.Module, batch: int | None = None) -> list[torch.Tensor]:
        """One run.

        Args:
            module: On the meta device.
            batch: Size of the batch; that of the capture where left out.

        Raises:
            ValueError: A level is not where it was.
        """
        sizes = self._source.sizes() | ({} if batch is None else {"B": batch})
        tensors = [
            torch.empty(spec.shape(sizes), dtype=spec.torch_dtype, device="meta") for spec in self._source.inputs.leaves
        ]
        arguments = Arguments(rebuild(self._source.inputs.tree, tensors), self._source.positional)
        with undisturbed(None), on_the_meta_device(self._backbone, self._caches), torch.set_grad_enabled(True):
            try:
                tree, returned = flatten(apart(arguments.call, module))
            except Exception:  # the values of a mask were looked at, which there are none of
                if not (spare := _spare_masks(self._source)):
                    raise
                arguments = Arguments(arguments.values | dict.fromkeys(spare), arguments.positional)
                tree, returned = flatten(apart(arguments.call, module))
        taps = self._plan.taps
        given = taps or path_texts(tree)  # what hooks collect are fewer levels where the last are cut
        found = dict(zip(given, returned, strict=True))
        shapes = {name: spec.shape(sizes) for name, spec in self._source.outputs.items() if name in self._read}
        if any(found[name].shape != shape for name, shape in shapes.items()):
            raise ValueError("a level has moved to another place")
        return [found[name] for name in tuple(taps) or self._source.outputs.paths if name in self._read]

    def batches(self) -> tuple[int | None, ...]:
        """Sizes of batches to try: as many as no tuple has members, so that none is unpacked instead of one; and 1."""
        axis = self._source.axes.get("B")
        if axis is None or axis.step != 1 or axis.smallest > 1:
            return (None,)
        return (None, 1, 11)


def _spare_masks(source: Signature) -> list[str]:
    """Masks that were given and need not be."""
    optional = {one.name for one in source.parameters if one.takes_none}
    return [mask.argument for mask in source.masks if mask.argument in optional & source.arguments.keys()]


def _without_auxiliary(backbone: nn.Module, plan: Plan, run: MetaRun) -> tuple[Plan, bool]:
    """The plan with heads that run in train mode alone among what is cut, if anything is: they read what is cut.

    Also whether the view is known to run, and to train, in both modes.
    """
    found = train_only(backbone, run) if plan.cut else None
    new = {path: backbone.get_submodule(path) for path in found or () if path not in plan.cut}
    costs = {path: CutCost(parameters=sum(p.numel() for p in one.parameters())) for path, one in new.items()}
    return plan.model_copy(update={"cut": (*plan.cut, *new), "cut_costs": plan.cut_costs | costs}), found is not None


_OWN = "build(the module that was planned for, plan)"


def _cut(backbone: nn.Module, plan: Plan, taps: Taps, run: MetaRun, *, known: bool) -> tuple[str, ...]:
    """What was cut: what follows the last tap, then side branches before it."""
    if not plan.cut:
        return ()
    named = dict(backbone.named_modules(remove_duplicate=False))
    if faults := [Mismatch(f"`{path}`", "a part that is cut", "none", _OWN) for path in plan.cut if path not in named]:
        raise BuildError(f"the plan is not one of {type(backbone).__name__}", faults[:3])
    trial, whole = _trial(backbone, taps, run, known=known)
    if not whole:
        return ()
    late = [path for path in plan.cut if path not in plan.beside]
    done = cut(backbone, late, trial, takes_what_is_read)
    if plan.beside:
        alone = leaves_the_rest_alone(backbone, plan.beside, run, run.batches())
        if alone(backbone):
            done += cut(backbone, plan.beside, lambda module: trial(module) and alone(module))
    return tuple(path for path in plan.cut if path in done)


def _trial(backbone: nn.Module, taps: Taps, run: MetaRun, *, known: bool) -> tuple[Callable[[nn.Module], bool], bool]:
    """Whether a view runs; and whether it can be trained, and runs in train mode, if that was so at first.

    Also whether it does before anything is cut, which need not be tried where that is known: a copy of what a tap takes
    keeps no pass from running.

    What is cut away may have stood between a tensor that a backward pass needs and a layer that writes over it, or
    before an auxiliary head that runs in train mode.
    """

    def runs(module: nn.Module, *, trains: bool, in_mode: Callable[[nn.Module], nn.Module] = in_eval_mode) -> bool:
        copied = in_mode(copy_module(module, on_meta))
        hand_on_copies(copied, taps)
        for parameter in copied.parameters():
            parameter.requires_grad_(trains and parameter.is_floating_point())
        try:
            outputs = run(copied)
            if trains:
                backward(outputs)
        except Exception:  # whatever it raises, the cut is taken back
            return False
        return True

    trains = known or runs(backbone, trains=True)
    in_training = known or runs(backbone, trains=False, in_mode=in_train_mode)

    def both(module: nn.Module) -> bool:
        return runs(module, trains=trains) and (not in_training or runs(module, trains=False, in_mode=in_train_mode))

    return both, trains or both(backbone)


def _overwritten(backbone: nn.Module, taps: Taps, run: MetaRun) -> set[tuple[str, int, str]]:
    """The taps whose tensors are written over, in eval or in train mode; all where that cannot be seen."""
    found: set[tuple[str, int, str]] = set()
    for in_mode in (in_train_mode, in_eval_mode):
        try:
            found |= set(overwritten(in_mode(copy_module(backbone, on_meta)), taps, run)) if taps else set()
        except Exception:  # whatever a model raises on meta
            found |= {one for one in taps if one[0]} if in_mode is in_eval_mode else set()
    return found
