"""Trial runs: the whole model run as a copy with new modules in their places, and compared with before."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import nn

from autoadapt.adapting.building import AdaptedModule
from autoadapt.adapting.planning import Plan
from autoadapt.adapting.verification import Check, verify_step
from autoadapt.contracts.capturing import Arguments
from autoadapt.contracts.capturing.arguments import bind_call
from autoadapt.contracts.randomness import quiet
from autoadapt.contracts.trees import flatten, rebuild
from autoadapt.contracts.views import clone_buffers, copy_module, eval_copy
from autoadapt.errors import Mismatch, SwapError
from autoadapt.files.reading import one_line
from autoadapt.swapping.model_outputs import broken_invariants, differences, moving_parts
from autoadapt.swapping.places import set_modules
from autoadapt.swapping.readings import Outcome
from autoadapt.swapping.successors import Successor
from autoadapt.swapping.watching import Example, Watched, as_region, outcome_of, run_copy


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
        expected = {path: len(seen.readings[path].calls) for path in trial.calls}
        missing = missing_calls(expected, trial.calls) if training == min(seen.outcomes) else []
        faults = [*trial.faults, *missing, *trial.differences(before, after)]
        if faults:
            raise SwapError(f"with the new module {type(model).__name__} does not return what it did", faults)
        rows = zip(planned, modules, strict=True)
        refuse_mixing(
            [(one.place.path, new, one.place.module, seen.readings[one.place.path].calls[0]) for one, new in rows]
        )
        detail = f"the model's outputs are as before{_missing(planned)}"
        checks.append(Check(name=f"runs in {trial.mode} mode", outcome="passed", detail=detail))
    return [*checks, *_steps(planned, modules, seen)]


def _missing(planned: Sequence[Successor]) -> str:
    """Which outputs of the whole are gone, or raise when they are used, since nothing in the model read them."""
    places = dict.fromkeys(place for one in planned for place in one.left_out_places)
    told = ", ".join(places)
    return f", but for {told} (left out: outputs=[...] serves {'it' if len(places) == 1 else 'them'})" if told else ""


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
        faults = [replace(fault, where=f"{path}: {fault.where}") for fault in check.faults]
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
        said = one_line(error)
        where = ", ".join(one.place.path for one in self.planned)
        remedy = as_region(self.model, self.planned[0].place.path)
        remedy = "swap(..., outputs=[...]) names what must be served" if "was left out" in said else remedy
        expected = f"a forward pass of {type(self.model).__name__} in {self.mode} mode"
        fault = Mismatch(where, expected, said, remedy)
        return SwapError(f"{type(self.model).__name__} raises with the new module", [fault])

    def differences(self, before: Outcome, after: Outcome) -> list[Mismatch]:
        """Differences of the whole's outputs, but for what was left out and for sizes that follow the values."""
        absent = {place for one in self.planned for place in one.left_out_places}
        run = functools.partial(run_copy, self.model, self.example, training=self.training)
        return still_differing(before, after, run, self.calls, absent)


def still_differing(
    before: Outcome, after: Outcome, run: Callable[..., object], paths: Iterable[str], absent: Collection[str] = ()
) -> list[Mismatch]:
    """How two outcomes of a whole model differ, but for what follows the values that its old modules give.

    Args:
        before: With the old modules.
        after: With the new ones.
        run: Runs a copy of the whole, after something is done to it.
        paths: Where the old modules stand in it.
        absent: Paths that may be missing or hold a placeholder.
    """
    if not differences(before, after, absent=absent):
        return []
    runs = [before]
    for scale in (0.0, 1.0, 100.0):
        with contextlib.suppress(Exception):  # other values may well be refused; there are more runs
            runs.append(outcome_of(run(functools.partial(_give_noise, paths=paths, scale=scale))))
    return differences(before, after, absent=absent, moving=moving_parts(runs))


def _give_noise(model: nn.Module, paths: Iterable[str], scale: float) -> None:
    """Let some modules of a model return other values of the same shapes, the same ones at each call."""

    def noisy(_module: nn.Module, _args: object, output: object) -> object:
        tree, tensors = flatten(output)
        return rebuild(tree, [scale * _noise(t) if t.is_floating_point() else t for t in tensors])

    for path in paths:
        model.get_submodule(path).register_forward_hook(noisy)


def missing_calls(expected: Mapping[str, int], found: Mapping[str, int]) -> list[Mismatch]:
    """Modules that are not called as often as before, by path: the model has them from somewhere else."""
    remedy = "the model holds another reference to the old module: replace that as well"
    times = {path: "once" if count == 1 else f"{count} times" for path, count in expected.items()}
    return [
        Mismatch(path, f"a module that is called {times[path]}", f"{found[path]} calls", remedy)
        for path, count in expected.items()
        if found[path] != count
    ]


def refuse_mixing(pairs: Iterable[tuple[str, nn.Module, nn.Module, Arguments]]) -> None:
    """Refuse new modules that let the samples of a batch see each other where the old ones do not.

    Args:
        pairs: Of each new module its path, itself, the old one, and a call of both.

    Raises:
        SwapError: One of them does.
    """
    expected, found = "outputs that depend on their own sample", "outputs that depend on other samples too"
    faults = [
        Mismatch(path, expected, found, "take the batch from axis 0 of the input")
        for path, new, old, arguments in pairs
        if _mixes_samples(new, arguments) and not _mixes_samples(old, arguments)
    ]
    if faults:
        raise SwapError(f"the new module at `{faults[0].where}` mixes the samples of a batch", faults)


def _mixes_samples(module: nn.Module, arguments: Arguments) -> bool:
    """Whether another last sample changes what comes out for the others, in eval mode; batches of one tell nothing."""
    tree, tensors = flatten(arguments.values)
    batch = tensors[0].shape[0] if tensors and tensors[0].dim() else 1
    changed = [_with_another_last(tensor, batch) for tensor in tensors]
    if batch < 2 or all(left is right for left, right in zip(tensors, changed, strict=True)):
        return False
    try:
        calls = [Arguments(rebuild(tree, one), arguments.positional) for one in (tensors, changed)]
        left, right = (_outputs(module, call) for call in calls)
    except Exception:  # other values may well be refused
        return False
    return any(
        not torch.allclose(a[:-1], b[:-1], rtol=1e-3, atol=1e-4, equal_nan=True)
        for a, b in zip(left, right, strict=False)
        if a.shape == b.shape and a.shape[:1] == (batch,) and a.is_floating_point()
    )


def _with_another_last(tensor: torch.Tensor, batch: int) -> torch.Tensor:
    if tensor.shape[:1] != (batch,) or not tensor.is_floating_point():
        return tensor
    return torch.cat([tensor[:-1], tensor[-1:].flip(-1) + 1])


def _outputs(module: nn.Module, arguments: Arguments) -> list[torch.Tensor]:
    with quiet():
        return flatten(arguments.call(eval_copy(module)))[1]


def _noise(tensor: torch.Tensor) -> torch.Tensor:
    return torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0)).to(tensor)
