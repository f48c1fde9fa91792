"""Graphs that were edited, as passes of torch.fx do, are what copies run, what is judged, and nothing that is lost."""

from __future__ import annotations

import copy
import pickle
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import autoadapt as aa
from autoadapt.adapting.building import AdaptedModule
from autoadapt.adapting.building.modules import is_edited


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


def test_sources_and_exports_have_the_edit(net: AdaptedModule, tmp_path: Path) -> None:
    assert "neg(" in aa.to_source(net)
    aa.export(net, tmp_path / "net.pt2")
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(torch.export.load(tmp_path / "net.pt2").module()(x), net(x))


def scaled(net, scale):
    """Its outputs times a tensor that it holds."""
    net.register_parameter("scale", scale) if isinstance(scale, nn.Parameter) else net.register_buffer("scale", scale)
    output = next(node for node in net.graph.nodes if node.op == "output")
    with net.graph.inserting_before(output):
        factor = net.graph.get_attr("scale")
        output.replace_input_with(output.args[0], net.graph.call_function(torch.mul, (output.args[0], factor)))
    net.recompile()
    return net


def plain():
    return aa.adapt(nn.Conv2d(3, 4, 2, 2), like=nn.Conv2d(3, 8, 2, 2), inputs=torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize("scale", [torch.tensor(5.0), nn.Parameter(torch.tensor(5.0))], ids=["buffer", "parameter"])
def test_a_graph_that_reads_tensors_of_the_module_is_copied_with_them(scale):
    net, x = scaled(plain(), scale), torch.randn(2, 3, 8, 8)
    for made in (copy.copy(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(made(x), net(x))
    assert {check.name: check.outcome for check in net.verify().checks}["deepcopy, pickle"] == "passed"


def with_activation(net):
    layers = net.adapters.output
    net.adapters.output = nn.Sequential(OrderedDict(project=layers.project, act=nn.Sigmoid()))
    return net


def with_child(net):
    net.add_module("extra", nn.PReLU())
    return net


def with_wide_layer(net):
    net.adapters.output.project = nn.Conv2d(4, 8, 1, padding=1)
    return net


@pytest.mark.parametrize("edit", [with_activation, with_child, with_wide_layer, lambda net: scaled(net, torch.ones(1))])
def test_what_the_plan_does_not_say_is_refused_where_the_plan_is_all_that_counts(edit, tmp_path):
    old = nn.Conv2d(3, 8, 2, 2)
    net = edit(plain())
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(aa.SavingError):
        aa.save(net, tmp_path / "net", check=False)
    with pytest.raises(aa.SavingError):
        aa.to_source(net)
    with pytest.raises(aa.CalibrationError, match="no longer what its plan says"):
        aa.calibrate(net, like=old, data=[torch.randn(8, 3, 8, 8)])
    with pytest.raises(aa.BuildError, match="no longer what its plan says"):
        aa.fold(nn.Sequential(net, nn.Conv2d(8, 2, 1)), at="0", inputs=torch.randn(1, 3, 8, 8))
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
    assert not (tmp_path / "net").exists()


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "computed",
    [
        torch.nn.utils.parametrizations.weight_norm,
        torch.nn.utils.parametrizations.spectral_norm,
        lambda layer: prune.l1_unstructured(layer, "weight", 0.3),
    ],
    ids=["weight norm", "spectral norm", "pruning"],
)
def test_layers_whose_weights_are_computed_keep_the_signature_and_what_torch_does_not_copy_is_said(computed):
    net = plain()
    computed(net.adapters.output.project)
    report = net.verify()
    report.raise_if_failed()
    checks = {check.name: check for check in report.checks}
    assert checks["centres"].outcome == "passed"
    copied = checks["deepcopy, pickle"]
    assert copied.outcome == "not applicable"
    assert "torch does not copy adapters.output.project by itself" in copied.detail


def test_a_module_compiled_in_place_is_copied_uncompiled_as_those_of_torch_are():
    net, x = plain(), torch.randn(2, 3, 8, 8)
    net.compile(backend="eager")
    net.verify().raise_if_failed()
    for made in (copy.copy(net), copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(made(x), net(x))
