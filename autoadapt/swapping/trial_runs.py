"""Trials: the whole model run as a copy with new modules in their places, and compared with before."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from autoadapt.adapting.building import AdaptedModule
from autoadapt.adapting.planning import Plan
from autoadapt.adapting.verification import Check, verify_step
from autoadapt.contracts.capturing import Arguments
from autoadapt.contracts.capturing.arguments import bind_call
from autoadapt.contracts.capturing.probing import quiet
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.contracts.trees import flatten, rebuild
from autoadapt.contracts.views import clone_buffers, copy_module
from autoadapt.errors import Mismatch, SwapError
from autoadapt.swapping.model_outputs import broken_invariants, differences, moving_sizes
from autoadapt.swapping.places import set_modules
from autoadapt.swapping.readings import Outcome
from autoadapt.swapping.successors import Successor
from autoadapt.swapping.watching import Example, Watched, as_region, outcome_of, run_copy

__all__ = ["by_path", "mixes_samples", "trained", "try_out"]


def try_out(
    model: nn.Module, example: Example, planned: Sequence[Successor], modules: Sequence[nn.Module], seen: Watched
) -> list[Check]:
    """Run the whole with the new modules in the modes that it ran in with the old ones.

    Raises:
        SwapError: It raises, a new module is not called as often as the old one, an invariant is broken, or the
            outputs differ.
    """
    checks = []
    for training, before in seen.outcomes.items():
        trial = _Trial(model, example, planned, modules, training)
        after = trial.run()
        faults = [*trial.faults, *trial.missing_calls(seen)] if training == min(seen.outcomes) else trial.faults
        faults += trial.differences(before, after)
        if faults:
            raise SwapError(f"with the new module {type(model).__name__} does not return what it did", faults)
        trial.refuse_mixing(seen)
        detail = "the model's outputs are as before"
        checks.append(Check(name=f"runs in {trial.mode} mode", outcome="passed", detail=detail))
    return [*checks, *_steps(planned, modules, seen)]


def _steps(planned: Sequence[Successor], modules: Sequence[nn.Module], seen: Watched) -> list[Check]:
    """A small step of training with each kind of new module, as its callers will train it."""
    done, found = list[Plan](), list[Check]()
    for one, module in zip(planned, modules, strict=True):
        made = one.part.plan
        if made is None or made in done:
            continue
        done.append(made)
        found.append(trained(one.place.path, module, made, seen.readings[one.place.path].calls[0]))
    return found[:1]


def trained(path: str, module: nn.Module, plan: Plan, arguments: Arguments) -> Check:
    """A small step of training with a new module.

    Raises:
        SwapError: It does not keep its contract there, or has parameters that no gradient reaches.
    """
    check = verify_step(module, plan.target, inputs=arguments)
    if check.outcome == "failed":
        faults = [Mismatch(f"{path}: {f.where}", f.expected, f.found, f.remedy) for f in check.faults]
        raise SwapError(f"the new module at `{path}` does not train", faults)
    return check


def by_path(planned: Sequence[Successor], modules: Sequence[nn.Module]) -> dict[str, nn.Module]:
    """Every path that is to be set, and what to set there."""
    return {path: module for one, module in zip(planned, modules, strict=True) for path in one.place.paths}


@dataclass
class _Trial:
    """One run of a copy of the whole with the new modules, and what was seen of these."""

    model: nn.Module
    example: Example
    planned: Sequence[Successor]
    modules: Sequence[nn.Module]
    training: bool
    calls: dict[str, int] = field(default_factory=dict)
    faults: list[Mismatch] = field(default_factory=list)

    @property
    def mode(self) -> str:
        return "train" if self.training else "eval"

    def run(self) -> Outcome:
        try:
            return outcome_of(run_copy(self.model, self.example, self._put_in, training=self.training))
        except Exception as error:
            raise self._raised(error) from error

    def _put_in(self, copied: nn.Module) -> None:
        """Set copies of the new modules in a copy of the whole, and watch them."""
        copies = [copy_module(module, clone_buffers) for module in self.modules]
        for one, module in zip(self.planned, copies, strict=True):
            self.calls[one.place.path] = 0
            module.register_forward_hook(functools.partial(self._note, one), with_kwargs=True)
        set_modules(copied, by_path(self.planned, copies))

    def _note(self, one: Successor, module: nn.Module, args: Any, kwargs: Any, returned: object) -> None:
        self.calls[one.place.path] += 1
        if isinstance(module, AdaptedModule) and module.signature.invariants:
            self.faults += broken_invariants(module.signature, bind_call(module, args, kwargs), returned)

    def _raised(self, error: Exception) -> SwapError:
        said = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
        where = ", ".join(one.place.path for one in self.planned)
        remedy = as_region(self.model, self.planned[0].place.path)
        remedy = "swap(..., outputs=[...]) names what must be served" if "was left out" in said else remedy
        expected = f"a forward pass of {type(self.model).__name__} in {self.mode} mode"
        fault = Mismatch(where, expected, said, remedy)
        return SwapError(f"{type(self.model).__name__} raises with the new module", [fault])

    def missing_calls(self, seen: Watched) -> list[Mismatch]:
        """New modules that are not called as often as the old ones were."""
        faults = []
        for path, count in self.calls.items():
            expected = len(seen.readings[path].calls)
            if count != expected:
                remedy = "the model holds another reference to the old module: replace that as well"
                times = "once" if expected == 1 else f"{expected} times"
                faults.append(Mismatch(path, f"a module that is called {times}", f"{count} calls", remedy))
        return faults

    def refuse_mixing(self, seen: Watched) -> None:
        """Refuse new modules that let the samples of a batch see each other where the old ones do not.

        Raises:
            SwapError: One of them does.
        """
        faults = []
        for one, module in zip(self.planned, self.modules, strict=True):
            arguments = seen.readings[one.place.path].calls[0]
            if mixes_samples(module, arguments) and not mixes_samples(one.place.module, arguments):
                expected, found = "outputs that depend on their own sample", "outputs that depend on other samples too"
                faults.append(Mismatch(one.place.path, expected, found, "take the batch from axis 0 of the input"))
        if faults:
            raise SwapError(f"the new module at `{faults[0].where}` mixes the samples of a batch", faults)

    def differences(self, before: Outcome, after: Outcome) -> list[Mismatch]:
        """Differences of the whole's outputs, but for what was left out and for sizes that follow the values."""
        absent = {place for one in self.planned for place in one.left_out_places}
        faults = differences(before, after, absent=absent)
        if not faults:
            return []
        runs = [run for scale in (0.0, 1.0, 100.0) if (run := self._run_on_noise(scale)) is not None]
        return differences(before, after, absent=absent, moving=moving_sizes([before, *runs]))

    def _run_on_noise(self, scale: float) -> Outcome | None:
        """What the whole returns when the old modules give other values of the same shapes; None if it raises."""

        def noisy(_module: nn.Module, _args: object, output: object) -> object:
            tree, tensors = flatten(output)
            return rebuild(tree, [scale * _noise(t) if t.is_floating_point() else t for t in tensors])

        def put_in(copied: nn.Module) -> None:
            for one in self.planned:
                copied.get_submodule(one.place.path).register_forward_hook(noisy)

        try:
            return outcome_of(run_copy(self.model, self.example, put_in, training=self.training))
        except Exception:  # other values may well be refused; there are more runs
            return None


