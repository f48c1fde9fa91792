"""Reports on modules that were cast since they were built: each check is of the dtype that they have now."""

from __future__ import annotations

import copy

import pytest
import torch
from small_models import CastsItself, image
from torch import nn

import autoadapt as aa
from autoadapt.testing import mutants


def adapted(new: nn.Module | None = None):
    old = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.ReLU())
    return aa.adapt(new or nn.Conv2d(3, 5, 2, stride=2), like=old, inputs=image())


@pytest.mark.sampled(1)
@pytest.mark.parametrize(("dtype", "name"), [(torch.float64, "f64"), (torch.bfloat16, "bf16"), (torch.float16, "f16")])
def test_a_module_that_was_cast_is_verified_in_its_dtype_and_the_report_says_so(dtype, name):
    report = adapted().to(dtype).verify()
    assert report, str(report)
    assert report["dtype"].detail == f"cast from f32 to {name} since it was built; the rows below are of {name}"
    assert str(report).splitlines()[0] == f"Sequential in {name}: keeps its signature"
    assert {report[name].outcome for name in ("signature", "sizes", "gradients", "bfloat16", "float16")} == {"passed"}


def test_a_module_that_was_not_cast_has_no_row_of_it():
    assert "dtype" not in {check.name for check in adapted().verify().checks}


def test_inputs_of_the_dtype_before_the_cast_are_one_fault():
    report = adapted().half().verify(image())
    assert not report
    assert [(check.name, fault.where) for check in report.checks for fault in check.faults] == [
        ("dtype", "inputs.input")
    ]
    fault = report["dtype"].faults[0]
    assert (fault.expected, fault.found) == ("f16, to which the module was cast", "f32")
    assert fault.remedy == ".to(torch.float16)"
    assert {check.outcome for check in report.checks[1:]} == {"not run"}


def test_inputs_of_the_dtype_that_it_was_cast_to_are_taken():
    report = adapted().double().verify(image().double(), sizes=[{"H": 40, "W": 44}])
    assert report, str(report)
    assert "f64" in report["dtype"].detail


def test_a_module_that_casts_by_itself_was_not_cast():
    report = adapted(CastsItself()).verify()
    assert report, str(report)
    assert "dtype" not in {check.name for check in report.checks}


def test_of_a_broken_module_that_was_cast_the_fault_is_found():
    net = adapted().double()
    net.backbone.register_forward_hook(lambda module, given, returned: returned[..., :-1])
    report = net.verify()
    assert not report
    assert report["sizes"].outcome == "failed"


class Raising(nn.Module):
    """A step that does not run in training."""

    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        if self.training:
            raise ValueError("not in training")
        return self.inner(x)


def test_what_only_the_adapted_module_does_is_not_excused_by_a_backbone_of_another_dtype():
    """The bare backbone was run in the dtype before, where it raises whatever the module does."""
    net = adapted().double()
    net.adapters.output.project = Raising(net.adapters.output.project)
    assert net.verify()["train mode"].outcome == "failed"


class Widened(nn.Module):
    """Returns full precision whatever it is cast to, as some models do with their logits."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)

    def forward(self, x):
        return {"map": self.conv(x), "scores": self.conv(x).mean((2, 3)).float()}


def test_an_output_that_keeps_its_dtype_is_held_to_it_and_named():
    net = aa.adapt(Widened(), like=Widened(), inputs=image()).bfloat16()
    report = net.verify()
    assert report, str(report)
    assert report["dtype"].detail.endswith("the rows below are of bf16 but for `scores` (f32)")


class Words(nn.Module):
    """Takes numbers of words: no input tells the dtype."""

    def __init__(self, width):
        super().__init__()
        self.table = nn.Embedding(11, width)

    def forward(self, ids):
        return self.table(ids)


def test_a_module_of_words_that_was_cast_is_verified_in_its_dtype():
    ids = torch.arange(10).reshape(2, 5)
    net = aa.adapt(Words(6), like=Words(8), inputs=ids).bfloat16()
    report = net.verify(ids)
    assert report, str(report)
    assert "cast from f32 to bf16" in report["dtype"].detail


def test_the_contract_itself_stays_as_it_is():
    net = adapted().half()
    before = copy.deepcopy(net.signature)
    net.verify()
    assert net.signature == before
    assert next(net.parameters()).dtype is torch.float16


def test_a_module_on_the_meta_device_that_was_cast():
    report = adapted().to("meta").half().verify()
    assert report, str(report)
    assert "f16" in report["dtype"].detail


def test_as_many_kinds_of_fault_are_tried_on_a_module_that_was_cast():
    """Calls of the dtype before raise for module and mutant alike, so that thirteen kinds seemed to change nothing."""
    kinds = {mutant.kind for mutant in mutants(adapted())}
    assert len(kinds) > 10
    assert {mutant.kind for mutant in mutants(adapted().half())} == kinds


class Whole(nn.Module):
    """Reads a backbone by a batch norm, whose weights torch does not take in float16 under autocast to bfloat16."""

    def __init__(self):
        super().__init__()
        self.backbone, self.norm, self.head = nn.Conv2d(3, 8, 4, stride=4), nn.BatchNorm2d(8), nn.Linear(8, 5)

    def forward(self, x):
        return self.head(self.norm(self.backbone(x)).mean((2, 3)))


@pytest.mark.parametrize(("dtype", "name"), [(torch.float64, "f64"), (torch.bfloat16, "bf16"), (torch.float16, "f16")])
def test_a_whole_model_that_was_cast_since_its_swap_is_verified_in_its_dtype(dtype, name):
    contract = aa.capture(Whole().eval(), image())
    model = aa.swap(Whole(), "backbone", nn.Conv2d(3, 5, 2, stride=2), inputs=image()).to(dtype)
    report = aa.verify(model, contract)
    assert report, str(report)
    assert report["dtype"].detail == f"cast from f32 to {name} since it was built; the rows below are of {name}"
    assert report["autocast"].outcome == ("not applicable" if name == "f16" else "passed")
    assert "dtype" not in {check.name for check in aa.verify(model.float(), contract).checks}


def test_a_whole_model_of_which_nothing_was_swapped_is_nobodys_cast():
    model = Whole().eval()
    assert not aa.verify(model.double(), aa.capture(Whole().eval(), image()))
