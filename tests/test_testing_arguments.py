"""What the helpers of `autoadapt.testing` are given: inputs that a run writes to, sizes that are none."""

from __future__ import annotations

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from torch import nn

from autoadapt.adapting import adapt
from autoadapt.adapting.verification import verify
from autoadapt.contracts.capturing import capture
from autoadapt.errors import AdaptError
from autoadapt.testing import (
    assert_adapts,
    assert_equals,
    assert_exports,
    assert_gradients_flow,
    assert_signature_locked,
    backbones,
    caught_by,
    inputs_of,
    mutants,
    signatures,
)

X = torch.randn(2, 3, 16, 24)
QUICK = settings(derandomize=True, deadline=None, max_examples=12, database=None, suppress_health_check=[*HealthCheck])
OLD, NEW = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(3, 5, 2, stride=2)


class Halving(nn.Module):
    """Writes to its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 1)

    def forward(self, x):
        return self.conv(x.mul_(0.5))


def test_what_one_run_writes_to_the_inputs_is_not_seen_by_the_next_nor_by_the_caller():
    reference, x = nn.Sequential(nn.ReLU(inplace=True), nn.Conv2d(3, 4, 1)), torch.randn(2, 3, 8, 8)
    kept = x.clone()
    with pytest.raises(AssertionError, match="`output` is not equal"):
        assert_equals(nn.Sequential(nn.Identity(), reference[1]), reference, x)
    with pytest.raises(AssertionError, match="`output` is not equal"):
        assert_equals(nn.ReLU(inplace=True), nn.Identity(), x)
    halving = Halving()
    assert_equals(halving, halving, x)
    assert_gradients_flow(halving, x)
    assert torch.equal(x, kept)


def test_gradients_reach_a_copy_of_the_callers_input():
    x = torch.randn(2, 3, 8, 8, requires_grad=True)
    assert_gradients_flow(nn.Conv2d(3, 8, 1), x)
    assert x.grad is None


class WrongAt404(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, 4)

    def forward(self, x):
        y = self.conv(x)
        return y[..., :-1] if y.shape[-1] == 101 else y


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"sizes": [{"w": 404}]}, r'an axis of the input: H, W\n  found     w\n  try       sizes=\[\{"W": 404\}\]'),
        ({"sizes": [{"width": 404}]}, "an axis of the input: H, W\n  found     width"),
        ({"sizes": [{"B": 2}]}, r"try       batches=\(2,\)"),
        ({"sizes": [{"W": 4.5}]}, "expected  any size\n  found     4.5"),
        ({"sizes": []}, r'try       sizes=\[\{"H": 16, "W": 24\}\]'),
        ({"sizes": [64, 65]}, "expected  sizes by axis, one mapping for each run"),
        ({"sizes": [(64, 65)]}, "expected  sizes by axis"),
        ({"sizes": {"W": 404}}, "expected  sizes by axis"),
        ({"batches": 2}, r"try       batches=\(2,\)"),
        ({"batches": (0,)}, "positive integers, at least one"),
        ({"batches": ()}, "positive integers, at least one"),
    ],
)
def test_sizes_that_name_nothing_are_refused_rather_than_passed(asked, text):
    with pytest.raises(AdaptError, match=text):
        assert_adapts(WrongAt404(), X, like=OLD, **asked)
    with pytest.raises(AdaptError, match=text):
        verify(OLD, capture(OLD, X), inputs=X, **asked)


def test_a_size_that_is_named_is_run():
    with pytest.raises(AssertionError, match="404"):
        assert_adapts(WrongAt404(), X, like=OLD, sizes=[{"W": 404}])


@pytest.mark.sampled(1)
@pytest.mark.parametrize("wrap", [str, lambda text: [text]], ids=["text", "list"])
def test_a_contract_in_texts_takes_the_inputs_of_the_module(wrap):
    contract = wrap("f32[B, 8, floor(H/4), floor(W/4)]")
    net = adapt(NEW, like=contract, inputs=X)
    assert_adapts(net, X, like=contract)
    with pytest.raises(AssertionError, match=r"expected \[1, 8, 3, 1\], found \[1, 5, 3, 1\]"):
        assert_adapts(adapt(NEW, like=wrap("f32[B, 5, floor(H/4), floor(W/4)]"), inputs=X), X, like=contract)


def test_one_tolerance_is_enough():
    near, far = nn.Conv2d(3, 8, 1), nn.Conv2d(3, 8, 1)
    near.load_state_dict({name: value * 1.001 for name, value in far.state_dict().items()})
    assert_equals(near, far, X, rtol=1e-2)
    assert_equals(near, far, X, atol=1e-2)
    with pytest.raises(AssertionError, match="is not equal"):
        assert_equals(near, far, X, rtol=1e-5)


class Returning(nn.Module):
    def __init__(self, made) -> None:
        super().__init__()
        self.made = made

    def forward(self, x):
        return self.made(x)


@pytest.mark.parametrize(
    ("expected", "found", "text"),
    [
        (lambda x: [x, None], lambda x: [x, x], "returns a tensor, and not None"),
        (lambda x: [x, 1], lambda x: [x, 2], "returns 2, and not 1"),
        (
            lambda x: {"a": x, "b": x},
            lambda x: {"b": x, "a": x},
            r"returns dict of 2 \(b, a\), and not dict of 2 \(a, b",
        ),
    ],
)
def test_containers_that_differ_are_told_by_what_differs(expected, found, text):
    with pytest.raises(AssertionError, match=text):
        assert_equals(Returning(found), Returning(expected), X)


def test_mutants_are_made_of_modules_and_tests_are_functions():
    with pytest.raises(AdaptError, match="`net` is a text"):
        caught_by(print, "timm:resnet18")
    for test in (3, OLD):
        with pytest.raises(AdaptError, match=r"`test` is no function(.|\n)*caught_by\(test, net\)"):
            caught_by(test, OLD)


def test_exports_are_told_by_at_most_three_cases_the_smallest_first():
    large = torch.randn(2, 3, 96, 128)
    with pytest.raises(AssertionError) as caught:
        assert_exports(OLD, large, like=NEW)
    lines = str(caught.value).splitlines()
    assert lines[1].startswith("each line: check, output")
    assert "adapt it again" not in str(caught.value)
    assert len([line for line in lines if line.startswith("  export: ")]) <= 3


class Renamed(nn.Module):
    """Takes by other names what `OLD` takes."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 8, 4, stride=4)

    def forward(self, image, mask=None):
        return self.conv(image)


