"""What people need to test their own adapters: each assertion passes where it should and fails with a report."""

from __future__ import annotations

import subprocess
import sys
import unittest
from importlib.metadata import entry_points

import pytest
import torch
from hypothesis import HealthCheck, find, given, settings, strategies as st
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.adapting.verification import verify
from autoadapt.contracts.capturing import capture
from autoadapt.contracts.signature import AxisSizes, Signature
from autoadapt.errors import AdaptError
from autoadapt.testing import (
    assert_adapts,
    assert_equals,
    assert_exports,
    assert_gradients_flow,
    assert_same_signature,
    assert_signature_locked,
    backbones,
    caught_by,
    inputs_of,
    mutants,
    signatures,
)

pytest_plugins = ["pytester"]

FOUND = entry_points(group="pytest11", name="autoadapt")
PLUGIN = () if FOUND else ("-p", "autoadapt.testing.pytest_plugin")
"""An editable install of before the entry point was there does not know it."""

X = torch.randn(2, 3, 16, 24)
OLD, NEW = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(3, 5, 2, stride=2)
QUICK = settings(derandomize=True, deadline=None, max_examples=12, database=None, suppress_health_check=[*HealthCheck])


def test_an_adapted_module_passes():
    assert_adapts(adapt(NEW, like=OLD, inputs=X), like=OLD, inputs=X, sizes=[{"H": 31, "W": 20}], batches=(1, 2))


def test_a_module_that_does_not_adapt_fails_with_the_report():
    with pytest.raises(AssertionError, match="does not keep the signature of Conv2d") as caught:
        assert_adapts(NEW, like=OLD, inputs=X)
    assert "expected" in str(caught.value)


def test_signatures_are_compared_with_every_difference_in_the_text():
    assert_same_signature(OLD, adapt(NEW, like=OLD, inputs=X), inputs=X)
    with pytest.raises(AssertionError) as caught:
        assert_same_signature(OLD, NEW, inputs=X)
    said = str(caught.value)
    assert "Conv2d does not have the signature of Conv2d\noutput, axis 1\n  expected  8\n  found     5" in said
    assert "try" not in said  # what is to be done is for signatures by hand


class Unused(nn.Module):
    def __init__(self, *, infinite: bool = False) -> None:
        super().__init__()
        self.used, self.unused, self.infinite = nn.Conv2d(3, 2, 1), nn.Linear(2, 2), infinite

    def forward(self, x):
        return self.used(x) * (float("inf") if self.infinite else 1)


def test_a_parameter_without_gradient_is_named_and_gradients_of_the_module_stay():
    layer = nn.Conv2d(3, 8, 1)
    assert_gradients_flow(layer, X)
    assert layer.weight.grad is None
    with pytest.raises(AssertionError, match=r"\neach line: parameter: its gradient\n  unused\.weight: none\n"):
        assert_gradients_flow(Unused(), X)
    with pytest.raises(AssertionError, match="not finite"):
        assert_gradients_flow(Unused(infinite=True), X)
    with pytest.raises(AssertionError, match="no output"):
        assert_gradients_flow(nn.Identity(), X)


class HalfDetached(nn.Sequential):
    """Of four layers, all but the last get no gradient."""

    def forward(self, x):
        return self[3](self[2](self[1](self[0](x))).detach())


def test_at_most_three_parameters_without_gradient_are_named():
    layers = [nn.Conv2d(3, 3, 1) for _ in range(4)]
    with pytest.raises(AssertionError) as caught:
        assert_gradients_flow(HalfDetached(*layers), X)
    summary, meaning, *lines = str(caught.value).splitlines()
    assert summary == "gradients do not flow through HalfDetached: 6 of 8 parameters"
    assert meaning == "each line: parameter: its gradient"
    assert lines == ["  0.weight: none", "  0.bias: none", "  1.weight: none", "  and 3 more"]


class Branching(nn.Module):
    def forward(self, x):
        return x + 1 if x.sum() > 0 else x


def test_export_is_asserted():
    large = torch.randn(2, 3, 96, 128)
    assert_exports(adapt(NEW, like=OLD, inputs=large), inputs=large)
    with pytest.raises(AssertionError, match="Branching does not export"):
        assert_exports(Branching(), inputs=X)