def mixes_samples(module: nn.Module, arguments: Arguments) -> bool:
    """Whether another last sample changes what comes out for the others, in eval mode; batches of one tell nothing."""
    tree, tensors = flatten(arguments.values)
    batch = tensors[0].shape[0] if tensors and tensors[0].dim() else 1
    changed = [_with_another_last(tensor, batch) for tensor in tensors]
    if batch < 2 or all(left is right for left, right in zip(tensors, changed, strict=True)):
        return False
    try:
        left, right = (
            _outputs(module, Arguments(rebuild(tree, one), arguments.positional)) for one in (tensors, changed)
        )
    except Exception:  # other values may well be refused
        return False
    pairs = [
        (a[:-1], b[:-1]) for a, b in zip(left, right, strict=False) if a.shape == b.shape and a.shape[:1] == (batch,)
    ]
    return any(
        a.is_floating_point() and not torch.allclose(a, b, rtol=1e-3, atol=1e-4, equal_nan=True) for a, b in pairs
    )


def _with_another_last(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    if tensor.shape[:1] != (batch,) or not tensor.is_floating_point():
        return tensor
    return torch.cat([tensor[:-1], tensor[-1:].flip(-1) + 1])


def _outputs(module: nn.Module, arguments: Arguments) -> list[torch.Tensor]:
    with quiet():
        return flatten(arguments.call(in_eval_mode(copy_module(module, clone_buffers))))[1]


def _noise(tensor: torch.Tensor) -> torch.Tensor:
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)).to(tensor)
