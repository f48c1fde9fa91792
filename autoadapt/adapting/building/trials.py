"""Trials: forward and backward passes of a view on the meta device, which show what runs, trains and is overwritten."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import torch
from torch import nn

from autoadapt.contracts.modes import in_eval_mode, in_train_mode
from autoadapt.contracts.tapping import hand_on_copies, overwritten
from autoadapt.contracts.views import backward, copy_module, on_meta

Tap: TypeAlias = tuple[str, int, str]
Taps: TypeAlias = Sequence[Tap]
Run: TypeAlias = Callable[[nn.Module], Sequence[torch.Tensor]]
Mode: TypeAlias = Callable[[nn.Module], nn.Module]
RAISES, RUNS, TRAINS = range(3)
"""How far a pass gets: the forward pass raises, only the backward pass raises, or neither does."""


@dataclass
class _Pass:
    """The result of one pass."""

    far: int = RAISES
    ran: dict[str, None] = field(default_factory=dict)
    """Paths of the submodules that ran, in the order in which they began."""
    reached: set[str] = field(default_factory=set)
    """Names of the parameters that got a gradient; all names of a shared parameter."""
    written: set[Tap] | None = None
    """Taps whose tensors were overwritten before the view returned; None where the forward pass raised."""


_Passes: TypeAlias = tuple[_Pass, _Pass]
"""In eval and in train mode."""


class Trial:
    """A test of whether a view still runs and trains, in eval and train mode, as it did before the cut.

    A module that is cut may have separated a tensor needed by the backward pass from a layer that overwrites it, or
    have fed an auxiliary head that runs in train mode. Taps whose tensors are overwritten hand on copies in these
    passes, as they will in the adapted module. The results of the last view that passed the test are kept.

    Args:
        run: Runs a copy on the meta device and returns the outputs that are read.
        taps: What the view returns.
    """

    def __init__(self, run: Run, taps: Taps) -> None:
        self._run, self._taps = run, taps
        self._known: dict[tuple[tuple[str, type], ...], _Passes] = {}
        self._first = self._latest = (_Pass(), _Pass())

    def begin(self, view: nn.Module) -> None:
        """Hold the views that follow against this one."""
        self._first = self._latest = self._passes(view)

    def trains(self, view: nn.Module) -> bool:
        """Whether a view trains in both modes, as far as any view gets; those that follow are held against it if so."""
        trains = all(one.far == TRAINS for one in self._passes(view))
        if trains:
            self.begin(view)
        return trains

    def __call__(self, view: nn.Module) -> bool:
        """Whether a changed view gets as far as the first one in both modes; its results are kept if so."""
        found = self._passes(view)
        fits = all(now.far >= then.far for now, then in zip(found, self._first, strict=True))
        self._latest = found if fits else self._latest
        return fits

    @property
    def runs(self) -> bool:
        """Whether the view runs in eval mode."""
        return self._latest[0].far >= RUNS

    def train_only(self, view: nn.Module) -> list[str]:
        """Modules with parameters that run in train mode and not in eval mode, and affect no read output.

        Returns:
            Their paths, without modules inside others of them; none where the view does not train in both modes.
        """
        seldom, often = self._latest
        found: list[str] = []
        for path in often.ran if min(seldom.far, often.far) == TRAINS else ():
            own = [name for name, _ in view.get_submodule(path).named_parameters(path)]
            is_new = path not in seldom.ran and not any(path.startswith(f"{other}.") for other in found)
            found += [path] if is_new and own and often.reached.isdisjoint(own) else []
        return found

    def freeze_unused(self, view: nn.Module) -> list[str]:
        """Set `requires_grad` to False for the parameters of a view that affect no read output in either mode.

        Returns:
            Their names; none where the view does not train in eval mode, or no parameter gets a gradient.
        """
        usual, training = self._latest
        if usual.far < TRAINS or not usual.reached:
            return []
        reached = usual.reached | training.reached
        unused = {name: p for name, p in view.named_parameters() if p.is_floating_point() and name not in reached}
        for parameter in unused.values():
            parameter.requires_grad_(False)
        return list(unused)

    def overwritten(self) -> set[Tap]:
        """The taps whose tensors are overwritten later in a pass, in either mode; all where the view does not run."""
        usual, training = (found.written for found in self._latest)
        return ({one for one in self._taps if one[0]} if usual is None else usual) | (training or set())

    def _passes(self, view: nn.Module) -> _Passes:
        """The results in both modes; found once of views in which the same modules are cut."""
        parts = tuple((path, type(part)) for path, part in view.named_modules())
        if parts not in self._known:
            self._known[parts] = self._pass(view, in_eval_mode), self._pass(view, in_train_mode)
        return self._known[parts]

    def _pass(self, view: nn.Module, in_mode: Mode) -> _Pass:
        """The result in one mode; of a second attempt, with copies of overwritten taps, where that gets farther."""
        found = self._attempt(view, in_mode, ())
        if found.written or (found.far < TRAINS and self._taps):
            again = self._attempt(view, in_mode, found.written or self._taps)
            return replace(max(again, found, key=lambda one: one.far), written=found.written)
        return found

    def _attempt(self, view: nn.Module, in_mode: Mode, copies: Collection[Tap]) -> _Pass:
        """Run a copy forward and backward in one mode, with some taps handing on copies."""
        copied, found = in_mode(copy_module(view, on_meta)), _Pass()
        for path, part in copied.named_modules():
            part.register_forward_pre_hook(lambda _module, _args, path=path: found.ran.setdefault(path))
        for parameter in copied.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        hand_on_copies(copied, copies)
        outputs: list[torch.Tensor] = []
        with contextlib.suppress(Exception):  # whatever a model raises on the meta device; `far` says how far it got
            found.written = {*overwritten(copied, self._taps, lambda module: outputs.extend(self._run(module)))}
            found.far = RUNS
            backward(outputs)
            found.far = TRAINS
        found.ran.pop("", None)
        found.reached = {name for name, p in copied.named_parameters(remove_duplicate=False) if p.grad is not None}
        return found