def test_a_lock_is_written_once_and_then_compared(tmp_path):
    path = tmp_path / "signatures" / "old.json"
    with pytest.raises(AssertionError, match="not locked yet") as caught:
        assert_signature_locked(OLD, path, X)
    assert "pytest --update-signatures" in str(caught.value)
    assert_signature_locked(OLD, path, X, update=True)
    assert_signature_locked(OLD, path, X)
    with pytest.raises(AssertionError, match="output, axis 1\n  expected  8\n  found     5"):
        assert_signature_locked(NEW, path, X)
    path.write_text("{}")
    with pytest.raises(AssertionError, match="holds no signature"):
        assert_signature_locked(OLD, path, X)


def test_the_plugin_brings_an_option_and_a_fixture(pytester):
    pytester.makepyfile(
        """
        import pytest
        import torch
        from torch import nn

        X = torch.zeros(1, 3, 4, 4)

        def test_lock(signature_lock):
            signature_lock(nn.Conv2d(3, 8, 1), X)
            signature_lock(nn.Conv2d(3, 4, 1), X, "named")
            signature_lock(nn.Conv2d(3, 2, 1), "in the other order", X)
            with pytest.raises(AssertionError, match="two signatures under the name 'named'"):
                signature_lock(nn.Conv2d(3, 4, 1), X, "named")

        class TestOther:
            @pytest.mark.parametrize("name", ["timm:test_resnet", "a/b"])
            def test_lock(self, signature_lock, name):
                signature_lock(nn.Conv2d(3, len(name), 1), X)
        """
    )
    assert pytester.runpytest_inprocess(*PLUGIN, "-p", "no:cacheprovider").ret == 1
    assert pytester.runpytest_inprocess(*PLUGIN, "-p", "no:cacheprovider", "--update-signatures").ret == 0
    assert (pytester.path / "signatures" / "test_the_plugin_brings_an_option_and_a_fixture.test_lock.json").exists()
    assert pytester.runpytest_inprocess(*PLUGIN, "-p", "no:cacheprovider").ret == 0


@QUICK
@given(signatures())
def test_drawn_signatures_survive_json(signature):
    assert Signature.model_validate_json(signature.model_dump_json()) == signature


@pytest.mark.slow
@QUICK
@given(backbones())
def test_drawn_backbones_are_captured(backbone):
    signature = capture(backbone, X)
    assert len(signature.outputs.leaves) == len(backbone.stages)


@QUICK
@given(backbones(levels=3), signatures(levels=2))
def test_a_drawn_backbone_adapts_to_a_drawn_signature_or_is_refused_with_a_reason(backbone, signature):
    net = adapted_or_refused(backbone, signature)
    if isinstance(net, AdaptError):
        assert net.mismatches
        return
    sizes = {"B": 3, "H": 64, "W": 96}
    returned = net(torch.randn(3, 3, 64, 96))
    leaves = returned.values() if isinstance(returned, dict) else returned
    assert [tuple(leaf.shape) for leaf in leaves] == [leaf.shape(sizes) for leaf in signature.outputs.leaves]


def adapted_or_refused(backbone, signature):
    try:
        return adapt(backbone, like=signature, inputs=X)
    except AdaptError as error:
        return error


# The failure text.


