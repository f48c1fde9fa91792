"""Graphs that were edited, as passes of torch.fx do, are what copies run, what is judged, and nothing that is lost."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import autoadapt as aa
from autoadapt.adapting.building import AdaptedModule, is_edited, with_plan


@pytest.fixture
def net() -> AdaptedModule:
    """Its outputs are the negatives of what its plan says."""
    made = aa.adapt(nn.Conv2d(3, 4, 2, 2), like=nn.Conv2d(3, 8, 2, 2), inputs=torch.zeros(1, 3, 8, 8))
    output = next(node for node in made.graph.nodes if node.op == "output")
    with made.graph.inserting_before(output):
        output.replace_input_with(output.args[0], made.graph.call_function(torch.neg, (output.args[0],)))
    made.recompile()
    return made


@pytest.mark.parametrize(
    "copied",
    [copy.copy, copy.deepcopy, lambda one: pickle.loads(pickle.dumps(one)), lambda one: copy.deepcopy(copy.copy(one))],
    ids=["copy", "deepcopy", "pickle", "twice"],
)
def test_a_copy_computes_what_the_module_computes(
    net: AdaptedModule, copied: Callable[[AdaptedModule], AdaptedModule]
) -> None:
    x = torch.randn(2, 3, 8, 8)
    made = copied(net)
    assert is_edited(made)
    assert made.code == net.code
    assert torch.equal(made(x), net(x))
    assert type(made).__name__ == "AdaptedModule"
    assert made.plan == net.plan


def test_what_was_not_edited_is_known_as_such_also_after_it_was_copied(net: AdaptedModule) -> None:
    plain = aa.build(net.backbone, net.plan)
    assert not is_edited(plain)
    assert not is_edited(copy.deepcopy(plain))
    assert is_edited(net)


def test_verify_judges_what_runs() -> None:
    old = nn.Sequential(nn.Conv2d(3, 8, 2, 2), nn.Sigmoid())
    made = aa.adapt(nn.Conv2d(3, 4, 2, 2), like=old, inputs=torch.zeros(1, 3, 8, 8))
    assert made.verify().passed
    last = next(node for node in made.graph.nodes if node.op == "output")
    with made.graph.inserting_before(last):
        last.replace_input_with(last.args[0], made.graph.call_function(torch.mul, (last.args[0], 3)))
    made.recompile()
    assert not made.verify().passed


def test_a_folder_would_lose_the_edit_and_is_refused(net: AdaptedModule, tmp_path: Path) -> None:
    with pytest.raises(aa.SavingError, match="an edited one"):
        aa.save(net, tmp_path / "net")
    assert not (tmp_path / "net").exists()
    with pytest.raises(aa.BuildError, match="edited"):
        with_plan(net, net.plan)


def test_sources_and_exports_have_the_edit(net: AdaptedModule, tmp_path: Path) -> None:
    assert "neg(" in aa.to_source(net)
    aa.export(net, tmp_path / "net.pt2")
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(torch.export.load(tmp_path / "net.pt2").module()(x), net(x))
