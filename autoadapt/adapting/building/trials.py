"""Trials: passes of a view without values, forward and backward, tell what runs, is trained and is written over."""

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

__all__ = ["Taps", "Trial"]

Tap: TypeAlias = tuple[str, int, str]
Taps: TypeAlias = Sequence[Tap]
Run: TypeAlias = Callable[[nn.Module], Sequence[torch.Tensor]]
Mode: TypeAlias = Callable[[nn.Module], nn.Module]
RAISES, RUNS, TRAINS = range(3)
"""How far a pass comes: not to its end, not back again, all the way."""


@dataclass
class _Pass:
    """What one pass tells of a view."""

    far: int = RAISES
    ran: dict[str, None] = field(default_factory=dict)
    """Modules inside that ran, in the order in which they began."""
    reached: set[str] = field(default_factory=set)
    """Parameters that got a gradient, at every place where one stands."""
    written: set[Tap] | None = None
    """Taps whose tensors something wrote to before the whole returned; None where that cannot be seen."""


class Trial:
    """Whether a view still runs and trains, in eval and in train mode, as far as it did at first.

    What is cut away may have stood between a tensor that a backward pass needs and a layer that writes over it, or
    before an auxiliary head that runs in train mode. Where something writes over a tensor that is tapped, its tap hands
    on a copy, as it will in the end. What the passes told is kept: of the last view that was called fit, or the first.

    Args:
        view: Before anything is cut.
        run: Gives what is read of a copy of it that stands on the meta device.
        taps: What it returns.
    """

    def __init__(self, view: nn.Module, run: Run, taps: Taps) -> None:
        self._run, self._taps = run, taps
        self._first = self._latest = self._passes(view)

    def __call__(self, view: nn.Module) -> bool:
        """Whether a changed view, which is kept if so, comes as far as the first."""
        found = self._passes(view)
        fits = all(now.far >= then.far for now, then in zip(found, self._first, strict=True))
        self._latest = found if fits else self._latest
        return fits

    @property
    def runs(self) -> bool:
        """Whether it runs in eval mode."""
        return self._latest[0].far >= RUNS

    def train_only(self, view: nn.Module) -> list[str]:
        """Modules with parameters that run in train mode and not in eval mode, and reach nothing that is read.

        Their paths, without those inside others of them; none where it does not run, and train, in both modes.
        """
        seldom, often = self._latest
        found: list[str] = []
        for path in often.ran if min(seldom.far, often.far) == TRAINS else ():
            own = [name for name, _ in view.get_submodule(path).named_parameters(path)]
            is_new = path not in seldom.ran and not any(path.startswith(f"{other}.") for other in found)
            found += [path] if is_new and own and often.reached.isdisjoint(own) else []
        return found

    def freeze_unused(self, view: nn.Module) -> list[str]:
        """Take `requires_grad` from the parameters of a view that reach nothing that is read, in eval or train mode.

        Returns:
            Names of the parameters that were frozen; none where it does not train in eval mode, or stops all gradients.
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
        """The taps whose tensors are written over, in eval or in train mode; all where that cannot be seen."""
        usual, training = (found.written for found in self._latest)
        return ({one for one in self._taps if one[0]} if usual is None else usual) | (training or set())

    def _passes(self, view: nn.Module) -> tuple[_Pass, _Pass]:
        return self._pass(view, in_eval_mode), self._pass(view, in_train_mode)

    def _pass(self, view: nn.Module, in_mode: Mode) -> _Pass:
        found = self._attempt(view, in_mode, ())
        if found.written or (found.far < TRAINS and self._taps):
            again = self._attempt(view, in_mode, found.written or self._taps)
            return replace(max(again, found, key=lambda one: one.far), written=found.written)
        return found

    def _attempt(self, view: nn.Module, in_mode: Mode, copies: Collection[Tap]) -> _Pass:
        copied, found = in_mode(copy_module(view, on_meta)), _Pass()
        for path, part in copied.named_modules():
            part.register_forward_pre_hook(lambda _module, _args, path=path: found.ran.setdefault(path))
        for parameter in copied.parameters():
            parameter.requires_grad_(parameter.is_floating_point())
        hand_on_copies(copied, copies)
        outputs: list[torch.Tensor] = []
        with contextlib.suppress(Exception):  # whatever a model raises on meta, it comes as far as it comes
            found.written = {*overwritten(copied, self._taps, lambda module: outputs.extend(self._run(module)))}
            found.far = RUNS
            backward(outputs)
            found.far = TRAINS
        found.ran.pop("", None)
        found.reached = {name for name, p in copied.named_parameters(remove_duplicate=False) if p.grad is not None}
        return found