def test_an_adapter_whose_arguments_have_other_names_is_exported():
    assert_exports(Renamed(), torch.randn(2, 3, 16, 24), like=OLD)


def test_a_lock_tells_scripts_how_it_is_written(tmp_path):
    with pytest.raises(AssertionError, match=r"assert_signature_locked\(\.\.\., update=True\) once"):
        assert_signature_locked(OLD, tmp_path / "old.json", X)
    assert_signature_locked(OLD, tmp_path / "old.json", X, update=True)
    with pytest.raises(AssertionError, match=r"update=True\) once") as caught:
        assert_signature_locked(nn.Conv2d(3, 8, 4, stride=3), tmp_path / "old.json", X)
    assert "try" not in str(caught.value)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: next(mutants(nn.Conv2d)), "`net` is a class"),
        (lambda: assert_equals(OLD, 3, X), "`reference` is of the wrong type"),
        (lambda: inputs_of(OLD), r"`signature` is a module(.|\n)*try       aa.capture\(signature, inputs\)"),
        (lambda: signatures(kinds=["image"]), r"found     'image'\n  try       kinds=\['images'\]"),
        (lambda: backbones(kinds=[]), "at least one of images, sequences, points"),
        (lambda: signatures(levels=0), "expected  at least 1"),
    ],
)
def test_what_the_helpers_cannot_take_is_refused(call, said):
    with pytest.raises(AdaptError, match=said):
        call()


class Gather(nn.Module):
    def forward(self, xyz, indices):
        return xyz.gather(1, indices[..., None].expand(-1, -1, 3))


def test_indices_are_drawn_and_verified_below_the_size_of_what_they_may_point_into():
    signature = capture(Gather(), (torch.rand(2, 64, 3), torch.randint(0, 64, (2, 16))))

    @QUICK
    @given(inputs_of(signature))
    def drawn(call):
        assert int(call[1].max()) < call[0].shape[1]

    drawn()
    for inputs in (None, (torch.rand(2, 64, 3), torch.full((2, 16), 63))):
        assert verify(Gather(), signature, inputs=inputs).passed
