"""Verification turns red for every planted fault, for the right reason, and stays green for what is sound."""

import itertools
import json
import threading
import time

import pytest
import torch
from made_once import made_once
from noisy_models import Noisy
from plan_kinds import KINDS, example, spoiled_plans
from planted_faults import FAULTS, asks_for_values, batch_baked_in
from point_clouds import READ, PointNet, PointTransformer, cloud
from small_models import Mixed, Plain, Pyramid, Tokens, image
from spoiled_modules import Spoiled, unchanged
from torch import nn

import autoadapt as aa


@made_once
def sound():
    return aa.adapt(Plain(), like=Mixed(), inputs=image())


def test_a_sound_module_passes_every_check_that_applies():
    report = sound().verify(image())
    assert report.passed
    assert report
    assert {check.name: check.outcome for check in report.checks if check.outcome != "passed"} == {
        "checkpointing": "not applicable",
        "compile": "not run",
        "export": "not run",
    }


def test_a_wrapper_that_changes_nothing_passes():
    net = sound()
    assert aa.verify(Spoiled(net, unchanged), net.signature, inputs=image()).passed


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_fails_its_check_and_says_why(name):
    fault, net = FAULTS[name], sound()
    report = aa.verify(fault.breaks(net), net.signature, inputs=image())
    assert not report.passed
    row = report[fault.check]
    assert row.outcome == "failed", report
    said = "\n".join(f"{one.where}: expected {one.expected}, found {one.found}" for one in row.faults)
    assert fault.says in said


def test_a_busy_machine_is_no_reason_to_leave_out_a_usual_size(monkeypatch):
    fault, net, clock = FAULTS["key lost at multiples of 32"], sound(), itertools.count(step=100)
    monkeypatch.setattr("autoadapt.contracts.clocks.time.perf_counter", lambda: next(clock))
    report = aa.verify(fault.breaks(net), net.signature, inputs=image())
    assert any(fault.says in one.where for one in report[fault.check].faults)


def test_at_least_eighty_different_faults_are_planted():
    assert len(FAULTS) >= 80


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", KINDS)
def test_a_plan_as_it_was_made_verifies(kind):
    made, net = example(kind)
    report = net.verify(made.inputs)
    assert report.passed, report


@pytest.mark.slow
@pytest.mark.parametrize("kind", sorted(KINDS, key="map to a vector".__ne__))  # few operations, so the first
def test_leaving_out_or_altering_any_operation_of_a_plan_turns_verification_red(kind):
    made, net = example(kind)
    spoiled = list(spoiled_plans(net.plan))
    assert spoiled
    for done, plan in spoiled:
        report = aa.verify(aa.build(made.new, plan), plan.target, inputs=made.inputs)
        assert not report.passed, done


def test_ten_kinds_of_plans_use_the_operations_that_change_tensors():
    used = {step.op for kind in KINDS for route in _routes(kind) for step in route.steps}
    assert len(KINDS) >= 10
    assert used >= {"drop", "rearrange", "mean", "pool", "resize", "project", "cast", "recover"}


def _routes(kind):
    plan = example(kind)[1].plan
    return (*plan.routes, *plan.inputs)


def test_columns_read_for_rows_are_found_although_every_shape_is_right():
    made, net = example("tokens to a map")
    plans = [plan for done, plan in spoiled_plans(net.plan) if done.endswith("as b (w h) c -> b c h w")]
    report = aa.verify(aa.build(made.new, plans[0]), plans[0].target, inputs=made.inputs)
    assert {check.name for check in report.checks if check.outcome == "failed"} == {"plan", "sizes"}
    assert report["plan"].faults[0].expected == "cells row by row"


class OtherPoints(nn.Module):
    """A sound point-cloud module whose indices are spoiled."""

    def __init__(self, net, spoil):
        super().__init__()
        self.net, self.spoil = net, spoil

    def forward(self, cloud, end_points):
        made = self.net(cloud, end_points)
        made["fp2_inds"] = self.spoil(made["fp2_inds"], cloud.shape[1])
        return made


def one_further(indices, count):
    return (indices + 1) % count


