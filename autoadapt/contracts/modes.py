"""Modes: a module put into eval or train mode and handed on, whatever its own `train()` returns."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

__all__ = ["in_eval_mode", "in_train_mode"]

M = TypeVar("M", bound=nn.Module)


def in_eval_mode(module: M) -> M:
    """The module itself, in eval mode.

    Backbones that keep stages frozen override `train(mode)` and often return nothing, so that the value of
    `module.eval()` must not be used.
    """
    module.eval()
    return module


def in_train_mode(module: M) -> M:
    """The module itself, in train mode; see `in_eval_mode`."""
    module.train()
    return module
