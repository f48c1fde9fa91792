"""Modules that do harm while they are compiled or exported, and none in any other call."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import time
from typing import Any

import torch
from torch import nn


class Traced(nn.Module):
    """Does something before its layers run where torch traces it."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: torch.Tensor) -> Any:
        if torch.compiler.is_exporting():
            self.harm()
        return self.net(image)

    def harm(self) -> None:
        raise NotImplementedError


class Endless(Traced):
    """In Python."""

    def harm(self) -> None:
        while True:
            time.sleep(0.01)


class Stuck(Traced):
    """In compiled code that never comes back to Python, and holds the lock of the interpreter."""

    def harm(self) -> None:
        ctypes.PyDLL(None).pause()


class Greedy(Traced):
    """Allocates without end."""

    def harm(self) -> None:
        held = []
        while True:
            held.append(bytearray(1 << 26))


class Killed(Traced):
    """Dies as by a bad access to memory."""

    def harm(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class Leaves(Traced):
    """Ends the process itself."""

    def harm(self) -> None:
        os._exit(3)


class Chatty(Traced):
    """Writes to the terminal."""

    def harm(self) -> None:
        print("?compile", file=sys.__stdout__)
        os.write(1, b"{}\n")


class Unloaded(Traced):
    """Pickles, and is loaded nowhere else."""

    def __setstate__(self, state: Any) -> None:
        if "pytest" not in sys.modules:
            raise ValueError("only in the process that made it")
        super().__setstate__(state)

    def harm(self) -> None:
        """None."""