def one_based(indices, count):
    return indices + count


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "says"), [(one_further, "it does not hold"), (one_based, "10 to ")], ids=["wrong rows", "outside"]
)
def test_indices_that_do_not_take_the_coordinates_are_found(spoil, says):
    given = (cloud(), {})
    net = aa.adapt(PointTransformer(), like=PointNet(), inputs=given, outputs=READ)
    report = aa.verify(OtherPoints(net, spoil), net.signature, inputs=given)
    assert report["sizes"].outcome == "failed"
    assert report["sizes"].faults[0].where.startswith("fp2_inds at ")
    assert says in report["sizes"].faults[0].found
    assert report["signature"].outcome == "failed"


def test_a_backbone_that_is_another_than_the_plan_takes_it_to_be_is_found():
    net = sound()
    other = aa.build(Plain(), net.plan)
    other.backbone.body.stages[1][0].stride = (1, 1)
    report = other.verify(image())
    assert "source maps.0" in [fault.where for fault in report["sizes"].faults]


def test_what_the_bare_backbone_fails_as_well_is_not_applicable_and_says_so():
    class PooledNorm(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x):
            if self.training:
                raise RuntimeError("needs another batch in training")
            return self.body(x)

    new = PooledNorm()
    report = aa.adapt(new, like=nn.Conv2d(3, 6, 3, padding=1), inputs=image()).verify()
    assert report["train mode"].outcome == "not applicable"
    assert report["train mode"].detail == (
        "the bare backbone fails in train mode: RuntimeError: needs another batch in training"
    )
    assert report.passed


def test_parameters_that_the_backbone_itself_leaves_unused_are_counted_not_blamed():
    new = Plain()
    new.spare = nn.Parameter(torch.zeros(2))
    report = aa.adapt(new, like=Mixed(), inputs=image()).verify(image())
    assert report["gradients"].outcome == "passed"
    assert report["gradients"].detail == "1 parameters that the backbone itself does not use"


def test_frozen_modules_have_no_gradients_to_check():
    net = sound().requires_grad_(False)
    assert net.verify(image())["gradients"].outcome == "not applicable"


@pytest.mark.slow
def test_a_thorough_verification_compiles_and_exports():
    report = sound().verify(image(), thorough=True)
    assert report["compile"].outcome == "passed", report
    assert report["export"].outcome == "passed", report


class Endless(nn.Module):
    """Compiles and exports for ever, as far as anybody waits; does not pickle, so that it is no child's to run."""

    def __init__(self, net):
        super().__init__()
        self.net = net
        self.lock = threading.Lock()

    def forward(self, image):
        while torch.compiler.is_compiling():
            time.sleep(0.01)
        return self.net(image)


@pytest.mark.slow
def test_a_check_that_takes_too_long_in_this_process_is_stopped_and_says_so():
    net = sound()
    report = aa.verify(Endless(net), net.signature, inputs=image(), sizes=[{}], thorough=True, seconds=1)
    assert report["export"].outcome == "not run"
    stopped, here, why = report["export"].detail.split("; ")
    assert (stopped, here) == ("stopped after 1 s", "verify(..., seconds=)")
    assert why.startswith("in this process, without a limit of memory: it does not pickle: ")
    net.lock = threading.Lock()
    assert net.verify(image(), thorough=True)["export"].outcome == "passed"


@pytest.mark.slow
def test_code_that_depends_on_values_fails_to_compile_but_runs_otherwise():
    net = sound()
    report = aa.verify(Spoiled(net, asks_for_values), net.signature, inputs=image(), thorough=True)
    assert report["sizes"].outcome == "passed"
    assert report["compile"].outcome == "failed"
    assert report["export"].outcome == "failed"


@pytest.mark.slow
def test_an_exported_program_for_one_batch_only_is_found():
    net = sound()
    report = aa.verify(Spoiled(net, batch_baked_in), net.signature, inputs=image(), thorough=True)
    assert report["export"].outcome == "failed"


