"""Train only: modules that run in train mode alone, for outputs that nobody reads, as auxiliary heads do."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import nn

from autoadapt.contracts.modes import in_eval_mode, in_train_mode
from autoadapt.contracts.views import backward, copy_module, on_meta

__all__ = ["train_only"]


def train_only(module: nn.Module, run: Callable[[nn.Module], Sequence[torch.Tensor]]) -> list[str] | None:
    """Modules with parameters that run in train mode and not in eval mode, and reach nothing that is read.

    Args:
        module: A view.
        run: Gives what is read of a copy of it that stands on the meta device.

    Returns:
        Their paths, without those inside others of them; None where it does not run, and train, in both modes.
    """
    copies = [in_mode(copy_module(module, on_meta)) for in_mode in (in_eval_mode, in_train_mode)]
    for parameter in copies[1].parameters():
        parameter.requires_grad_(parameter.is_floating_point())
    try:
        seldom, often = (_ran(copied, run) for copied in copies)
    except Exception:  # whatever a model raises on meta, it only means that nothing can be said
        return None
    held = {path: [*copies[1].get_submodule(path).parameters()] for path in often if path not in seldom}
    unused = [path for path, own in held.items() if own and all(parameter.grad is None for parameter in own)]
    return [path for path in unused if not any(path.startswith(f"{other}.") for other in unused)]


def _ran(copied: nn.Module, run: Callable[[nn.Module], Sequence[torch.Tensor]]) -> list[str]:
    """Paths of the modules that run, in a pass forward and backward."""
    found: list[str] = []
    for path, part in copied.named_modules():
        part.register_forward_pre_hook(lambda _module, _args, path=path: found.append(path))
    backward(run(copied))
    return list(dict.fromkeys(path for path in found if path))
