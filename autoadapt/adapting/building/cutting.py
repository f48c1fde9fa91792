"""Cutting: a view of the backbone is made to return its taps, and modules that no read output needs are removed.

A removal is tried on copies on the meta device, and undone if the view then no longer runs or trains.
"""

from __future__ import annotations

import torch
from torch import nn

from autoadapt.adapting.building.side_branches import leaves_the_rest_alone
from autoadapt.adapting.building.trials import Trial
from autoadapt.adapting.planning import CutCost, Plan
from autoadapt.contracts.caches import OutsideCaches, apart
from autoadapt.contracts.capturing import Arguments
from autoadapt.contracts.capturing.arguments import meta_call
from autoadapt.contracts.leaves import place_of_tap
from autoadapt.contracts.meta_device import on_the_meta_device
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.signature import Signature
from autoadapt.contracts.tapping import hand_on_copies, takes_what_is_read, tap
from autoadapt.contracts.trees import flatten, path_texts
from autoadapt.contracts.views import cut, cut_together
from autoadapt.errors import BuildError, Mismatch


def tapped(backbone: nn.Module, plan: Plan) -> Plan:
    """Put the plan's taps on a view and cut the modules that are then not needed.

    Args:
        backbone: A view; it is changed.
        plan: Says which outputs are read and which modules may be cut.

    Returns:
        The plan with the modules that were really cut, the parameters that were frozen, and the taps that hand on a
        copy since a later layer overwrites the tensor.
    """
    run = MetaRun(plan, backbone)
    if not plan.taps and not run.unread:
        return plan
    taps = [(one.module, one.call, one.path) for one in plan.taps.values()]
    if taps:
        tap(backbone, taps)
    _check_cut(backbone, plan)
    trial = Trial(run, taps)
    plan, done = _cut(backbone, plan, run, trial)
    hit = trial.overwritten()
    hand_on_copies(backbone, hit)
    over = {place_of_tap(path, leaf) for path, _, leaf in hit}
    marked = {
        name: one.model_copy(update={"overwritten": place_of_tap(one.module, one.path) in over})
        for name, one in plan.taps.items()
    }
    frozen = tuple(trial.freeze_unused(backbone))
    return plan.model_copy(update={"taps": marked, "cut": done, "frozen": frozen})


class MetaRun:
    """Runs a view on the meta device and returns the tensors that a plan reads from it."""

    def __init__(self, plan: Plan, backbone: nn.Module) -> None:
        self._plan, self._source, self._backbone = plan, plan.source, backbone
        self._caches = OutsideCaches(backbone)
        self._read = {route.source for route in plan.routes}
        self.unread = set(self._source.outputs.paths) - self._read
        """Outputs that no route begins with."""

    def __call__(self, module: nn.Module, batch: int | None = None) -> list[torch.Tensor]:
        """Run a copy of the view.

        Args:
            module: The copy, on the meta device.
            batch: Batch size; that of the example call where left out.

        Raises:
            ValueError: An output has another shape than in the plan.
        """
        sizes = self._source.sizes() | ({} if batch is None else {"B": batch})
        arguments = meta_call(self._source, sizes)
        with undisturbed(None), on_the_meta_device(self._backbone, self._caches), torch.set_grad_enabled(True):
            try:
                tree, returned = flatten(apart(arguments.call, module))
            except Exception:  # perhaps it reads the values of a mask, which has none here: try without masks
                if not (spare := _spare_masks(self._source)):
                    raise
                arguments = Arguments(arguments.values | dict.fromkeys(spare), arguments.positional)
                tree, returned = flatten(apart(arguments.call, module))
        taps = self._plan.taps
        given = taps or path_texts(tree)  # hooks collect fewer levels where the last ones are cut
        found = dict(zip(given, returned, strict=True))
        shapes = {name: spec.shape(sizes) for name, spec in self._source.outputs.items() if name in self._read}
        if any(found[name].shape != shape for name, shape in shapes.items()):
            raise ValueError("a level has moved to another place")
        return [found[name] for name in tuple(taps) or self._source.outputs.paths if name in self._read]

    def batches(self) -> tuple[int | None, ...]:
        """Batch sizes to try: the example's, 1, and 11, so large that no tensor is unpacked in place of a tuple."""
        axis = self._source.axes.get("B")
        if axis is None or axis.step != 1 or axis.smallest > 1:
            return (None,)
        return (None, 1, 11)


def _spare_masks(source: Signature) -> list[str]:
    """Mask arguments in the example call that may also be None."""
    optional = {one.name for one in source.parameters if one.takes_none}
    return [mask.argument for mask in source.masks if mask.argument in optional & source.arguments.keys()]


_OWN = "build(the module that was planned for, plan)"


def _check_cut(backbone: nn.Module, plan: Plan) -> None:
    """Refuse a backbone without the modules that the plan cuts.

    Raises:
        BuildError: It is not the one that the plan was made for.
    """
    named = dict(backbone.named_modules(remove_duplicate=False)) if plan.cut else {}
    if faults := [Mismatch(f"`{path}`", "a part that is cut", "none", _OWN) for path in plan.cut if path not in named]:
        raise BuildError(f"the plan is not one of {type(backbone).__name__}", faults[:3])


def _without_auxiliary(backbone: nn.Module, plan: Plan, trial: Trial) -> Plan:
    """Add auxiliary heads, which run in train mode alone and may read what is cut, to the modules to cut."""
    new = {path: backbone.get_submodule(path) for path in trial.train_only(backbone) if path not in plan.cut}
    costs = {path: CutCost(parameters=sum(p.numel() for p in one.parameters())) for path, one in new.items()}
    return plan.model_copy(update={"cut": (*plan.cut, *new), "cut_costs": plan.cut_costs | costs})


def _cut(backbone: nn.Module, plan: Plan, run: MetaRun, trial: Trial) -> tuple[Plan, tuple[str, ...]]:
    """Cut the modules after the last tap, then side branches before it.

    A view that trains without them in both modes need not be run with them, unless it has auxiliary heads.

    Returns:
        The plan with auxiliary heads, and the modules that were cut.
    """
    late = [path for path in plan.cut if path not in plan.beside]
    done = cut_together(backbone, late, trial.trains, takes_what_is_read) if late else []
    if not done:
        trial.begin(backbone)
    if plan.taps and plan.cut:
        plan = _without_auxiliary(backbone, plan, trial)
    if not plan.cut or not trial.runs:
        return plan, ()
    late = [path for path in plan.cut if path not in (*plan.beside, *done)]
    done += cut(backbone, late, trial, takes_what_is_read)
    if plan.beside:
        alone = leaves_the_rest_alone(backbone, plan.beside, run, run.batches())
        if alone(backbone):
            done += cut(backbone, plan.beside, lambda module: alone(module) and trial(module))
    return plan, tuple(path for path in plan.cut if path in done)
