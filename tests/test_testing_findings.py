"""What the helpers for adapters find and say: at sizes nobody gave, in which words, and with what to do."""

import pytest
import torch
from hypothesis import given, settings, strategies as st
from torch import nn

import autoadapt as aa
from autoadapt.contracts.signature import AxisSizes, Signature
from autoadapt.contracts.trees import flatten
from autoadapt.errors import Mismatch
from autoadapt.testing import (
    assert_adapts,
    assert_equals,
    assert_exports,
    assert_gradients_flow,
    assert_same_signature,
    backbones,
    inputs_of,
    mutants,
    signatures,
)
from autoadapt.testing.counterexamples import cases_text
from autoadapt.testing.strategies import _largest

X = torch.randn(2, 3, 32, 32)


class Old(nn.Module):
    """Two levels, in a dict."""

    def __init__(self):
        super().__init__()
        self.fine, self.coarse = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1)

    def forward(self, x):
        fine = self.fine(x)
        return {"c2": fine, "c3": self.coarse(fine)}


class Mine(Old):
    """An adapter by hand, which changes what it returns in some way."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, x):
        return self.change(super().forward(x), x)


def cut_if(wrong):
    """A change that loses a column of the last level."""
    return lambda out, x: {**out, "c3": out["c3"][..., :-1]} if wrong(x) else out


def said_of(change):
    with pytest.raises(AssertionError) as caught:
        assert_adapts(Mine(change), X, like=Old())
    return str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda x: len(x) >= 8,
        pytest.param(lambda x: len(x) == 4, marks=pytest.mark.slow),
        lambda x: x.shape[2] % 16 == 5,
        pytest.param(lambda x: x.shape[3] % 32 == 31, marks=pytest.mark.slow),
    ],
)
def test_faults_at_some_batches_or_remainders_alone_are_found(wrong):
    assert "sizes: c3 at " in said_of(cut_if(wrong))


def test_where_no_formula_holds_the_smallest_counterexample_is_told():
    said = said_of(cut_if(lambda x: x.shape[2] > 2 * x.shape[3]))
    assert "signature: c3 at 1x" in said
    assert "an exact function" not in said
    height = int(said.partition("signature: c3 at 1x")[2].partition("x")[0])
    assert height <= 33


@pytest.mark.sampled(1)
@pytest.mark.parametrize("largest", [32, 100])
def test_a_module_of_no_formula_has_not_the_signature_from_the_smallest_size_on(largest):
    mine = Mine(cut_if(lambda x: x.shape[2] > largest))
    with pytest.raises(AssertionError) as caught:
        assert_same_signature(Old(), mine, X)
    summary, _, case = str(caught.value).splitlines()
    assert summary == "Mine does not have the signature of Old"
    assert case.startswith(f"  signature: c3 at 1x{largest + 1}x")
    assert "formula" not in case


def test_facts_that_repeat_are_told_once_and_a_comma_stands_between_checks_alone():
    said = said_of(lambda out, x: (x.zero_(), out)[1])
    lines = said.splitlines()[2:5]
    assert len({line.partition(" at ")[2] for line in lines if line.startswith("  sizes: inputs.x at ")}) == 3
    twice = Mismatch("inputs.x", "its values", "others")
    told = cases_text("Mine differs", [("calls", twice), ("calls", twice)])
    assert told.splitlines()[2:] == ["  calls: inputs.x: expected its values, found others (2 times)"]
    assert "deepcopy and pickle" in said.splitlines()[0]  # a lambda cannot be pickled
    assert "deepcopy, pickle: deepcopy, pickle" not in said


def test_values_are_compared_at_other_sizes_too():
    shared = Mine(lambda out, x: {key: leaf + 1 for key, leaf in out.items()} if x.shape[2] % 2 else out)
    reference = Old()
    shared.load_state_dict(reference.state_dict())
    with pytest.raises(AssertionError, match=r"`c2` at 2x\d+x\d+ is not equal") as caught:
        assert_equals(shared, reference, X)
    assert "x32x32" not in str(caught.value).splitlines()[0]
    assert_equals(shared, reference, X, sizes=[])
    assert_equals(shared, reference, X, sizes=[{"H": 40}])
    with pytest.raises(AssertionError, match="`c2` at 2x41x32 is not equal"):
        assert_equals(shared, reference, X, sizes=[{"H": 41}])


def test_a_net_that_raises_where_its_reference_runs_is_none():
    class Picky(Old):
        def forward(self, x):
            if x.shape[2] % 2:
                raise ValueError("even heights alone")
            return super().forward(x)

    reference, picky = Old(), Picky()
    picky.load_state_dict(reference.state_dict())
    with pytest.raises(AssertionError, match=r"Picky raises at 2x\d+x\d+, where the reference runs: ValueError: even"):
        assert_equals(picky, reference, X)
    assert_equals(reference, picky, X)  # at sizes that the reference refuses there is nothing to compare with


@pytest.mark.parametrize(
    ("net", "text"),
    [
        (Old().requires_grad_(False), "every parameter of Old is frozen"),
        (Mine(lambda out, x: {k: v.detach() for k, v in out.items()}), "no output of Mine has a gradient"),
        (nn.Identity(), "no output of Identity depends on a parameter: it has none"),
    ],
)
def test_why_no_gradient_flows_is_told(net, text):
    with pytest.raises(AssertionError) as caught:
        assert_gradients_flow(net, X)
    assert text in str(caught.value)


def test_signatures_are_named_by_their_zoo_and_mutants_in_a_line():
    left = aa.capture(Old(), X).model_copy(update={"origin": "timm:resnet18"})
    with pytest.raises(AssertionError, match=r"Conv2d does not have the signature of timm:resnet18 \(Old\)"):
        assert_same_signature(left, nn.Conv2d(3, 4, 1), X)
    assert repr(next(mutants(Old()))) == "Mutant(kind='cut at odd sizes', check='sizes')"


def test_verify_of_a_module_in_place_of_a_signature_says_how_one_is_made():
    with pytest.raises(aa.VerificationError, match="`signature` is a module") as caught:
        aa.verify(Old(), Old(), inputs=X)
    assert "aa.verify(net, aa.capture(old, inputs), inputs=inputs)" in str(caught.value)


def test_a_number_that_follows_the_size_is_named_with_both_its_values():
    class Sized(nn.Module):
        def forward(self, x):
            return x, x.shape[2]

    with pytest.raises(aa.CaptureError, match="the outputs are not the same at every input size") as caught:
        aa.capture(Sized(), X)
    assert "\n1\n  expected  the same outputs at every size (32)\n  found     31, at" in str(caught.value)


class Branching(nn.Conv2d):
    """Chooses by values."""

    def forward(self, x):
        y = super().forward(x)
        if bool(y.sum() > 0):
            y = y + 1
        return y


def test_what_does_not_export_is_told_by_its_line_with_what_to_write_and_nothing_of_torch_is_printed(capfd):
    with pytest.raises(AssertionError) as caught:
        assert_exports(Branching(3, 4, 1), X)
    said = str(caught.value).splitlines()
    assert said[0] == "Branching does not export"
    assert said[1].startswith("test_testing_findings.py:")
    assert said[2:4] == [
        "  expected  code that depends on sizes, dtypes and settings alone",
        "  found     if bool(y.sum() > 0):",
    ]
    assert said[-1].startswith("  try       torch.where(condition, a, b), or torch.cond(...), in place of if")
    assert capfd.readouterr() == ("", "")


class WritesTheSame(nn.Conv2d):
    """Writes to its input, though no other values."""

    def forward(self, x):
        return super().forward(x.mul_(1.0))


def test_a_write_that_changes_no_value_is_found_at_the_smallest_sizes():
    with pytest.raises(AssertionError) as caught:
        assert_adapts(WritesTheSame(3, 4, 1), X, like=nn.Conv2d(3, 4, 1))
    first = str(caught.value).splitlines()[2]
    assert "expected the values that it had, found written to by the call" in first
    assert max(map(int, first.partition(" at ")[2].partition(":")[0].split("x"))) < 64


# Strategies.


class WrongWhereLarge(nn.Conv2d):
    """Cuts the last column of images of more than 100 rows."""

    def forward(self, x):
        return super().forward(x)[..., : -1 if x.shape[2] > 100 else None]


def test_a_fault_at_sizes_beyond_the_example_is_found_and_shrinks_to_the_smallest():
    signature = aa.capture(nn.Conv2d(3, 4, 1), torch.rand(1, 3, 64, 64))

    @settings(max_examples=15, deadline=None, database=None, derandomize=True, print_blob=False)
    @given(inputs_of(signature))
    def keeps_widths(x):
        assert WrongWhereLarge(3, 4, 1)(x).shape[3] == x.shape[3], tuple(x.shape)

    with pytest.raises(AssertionError, match=r"\(1, 3, 101, 1\)"):
        keeps_widths()


@pytest.mark.parametrize(
    ("text", "example", "asked", "largest"),
    [
        ("f32[B, 3, H, W]", {"H": 64, "W": 64}, None, {"H": 320, "W": 320}),
        ("f32[B, 3, H, W]", {"H": 224, "W": 224}, None, {"H": 448, "W": 448}),
        ("f32[B, 3, H, W]", {"H": 4096, "W": 4096}, None, {"H": 4096, "W": 4096}),
        ("f32[B, T, 3]", {"T": 512}, None, {"T": 2048}),
        ("f32[B, T, 3]", {"T": 512}, 600, {"T": 600}),
    ],
)
def test_sizes_are_drawn_up_to_several_times_the_example(text, example, asked, largest):
    axes = {name: AxisSizes(example=size) for name, size in example.items()}
    assert _largest(Signature.parse("f32[B, 4]", inputs=text, axes=axes), 3, asked) == largest


@pytest.mark.parametrize("asked", [{"batches": 0}, {"batches": "three"}, {"largest": -1}])
def test_inputs_that_cannot_be_drawn_are_refused_where_they_are_asked_for(asked):
    with pytest.raises(aa.SignatureError, match=f"`{next(iter(asked))}`"):
        inputs_of(aa.capture(nn.Conv2d(3, 4, 1), X), **asked)


@settings(max_examples=5, deadline=None, database=None, derandomize=True)
@given(st.data())
def test_masks_are_drawn_for_signatures_and_backbones(data):
    drawn = data.draw(signatures(kinds=("masks",)))
    assert Signature.model_validate_json(drawn.model_dump_json()) == drawn
    x, mask = data.draw(inputs_of(drawn, largest=24))
    assert mask.dtype == torch.bool
    assert mask.shape == x.shape[:2]
    assert bool(mask[:, 0].all())  # padding stands behind
    net = data.draw(backbones(kinds=("masks",), levels=2))
    hidden = torch.arange(24) >= 12
    calls = [torch.ones(1, 24, 3), torch.ones(1, 24, 3) + hidden[None, :, None]]
    kept = [flatten(net(x, ~hidden[None]))[1] for x in calls]
    assert all(map(torch.equal, *kept))
