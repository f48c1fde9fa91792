"""Changed calls: hooks and replaced functions by which something else comes out of a module than what it computes."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from autoadapt.contracts.capturing.regions import callers_hooks
from autoadapt.contracts.capturing.run_values import are_equal
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.trees import flatten
from autoadapt.errors import CalibrationError, Mismatch


@dataclass(frozen=True)
class _Call:
    """One call of a module, and what came out behind all hooks."""

    module: nn.Module
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    output: Any

    @property
    def is_changed(self) -> bool:
        """Whether its class computes something else from the same; no if the module does so from call to call."""
        with undisturbed(), torch.no_grad():
            plain: Any = type(self.module).forward
            computed, again = plain(self.module, *self.args, **self.kwargs), self.module(*self.args, **self.kwargs)
        return _alike(self.output, again) and not _alike(self.output, computed)


class ChangedCalls:
    """Watches one run of the modules that are fitted, where they have hooks or a `forward` of their own.

    A hook that only looks, and a `forward` that does the same elsewhere, change nothing. What goes into a module may be
    changed: it is fitted as it comes in.
    """

    def __init__(self, modules: Mapping[str, nn.Module]) -> None:
        hooked = {path for path, one in modules.items() if callers_hooks(one, "_forward_hooks")}
        self._suspects = {path: one for path, one in modules.items() if path in hooked or "forward" in vars(one)}
        self._calls: dict[str, _Call] = {}

    @contextlib.contextmanager
    def watched(self) -> Iterator[None]:
        """Note the calls that are made in the block."""
        handles = [
            one.register_forward_hook(self._noting(path), with_kwargs=True) for path, one in self._suspects.items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _noting(self, path: str) -> Any:
        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any], output: Any) -> None:
            self._calls[path] = _Call(module, args, kwargs, output)

        return note

    def refuse(self) -> None:
        """Refuse a module by whose hooks something else came out.

        Raises:
            CalibrationError: What is fitted is not what the module returns.
        """
        changed = [path for path, call in self._calls.items() if call.is_changed]
        remedy = "take it off, calibrate, and put it on again"
        faults = [
            Mismatch(path or "net", "what it computes", "another output, by a hook or a forward of its own", remedy)
            for path in changed
        ]
        if faults:
            raise CalibrationError(
                "the module returns something else than its plan says, which alone is fitted", faults
            )


def _alike(left: Any, right: Any) -> bool:
    (tree, ours), (other, theirs) = flatten(left), flatten(right)
    return tree == other and all(map(are_equal, ours, theirs))