def test_verification_leaves_the_module_as_it_was():
    net = sound().train()
    state = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    torch.manual_seed(3)
    before = torch.get_rng_state()
    net.verify(image())
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(tensor, state[name]) for name, tensor in net.state_dict().items())
    assert all(module.training for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_sizes_given_by_the_caller_are_the_ones_that_run():
    net = sound()
    report = aa.verify(net, net.signature, sizes=[{"H": 33, "W": 49}, {"H": 50, "W": 34}], batches=[2])
    assert report["sizes"].detail == "2 sizes (33 x 49 .. 50 x 34) x batch 2"


def test_a_size_that_raises_is_named_with_what_was_raised():
    class Picky(nn.Module):
        def __init__(self, net):
            super().__init__()
            self.net = net

        def forward(self, image):
            if image.shape[2] == 33:
                raise ValueError("33 brings bad luck")
            return self.net(image)

    net = sound()
    report = aa.verify(Picky(net), net.signature, sizes=[{"H": 33, "W": 40}], batches=[2])
    assert [(fault.where, fault.found) for fault in report["sizes"].faults] == [
        ("2x33x40", "ValueError: 33 brings bad luck")
    ]


def test_the_report_reads_as_a_table_and_carries_its_faults():
    net = sound()
    report = aa.verify(FAULTS["float64"].breaks(net), net.signature, inputs=image())
    lines = str(report).splitlines()
    assert lines[0] == "Mixed: DOES NOT keep its signature"
    assert "   signature: 1.p2: expected f32, found f64" in lines
    with pytest.raises(aa.VerificationError, match="Mixed does not keep its signature") as caught:
        report.raise_if_failed()
    assert "signature: 1.p2" in str(caught.value)
    sound().verify(image()).raise_if_failed()


def test_a_report_is_data_and_comes_back_from_json():
    report = sound().verify(image())
    again = aa.Verification.model_validate(json.loads(report.model_dump_json()))
    assert again == report
    assert again.schema_version == 1


def test_a_report_without_a_passed_check_does_not_count_as_passed():
    report = sound().verify(image())
    skipped = report.model_copy(update={"checks": tuple(c for c in report.checks if c.outcome != "passed")})
    assert not skipped.passed


def test_a_leaf_of_another_dtype_than_the_parameters_keeps_it_when_the_module_is_cast():
    like = aa.Signature.parse("f64[B, 4, ceil(H/2), ceil(W/2)]", inputs="f32[B, 3, H, W]")
    assert aa.adapt(Pyramid(4), like=like, inputs=image()).verify()["bfloat16"].outcome == "passed"


def test_a_module_that_draws_numbers_is_compared_under_one_seed():
    report = aa.adapt(Noisy(4), like=Pyramid(6), inputs=image()).verify()
    assert report["deepcopy, pickle"].outcome == "passed", report


def test_tokens_are_verified_at_sizes_that_are_no_multiples_of_the_patch():
    net = aa.adapt(Tokens(), like=Pyramid(4, 8), inputs=image(2, 48, 64))
    report = aa.verify(net, net.signature, sizes=[{"H": 50, "W": 61}], inputs=image())
    assert report["sizes"].outcome == "passed", report


def drawn_during(work, numbers=3000):
    """What another thread draws from torch while some work is done, and again when it is done."""
    done, found = threading.Event(), []

    def draw():
        while not done.is_set() and len(found) < numbers:
            found.append(float(torch.rand(())))
            time.sleep(0.0002)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        work()
    finally:
        done.set()
        thread.join()
    return found


def test_a_thread_that_draws_numbers_gets_each_once_while_others_capture_and_verify():
    old, new = Noisy(6), Noisy(4)
    net = aa.adapt(new, like=old, inputs=image())

    def work():
        aa.plan(aa.capture(new, image(), inner=True), aa.capture(old, image()))
        aa.verify(net, net.signature, inputs=image())

    torch.manual_seed(11)
    found = drawn_during(work)
    torch.manual_seed(11)
    assert len(found) > 20
    assert found == [float(torch.rand(())) for _ in found]


def test_gradients_of_the_caller_stay_as_they_are():
    net = sound()
    layer = nn.Conv2d(3, 3, 1)
    given = image().requires_grad_()
    kept = net.backbone.body.stages[0][0].weight

    class Borrows(Spoiled):
        """Reaches a parameter that no copy takes along."""

        def forward(self, image):
            return super().forward(image + 0 * borrowed.weight.sum())

    borrowed = layer
    for parameter in (*net.parameters(), layer.weight):
        parameter.grad = torch.full_like(parameter, 7)
    aa.verify(Borrows(net, unchanged), net.signature, inputs=given)
    assert given.grad is None
    assert all(bool((parameter.grad == 7).all()) for parameter in (kept, layer.weight, *net.parameters()))