class Cut(nn.Module):
    """A hand-written adapter with a bug that shows at odd sizes only."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.project = nn.Conv2d(3, 5, 4, stride=4), nn.Conv2d(5, 8, 1)

    def forward(self, x):
        out = self.project(self.backbone(x))
        return out[..., :-1] if out.shape[-1] % 2 else out


def test_a_failure_says_what_the_numbers_mean_and_shows_three_cases_the_smallest_first():
    with pytest.raises(AssertionError) as caught:
        assert_adapts(Cut(), X, like=OLD)
    first, meaning, *cases = str(caught.value).splitlines()
    assert first.startswith("Cut does not keep the signature of Conv2d: ")
    assert "checks failed (" in first
    assert meaning.startswith("each line: check, output and axis")
    assert len([case for case in cases if ": expected " in case]) == 3
    assert cases[-1].endswith("more, which print(aa.verify(net, aa.capture(like, inputs), inputs=inputs)) shows")


def test_inputs_may_stand_behind_the_module_in_every_helper(tmp_path):
    net = adapt(NEW, like=OLD, inputs=X)
    assert_adapts(net, X, like=OLD)
    assert_same_signature(net, OLD, X)
    assert_gradients_flow(net, X)
    assert_signature_locked(net, tmp_path / "net.json", X, update=True)


def test_a_lock_by_name_stands_beside_the_file_that_calls(tmp_path):
    scope = {"assert_signature_locked": assert_signature_locked, "model": OLD, "x": X}
    code = compile("assert_signature_locked(model, 'old', x, update=True)", str(tmp_path / "test_mine.py"), "exec")
    exec(code, scope)
    assert (tmp_path / "signatures" / "old.json").exists()


def test_values_are_compared_with_a_reference():
    net = adapt(NEW, like=OLD, inputs=X)
    assert_equals(net, net, X)
    assert_equals(nn.Sequential(OLD), OLD, X)
    with pytest.raises(AssertionError, match="is not equal"):
        assert_equals(net, OLD, X)
    with pytest.raises(AssertionError, match="returns a tensor, and not list of 1"):
        assert_equals(OLD, Listed(OLD), X)


class Listed(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x):
        return [self.inner(x)]


# Mutants.


@pytest.fixture(scope="module")
def pyramid():
    texts = ["f32[B, 8, ceil(H/2), ceil(W/2)]", "f32[B, 8, ceil(H/4), ceil(W/4)]"]
    return adapt(nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 3, 2, 1)), like=texts, inputs=X)


@pytest.mark.slow
def test_verify_catches_every_mutant_by_the_check_that_is_named(pyramid):
    for mutant in mutants(pyramid):
        report = verify(mutant.module, pyramid.signature, inputs=X)
        failed = {check.name for check in report.checks if check.outcome == "failed"}
        assert mutant.check in failed, (mutant.kind, failed)
    assert pyramid.verify(X).passed


def test_a_test_of_ones_own_is_told_what_it_misses(pyramid):
    found = caught_by(lambda net: assert_shapes(net(X)), pyramid)
    assert not found
    assert {"cut at odd sizes", "no gradient", "items of a batch mixed"} <= set(found.missed)
    assert {"batch of one", "one container more"} <= set(found.caught)
    assert str(found).startswith(f"{len(found.caught)} of {len(found.caught) + len(found.missed)} kinds of fault")
    covered = {mutant.check for mutant in mutants(pyramid)}
    assert covered.isdisjoint(found.unasked)
    assert covered | set(found.unasked) == {check.name for check in pyramid.verify(X).checks}
    assert str(found).endswith(f" no mutant  for verify's {', '.join(found.unasked)}")
    with pytest.raises(AssertionError, match="fails for the module itself"):
        caught_by(lambda net: assert_shapes(None), pyramid)


@pytest.mark.slow
def test_an_adapter_that_is_asserted_to_adapt_misses_nothing(pyramid):
    assert caught_by(lambda net: assert_adapts(net, X, like=pyramid.signature), pyramid)


def assert_shapes(levels):
    assert [tuple(level.shape) for level in levels] == [(2, 8, 8, 12), (2, 8, 4, 6)]


@pytest.mark.parametrize("make", [lambda: nn.Conv2d(3, 8, 1), lambda: Listed(OLD), lambda: DictOf(OLD)])
def test_mutants_of_any_container_differ_from_the_module(make):
    kinds = [mutant.kind for mutant in mutants(make())]
    assert len(kinds) == len(set(kinds)) == 17


class DictOf(Listed):
    def forward(self, x):
        return {"c4": self.inner(x), "c5": self.inner(x).mean(1)}


# Strategies.


@QUICK
@given(st.data())
def test_drawn_inputs_are_legal(data):
    signature = data.draw(signatures(kinds=("images", "sequences", "points")))
    drawn = data.draw(inputs_of(signature))
    sizes = signature.axes["B"].example
    assert drawn.dim() == len(signature.inputs.leaves[0].dims)
    assert 1 <= drawn.shape[0] <= 3
    assert sizes


def test_a_failure_shrinks_to_the_smallest_size_that_fails():
    signature = capture(OLD, X)
    drawn = find(inputs_of(signature), lambda x: x.shape[3] % 4 == 3, settings=settings(database=None))
    assert tuple(drawn.shape) == (1, 3, signature.axes["H"].near(1), 7)


def test_only_legal_sizes_are_drawn():
    fixed = Signature.parse(
        "f32[B, 4]",
        inputs="f32[B, 3, H, W]",
        axes={"H": AxisSizes(step=32, example=64, smallest=32), "W": AxisSizes(step=0, example=48)},
    )

    @QUICK
    @given(inputs_of(fixed))
    def drawn(x):
        assert x.shape[2] % 32 == 0
        assert x.shape[3] == 48

    drawn()


def test_values_are_drawn_by_role_and_calls_in_the_form_that_inputs_takes():
    signature = capture(nn.Embedding(9, 4), torch.tensor([[1, 8]]))
    drawn = find(inputs_of(signature), lambda x: True, settings=settings(database=None))
    assert drawn.dtype == torch.int64
    assert int(drawn.max()) <= 1  # no other values are known to be legal
    seen = signature.model_copy(update={"value_ranges": {"input": (3, 8)}})
    assert int(find(inputs_of(seen), lambda x: True, settings=settings(database=None)).min()) >= 3
    two = Signature.parse("f32[B, 4]", inputs={"x": "f32[B, 4]", "mask": "bool[B, 4]"})
    x, mask = find(inputs_of(two), lambda call: True, settings=settings(database=None))
    assert (x.dtype, mask.dtype) == (torch.float32, torch.bool)
    by_name = two.model_copy(update={"positional": 0})
    assert set(find(inputs_of(by_name), lambda call: True, settings=settings(database=None))) == {"x", "mask"}


@QUICK
@given(backbones(kinds=("sequences", "points"), levels=2))
def test_drawn_backbones_of_sequences_and_points_are_captured(backbone):
    cloud = torch.randn(2, 24, 3)
    signature = capture(backbone, cloud)
    flags = {leaf.dtype for leaf in signature.outputs.leaves}
    assert flags <= {"f32", "bool"}


# Frameworks.


class InUnittest(unittest.TestCase):
    def test_it(self):
        assert_adapts(OLD, X, like=OLD)


@pytest.mark.slow
def test_the_helpers_need_neither_pytest_nor_hypothesis():
    code = (
        "import sys; sys.modules.update(pytest=None, hypothesis=None)\n"
        "import torch; from torch import nn; from autoadapt.testing import assert_adapts, mutants\n"
        "assert_adapts(nn.Conv2d(3, 8, 1), torch.zeros(2, 3, 8, 8), like=nn.Conv2d(3, 8, 1))"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_plugin_imports_no_torch():
    code = "import autoadapt.testing.pytest_plugin, sys; assert not {'torch', 'numpy', 'pydantic'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_plugin_can_be_switched_off(pytester):
    done = pytester.runpytest_inprocess("-p", "no:autoadapt", "-p", "no:cacheprovider", "--update-signatures")
    assert done.ret == pytest.ExitCode.USAGE_ERROR


class Scores(nn.Module):
    """A classifier, whose outputs have one size, and the class of each pixel, which has no gradient."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x).mean((2, 3))


PRECISION = ("full precision after a cast", "overflow in half precision", "other values under autocast")


class Classes(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.argmax(1)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("net", "left_out"),
    [
        (nn.Conv2d(3, 8, 4, stride=4), ()),
        (Scores(), ("cut at odd sizes", "size of the first call")),
        (Classes(), ("another answer each call", "no gradient", "not a number", *PRECISION)),
    ],
    ids=["convolution", "scores", "classes"],
)
def test_kinds_of_fault_that_change_nothing_about_a_module_are_left_out_and_said(net: nn.Module, left_out) -> None:
    x = torch.randn(1, 3, 32, 32)
    found = caught_by(lambda one: one(x), net, x)
    assert found.left_out == left_out
    assert {mutant.kind for mutant in mutants(net, x)} == {*found.caught, *found.missed}
    assert len(list(mutants(net, x))) + len(left_out) == len(list(mutants(net)))
    for kind in left_out:
        assert f" left out  {kind} (changes nothing here)" in str(found)
