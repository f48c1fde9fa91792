"""Files of `to_source`, read as modules."""

from __future__ import annotations

import copy
import importlib.util
from pathlib import Path
from types import ModuleType

from torch import nn

import autoadapt as aa


def read(path: Path) -> ModuleType:
    """A file as a module."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def standalone(net: nn.Module, new: nn.Module, path: Path) -> nn.Module:
    """The class of the file around a copy of the backbone, with the weights of the adapted module."""
    aa.to_source(net, path)
    other: nn.Module = read(path).Adapted(copy.deepcopy(new))
    other.load_state_dict(net.state_dict(), strict=True)
    return other
