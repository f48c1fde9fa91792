"""A deep copy of a module is what `copy.deepcopy` gives."""

from __future__ import annotations

import copy
import types
from collections import OrderedDict
from typing import Any

import pytest
import torch
from torch import nn

from autoadapt.contracts.deep_copies import deep_copy


class Odd(nn.Module):
    """Attributes of many kinds, some of which are one object."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Conv2d(3, 4, 3)
        self.tied = self.layer
        self.plain = {"layer": self.layer, "sizes": [(1, 2), {3}], "names": {"a"}}
        self.same = self.plain
        self.empty = self.also_empty = OrderedDict[str, int]()
        self.bound = self.layer.forward
        self.holder = types.SimpleNamespace(module=self, layer=self.layer)


class Own(nn.Module):
    """Says itself how it is copied."""

    def __init__(self, number: int = 0) -> None:
        super().__init__()
        self.number = number

    def __deepcopy__(self, memo: Any) -> Own:
        return Own(self.number + 1)


class Told(nn.Module):
    """Leaves something out of its state."""

    kept = "by the class"

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in vars(self).items() if name != "kept"}


def test_what_is_one_object_stays_one_and_nothing_is_shared():
    module = Odd()
    copied: Any = deep_copy(module, {})
    assert copied.tied is copied.layer is copied.plain["layer"] is copied.holder.layer is not module.layer
    assert copied.holder.module is copied
    assert copied.bound.__self__ is copied.layer
    assert copied.same is copied.plain
    assert copied.empty is copied.also_empty is not module.empty
    assert copied.plain["sizes"] == [(1, 2), {3}]
    assert copied.plain["sizes"] is not module.plain["sizes"]
    assert copied.plain["names"] is not module.plain["names"]
    assert vars(copied).keys() == vars(module).keys()


def test_a_class_that_says_how_it_is_copied_is_asked():
    module = nn.Sequential(Own(), Told())
    module[1].kept = "by the module"
    copied: Any = deep_copy(module, {})
    assert (copied[0].number, copied[1].kept) == (1, "by the class")


@pytest.mark.parametrize(
    "module",
    [
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Sequential(nn.Linear(4, 4))),
        nn.TransformerEncoderLayer(8, 2, dim_feedforward=8),
        nn.utils.parametrizations.weight_norm(nn.Linear(2, 2)),
    ],
)
def test_states_modes_and_texts_are_those_of_copy_deepcopy(module):
    module.eval()
    expected, found = copy.deepcopy(module), deep_copy(module, {})
    assert repr(found) == repr(expected)
    assert [part.training for part in found.modules()] == [part.training for part in expected.modules()]
    values = found.state_dict()
    assert values.keys() == expected.state_dict().keys()
    assert all(torch.equal(values[name], one) for name, one in expected.state_dict().items())
    assert not {one.data_ptr() for one in found.parameters()} & {one.data_ptr() for one in module.parameters()}
