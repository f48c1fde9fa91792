"""Region trials: the whole model run as a copy with a region replaced, at the example and at other sizes."""

from __future__ import annotations

import contextlib
import functools
from collections import Counter
from collections.abc import Callable

import torch
from torch import nn

from autoadapt.adapting.verification import Check
from autoadapt.contracts.capturing import Arguments, bind
from autoadapt.contracts.randomness import quiet
from autoadapt.contracts.trees import flatten, rebuild
from autoadapt.contracts.views import clone_buffers, copy_module
from autoadapt.errors import Mismatch, SwapError
from autoadapt.files.reading import one_line
from autoadapt.swapping.readings import Outcome
from autoadapt.swapping.region_swaps import Parts, RegionSwap
from autoadapt.swapping.trial_runs import missing_calls, refuse_mixing, still_differing, trained
from autoadapt.swapping.watching import Example, outcome_of, run_copy


def try_region(model: nn.Module, example: Example, inputs: object, planned: RegionSwap, parts: Parts) -> list[Check]:
    """Run the whole before and after, in its modes and at up to three sizes.

    Raises:
        SwapError: It raises with the new module, or returns something else.
    """
    trial = _Trial(model, planned, parts)
    checks = []
    for training in (False, True) if model.training else (False,):
        mode = "train" if training else "eval"
        count = 0
        for one in (example, *_others(model, example, inputs, planned)):
            count += count < SIZES and trial.holds(one, training)
        if count:
            detail = f"the model's outputs are as before, at {count} size{'s' if count > 1 else ''}"
            checks.append(Check(name=f"runs in {mode} mode", outcome="passed", detail=detail))
    place, net = planned.region.first, parts.net.alone()
    refuse_mixing([(place, net, planned.module, planned.arguments)])
    if trial.is_frozen():
        detail = f"train() of {type(model).__name__} freezes all of `{place}`, the whole new module"
        return [*checks, Check(name="training step", outcome="not run", detail=detail)]
    return [*checks, trained(place, net, parts.net.plan, planned.arguments)]


SIZES = 3
"""How many sizes the whole is run at."""


class _Trial:
    """Copies of the whole before and after."""

    def __init__(self, model: nn.Module, planned: RegionSwap, parts: Parts) -> None:
        self._model, self._planned, self._parts = model, planned, parts

    def holds(self, example: Example, training: bool) -> bool:
        """Whether the whole runs; then it returns the same with the new module.

        Raises:
            SwapError: It does not.
        """
        expected, found = Counter[str](), Counter[str]()
        try:
            before = self._run(example, lambda copied: self._count(copied, expected), training)
        except Exception:  # the model takes no such size, or asks for more in train mode
            return False
        name, place = type(self._model).__name__, self._planned.region.first
        try:
            after = self._run(example, lambda copied: self._put_in(copied, found), training)
        except Exception as error:
            wanted = f"a forward pass of {name} in {'train' if training else 'eval'} mode"
            functions = ", ".join(dict.fromkeys(self._planned.region.functions))
            why = f"functions run between the modules of the region: {functions}" if functions else ""
            fault = Mismatch(place, wanted, one_line(error), "swap a smaller region, or a submodule", why)
            raise SwapError(f"{name} raises with the new module", [fault]) from error
        faults = missing_calls(expected, found)
        if not faults:
            run = functools.partial(run_copy, self._model, example, training=training)
            faults = still_differing(before, after, run, self._planned.region.members)
        if faults:
            raise SwapError(f"with the new module {name} does not return what it did", faults)
        return True

    def _run(self, example: Example, prepare: Callable[[nn.Module], None], training: bool) -> Outcome:
        return outcome_of(run_copy(self._model, example, prepare, training=training))

    def _put_in(self, copied: nn.Module, calls: Counter[str]) -> None:
        self._parts.copied(lambda module: copy_module(module, clone_buffers)).put_in(copied)
        self._count(copied, calls)

    def _count(self, copied: nn.Module, calls: Counter[str]) -> None:
        """Count the calls of what stands at the members."""
        for path in self._planned.region.members:
            copied.get_submodule(path).register_forward_pre_hook(functools.partial(_note_call, calls, path))

    def is_frozen(self) -> bool:
        """Whether the model's own `train()` freezes the new module, as one that freezes a stem by its name does."""
        before = list(self._parts.net.parameters())
        copied = copy_module(self._model, clone_buffers)
        with quiet(), contextlib.suppress(Exception):  # whatever it raises in the other mode
            parts = self._parts.copied(lambda module: copy_module(module, clone_buffers))
            parts.put_in(copied)
            copied.train()
            after = list(parts.net.parameters())
            return any(p.requires_grad for p in before) and not any(p.requires_grad for p in after)
        return False


def _note_call(calls: Counter[str], path: str, _module: nn.Module, _args: object) -> None:
    calls[path] += 1


def _others(model: nn.Module, example: Example, inputs: object, planned: RegionSwap) -> list[Example]:
    """The example at other sizes, odd ones first, if the model is given an image that says its size."""
    axes = planned.contract.axes
    if example.is_step or inputs is None or not {"H", "W"} <= set(axes):
        return []
    arguments = bind(model, inputs)
    tree, tensors = flatten(arguments.values)
    here = (axes["H"].example, axes["W"].example)
    found = []
    for down, right in ((1, 2), (5, 3), (32, 64), (96, 32)):
        size = here[0] + _by(down, axes["H"].step), here[1] + _by(right, axes["W"].step)
        resized = [_resized(t, size) if tuple(t.shape[-2:]) == here and t.dim() > 3 else t for t in tensors]
        if size != here and any(new is not old for new, old in zip(resized, tensors, strict=True)):
            other = Arguments(rebuild(tree, resized), arguments.positional)
            found.append(Example(other.call_apart, is_step=False))
    return found


def _by(more: int, step: int) -> int:
    """How much larger: a few steps, or about as many pixels as models that are deep ask for."""
    return more * step if more < 8 else -(-more // max(step, 1)) * step


def _resized(tensor: torch.Tensor, size: tuple[int, int]) -> torch.Tensor:
    """An image repeated or cut, so that its values stay such as the caller meant."""
    for axis, wanted in zip((-2, -1), size, strict=True):
        tensor = tensor.index_select(axis, torch.arange(wanted, device=tensor.device) % tensor.shape[axis])
    return tensor
