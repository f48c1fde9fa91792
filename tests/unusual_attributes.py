"""Modules that hold what cannot be copied, and other attributes that nobody would write for a test."""

from __future__ import annotations

import sys
import threading
import weakref
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import torch
import torch.nn.functional as F
from unusual_modules import Body, Maps


class HoldsLock(Body):
    def __init__(self) -> None:
        super().__init__()
        self.lock = threading.Lock()

    def forward(self, x: torch.Tensor) -> Maps:
        with self.lock:
            return self.maps(x)


class HoldsPythonModule(Body):
    def __init__(self) -> None:
        super().__init__()
        self.functions = F

    def forward(self, x: torch.Tensor) -> Any:
        return self.functions.relu(self.two(self.one(x)))


class HoldsGenerator(Body):
    def __init__(self) -> None:
        super().__init__()
        self.numbers: Iterator[int] = (i for i in range(10))


class HoldsOpenFile(Body):
    def __init__(self) -> None:
        super().__init__()
        self.log = sys.__stderr__


class HoldsDeepInside(Body):
    """A lock within an object within a dict, beside a tensor that must not be shared."""

    def __init__(self) -> None:
        super().__init__()
        self.extras = {"state": SimpleNamespace(lock=threading.Lock(), scale=torch.ones(1)), "count": [1, 2]}

    def forward(self, x: torch.Tensor) -> Any:
        two = self.maps(x)[1]
        return two * self.extras["state"].scale.to(two)


class HoldsTorchGenerator(Body):
    def __init__(self) -> None:
        super().__init__()
        self.random = torch.Generator().manual_seed(1)


class HoldsWeakReference(Body):
    def __init__(self) -> None:
        super().__init__()
        self.first = weakref.ref(self.one)


class HoldsLambda(Body):
    def __init__(self) -> None:
        super().__init__()
        self.act = lambda x: x.relu()

    def forward(self, x: torch.Tensor) -> Any:
        return self.act(self.two(self.one(x)))


class RefusesToBeCopied(Body):
    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        raise RuntimeError("this module owns a connection")
