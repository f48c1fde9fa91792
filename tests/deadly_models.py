"""Candidates by name that kill the process that tries them, always or only the first time, or that never end."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import torch
from ranked_models import Pyramid
from torch import nn

MARK = "AUTOADAPT_TEST_MARK"
"""Names the file that is there once a process was killed."""


class Deadly(Pyramid):
    """A pyramid that is killed on a real image, as by a machine that runs out of memory."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        if not x.is_meta and self.kills():
            os.kill(os.getpid(), signal.SIGKILL)
        return super().forward(x)

    def kills(self) -> bool:
        return True


class DeadlyOnce(Deadly):
    """The next process that tries it is spared."""

    def kills(self) -> bool:
        try:
            Path(os.environ[MARK]).touch(exist_ok=False)
        except FileExistsError:
            return False
        return True


class Endless(Pyramid):
    """Writes down the process that tries it, and does not end."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        if not x.is_meta:
            Path(os.environ[MARK]).write_text(str(os.getpid()))
            time.sleep(600)
        return super().forward(x)


def two() -> nn.Module:
    return Pyramid(2)


def three() -> nn.Module:
    return Pyramid(3)


def four() -> nn.Module:
    return Pyramid(4)


def five() -> nn.Module:
    return Pyramid(5)


def deadly() -> nn.Module:
    return Deadly(6)


def deadly_once() -> nn.Module:
    return DeadlyOnce(7)


def endless() -> nn.Module:
    return Endless(8)
