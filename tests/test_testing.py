"""What people need to test their own adapters: each assertion passes where it should and fails with a report."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.contracts.capturing import capture
from autoadapt.contracts.signature import Signature
from autoadapt.errors import AdaptError
from autoadapt.testing import (
    assert_adapts,
    assert_exports,
    assert_gradients_flow,
    assert_same_signature,
    assert_signature_locked,
    backbones,
    signatures,
)

pytest_plugins = ["pytester"]

X = torch.randn(2, 3, 16, 24)
OLD, NEW = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(3, 5, 2, stride=2)
QUICK = settings(derandomize=True, deadline=None, max_examples=12, database=None, suppress_health_check=[*HealthCheck])


def test_an_adapted_module_passes():
    assert_adapts(adapt(NEW, like=OLD, inputs=X), like=OLD, inputs=X, sizes=[{"H": 31, "W": 20}], batches=(1, 2))


def test_a_module_that_does_not_adapt_fails_with_the_report():
    with pytest.raises(AssertionError, match="DOES NOT keep its signature") as caught:
        assert_adapts(NEW, like=OLD, inputs=X)
    assert "expected" in str(caught.value)


def test_signatures_are_compared_with_every_difference_in_the_text():
    assert_same_signature(OLD, adapt(NEW, like=OLD, inputs=X), inputs=X)
    with pytest.raises(AssertionError) as caught:
        assert_same_signature(OLD, NEW, inputs=X)
    assert "Conv2d has not the signature of Conv2d\noutput, axis 1\n  expected  8\n  found     5" in str(caught.value)


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
    with pytest.raises(AssertionError, match=r"unused\.weight\n  expected  a finite gradient\n  found     none"):
        assert_gradients_flow(Unused(), X)
    with pytest.raises(AssertionError, match="not finite"):
        assert_gradients_flow(Unused(infinite=True), X)
    with pytest.raises(AssertionError, match="no output"):
        assert_gradients_flow(nn.Identity(), X)


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
    pytester.makeconftest('pytest_plugins = ["autoadapt.testing"]')
    pytester.makepyfile(
        """
        import torch
        from torch import nn

        def test_lock(signature_lock):
            signature_lock(nn.Conv2d(3, 8, 1), torch.zeros(1, 3, 4, 4))
        """
    )
    assert pytester.runpytest_inprocess("-p", "no:cacheprovider").ret == 1
    assert pytester.runpytest_inprocess("-p", "no:cacheprovider", "--update-signatures").ret == 0
    assert (pytester.path / "signatures" / "test_lock.json").exists()
    assert pytester.runpytest_inprocess("-p", "no:cacheprovider").ret == 0


@QUICK
@given(signatures())
def test_drawn_signatures_survive_json(signature):
    assert Signature.model_validate_json(signature.model_dump_json()) == signature


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
