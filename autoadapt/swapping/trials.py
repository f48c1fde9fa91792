"""Trials: the whole model run as a copy with new modules in their places, and compared with before."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from autoadapt.building import AdaptedModule
from autoadapt.capturing.arguments import bind_call
from autoadapt.errors import Mismatch, SwapError
from autoadapt.swapping.outcomes import broken_invariants, differences, moving_sizes
from autoadapt.swapping.places import set_modules
from autoadapt.swapping.successors import Successor
from autoadapt.swapping.watching import Example, Outcome, Watched, outcome_of, run_copy
from autoadapt.trees import flatten, rebuild
from autoadapt.verification import Check
from autoadapt.views import clone_buffers, copy_module

__all__ = ["by_path", "try_out"]


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
        detail = "the whole returns what it did"
        checks.append(Check(name=f"runs in {trial.mode} mode", outcome="passed", detail=detail))
    return checks


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
        remedy = "swap(..., outputs=[...]) names what must be served" if "was left out" in said else ""
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

    def differences(self, before: Outcome, after: Outcome) -> list[Mismatch]:
        """Differences of the whole's outputs, but for what was left out and for sizes that follow the values."""
        absent = {place for one in self.planned for place in one.left_out_places}
        faults = differences(before, after, absent=absent)
        if not faults:
            return []
        runs = [run for scale in (0.0, 1.0, 100.0) if (run := self._run_on_noise(scale)) is not None]
        return differences(before, after, absent=absent, moving=moving_sizes([before, *runs]))

    def _run_on_noise(self, scale: float) -> Outcome | None:
        """What the whole returns when other values of the same shapes come out of the old modules; None if it raises."""

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


def _noise(tensor: torch.Tensor) -> torch.Tensor:
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)).to(tensor)
