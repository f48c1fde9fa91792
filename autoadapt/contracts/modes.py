"""Modes: `module.eval()` and `module.train()` for modules whose own `train` returns nothing."""

from __future__ import annotations

from typing import TypeVar

from torch import nn

M = TypeVar("M", bound=nn.Module)


def in_eval_mode(module: M) -> M:
    """The module itself, in eval mode.

    Backbones with frozen stages override `train(mode)` and often return None, and `module.eval()` returns that.
    """
    module.eval()
    return module


def in_train_mode(module: M) -> M:
    """The module itself, in train mode; see `in_eval_mode`."""
    module.train()
    return module
