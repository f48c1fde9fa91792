"""A few real runs say whether what was found without values is true."""

import contextvars
import copy
import itertools
import random
from collections import deque

import numpy as np
import pytest
import torch
from sleeping_threads import while_threads_sleep
from stateful_modules import (
    ByThread,
    Counts,
    CountsForReal,
    EverySecondForReal,
    EveryThird,
    Halves,
    KeepsItsFirstSize,
    LessAt224,
    NeedsTwo,
    Noise,
    NotFinite,
    OtherDtype,
    Quantised,
    RandomRows,
    RunsNoted,
    Sparse,
)
from tokens import Listed
from torch import nn
from unsteady_modules import (
    AddsItsLast,
    DrawsInVain,
    DropoutThatStaysOn,
    KeepsItsLast,
    OneThread,
    OnlyHere,
    PythonNoise,
    ScaledHere,
    ScaledInContext,
    scaled_by,
)

import autoadapt as aa
from autoadapt.contracts.capturing.devices import MOST_MULTIPLY_ADDS

X = torch.randn(4, 3, 64, 48, generator=torch.Generator().manual_seed(0))
HALVES = "f32[B, 4, floor(H/2), floor(W/2)]"


@pytest.mark.parametrize(
    ("module", "place", "kind", "remedy"),
    [(Sparse(), "pairs", "sparse_coo", ".to_dense()"), (Quantised(), "output", "quantized", ".dequantize()")],
)
def test_outputs_that_are_not_dense_are_refused_by_name(module, place, kind, remedy):
    with pytest.raises(aa.CaptureError) as caught:
        aa.capture(module, X)
    assert str(caught.value) == (
        f"{type(module).__name__} takes or returns tensors that are not dense\n{place}\n"
        f"  expected  a dense tensor (torch.strided)\n  found     {kind} storage\n  try       {remedy}"
    )
    with pytest.raises(aa.CaptureError, match="not dense"):
        aa.adapt(module, like=Halves(), inputs=X)


def test_inputs_that_are_not_dense_are_refused_by_name():
    with pytest.raises(aa.CaptureError, match=r"inputs\.input"):
        aa.capture(nn.Linear(4, 2), torch.eye(4).to_sparse())


def test_a_nested_output_is_refused_by_name():
    class Nested(nn.Module):
        def forward(self, x):
            return torch.nested.nested_tensor(list(x))

    with pytest.raises(aa.CaptureError, match="nested tensor"):
        aa.capture(Nested(), X)


def test_dtypes_are_those_of_a_real_run():
    assert str(aa.capture(OtherDtype(), X).outputs["output"]) == HALVES.replace("f32", "f64")


@pytest.mark.slow
@pytest.mark.parametrize("inputs", [X, None])
def test_a_half_precision_module_that_raises_at_its_first_call_is_refused(inputs):
    half = nn.Conv2d(3, 4, 2, 2, bias=False).half()
    like = Halves() if inputs is not None else aa.capture(Halves(), X)
    with pytest.raises(aa.CaptureError, match="Conv2d raises at the given input") as caught:
        aa.adapt(half, like=like, inputs=inputs)
    assert "module.to(torch.float32), or inputs of torch.float16" in str(caught.value)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", [EverySecondForReal, RandomRows, LessAt224])
@while_threads_sleep
def test_shapes_that_break_the_contract_in_a_real_run_are_refused(kind):
    random.seed(0)
    signature = aa.capture(kind(), X)
    (found,) = signature.contradictions
    assert found.path == "output"
    assert "in a real run" in found.found
    for new, old in ((kind(), Halves()), (Halves(), kind())):
        with pytest.raises(aa.PlanError, match=f"{kind.__name__} is not deterministic, or is another function"):
            aa.adapt(new, like=old, inputs=X)


def test_a_row_less_on_every_third_call_is_refused():
    with pytest.raises(aa.CaptureError, match="cannot be explained by the input"):
        aa.capture(EveryThird(), X)


def test_a_busy_machine_is_no_reason_to_run_less_often(monkeypatch):
    clock = itertools.count()
    monkeypatch.setattr("autoadapt.contracts.clocks.time.perf_counter", lambda: next(clock))
    assert "output at" in str(aa.capture(Counts(), X))


@pytest.mark.parametrize("kind", [Counts, CountsForReal, ByThread])
def test_values_that_differ_between_equal_runs_are_refused_unless_allowed(kind):
    signature = aa.capture(kind(), X)
    assert "output at" in str(signature)
    assert "other values, not equal values in two runs on one input" in str(signature)
    with pytest.raises(aa.PlanError) as caught:
        aa.adapt(Halves(), like=kind(), inputs=X)
    assert 'adapt(..., nondeterministic="allow")' in str(caught.value)
    net = aa.adapt(Halves(), like=kind(), inputs=X, nondeterministic="allow")
    assert net(X).shape == (4, 4, 32, 24)


def test_swap_refuses_them_too_unless_allowed():
    model = nn.Sequential(Counts(), nn.ReLU())
    with pytest.raises(aa.SwapError, match=r'swap\(\.\.\., nondeterministic="allow"\)'):
        aa.swap(model, "0", Halves(), inputs=X)
    aa.swap(model, "0", Halves(), inputs=X, nondeterministic="allow")
    assert isinstance(model[0], aa.AdaptedModule)


def test_a_run_that_raises_after_one_at_a_usual_size_contradicts_the_signature():
    (found,) = aa.capture(KeepsItsFirstSize(), X).contradictions
    assert (found.where, found.expected) == ("at 64 x 48", "outputs, as in the probes")
    assert found.found.startswith("RuntimeError: The size of tensor a (24)")


def test_values_that_are_not_finite_are_noted():
    signature = aa.capture(NotFinite(), X)
    assert signature.not_finite == ("output",)
    assert "not finite  output" in str(signature)
    assert aa.capture(Halves(), X).not_finite == ()
    assert aa.capture(Halves(), X / 0).not_finite == ()


@pytest.mark.parametrize("kind", [Noise, DropoutThatStaysOn, PythonNoise])
@while_threads_sleep
def test_outputs_that_random_numbers_make_others_are_told_by_name(kind):
    signature = aa.capture(kind(), X)
    assert (signature.drawn, signature.contradictions) == (("output",), ())
    assert "drawn  output: not deterministic, random numbers make other values in every run" in str(signature)
    said = f"{kind.__name__} is not deterministic: random numbers that it draws in eval mode make other values"
    assert aa.adapt(kind(), like=Halves(), inputs=X).plan.remarks == (
        f"{said} in every run (output), as in the adapted one",
    )
    assert aa.adapt(Halves(), like=kind(), inputs=X).plan.remarks == (f"{said} in every run (output)",)


@pytest.mark.parametrize("kind", [Halves, DrawsInVain])
def test_random_numbers_that_change_no_value_are_not_told(kind):
    assert aa.capture(kind(), X).drawn == ()
    assert aa.adapt(kind(), like=Halves(), inputs=X).plan.remarks == ()


@pytest.mark.parametrize("kind", [OneThread, ScaledHere])
def test_what_depends_on_the_thread_of_the_caller_is_refused_unless_allowed(kind):
    x = torch.rand(1, 3, 16, 16)
    with pytest.raises(aa.AdaptError, match="not deterministic"):
        aa.adapt(nn.Conv2d(3, 8, 2, 2), like=kind(), inputs=x)
    assert aa.adapt(nn.Conv2d(3, 8, 2, 2), like=kind(), inputs=x, nondeterministic="allow").plan


def test_what_runs_in_one_thread_alone_and_what_runs_under_settings_of_a_thread_are_no_contradictions():
    x = torch.rand(1, 3, 16, 16)
    assert not aa.capture(OnlyHere(), x).contradictions
    context = contextvars.copy_context()
    context.run(scaled_by, 2.0)
    assert not context.run(aa.capture, ScaledInContext(), x).contradictions
    with torch.autocast("cpu"):
        assert not aa.capture(nn.Conv2d(3, 8, 2, 2), x).contradictions


def test_a_module_that_adds_what_it_returned_before_is_refused():
    (found,) = aa.capture(AddsItsLast(), X).contradictions
    assert (found.where, found.found) == ("output at 64 x 48", "other values")
    with pytest.raises(aa.PlanError, match="AddsItsLast is not deterministic"):
        aa.adapt(AddsItsLast(), like=Halves(), inputs=X)


def test_a_module_that_only_keeps_what_it_returned_is_not_refused():
    assert aa.capture(KeepsItsLast(), X).contradictions == ()


def test_at_most_three_runs_with_one_sample_two_at_the_example_and_one_at_a_usual_size():
    RunsNoted.shapes.clear()
    aa.capture(RunsNoted(), X)
    assert [*RunsNoted.shapes] == [(1, 3, 64, 48), (1, 3, 224, 224), (1, 3, 64, 48)]
    RunsNoted.shapes.clear()
    aa.capture(RunsNoted(), X, confirm=False)
    assert [*RunsNoted.shapes] == []


def real_passes(module: nn.Module, layer: nn.Module, inputs: torch.Tensor) -> list[tuple[int, ...]]:
    """The shapes of what a layer of a module reads in passes for real while it is captured."""
    found = deque[tuple[int, ...]]()  # a list of sizes would be taken for a cache

    def note(_layer, args):
        if not args[0].is_meta:
            found.append(tuple(args[0].shape))

    hook = layer.register_forward_pre_hook(note)
    aa.capture(module, inputs, inner=True)
    hook.remove()
    return [*found]


@pytest.mark.parametrize(
    ("inputs", "sizes"),
    [
        (torch.randn(2, 3, 64, 48), [(5, 3, 224, 224), (1, 3, 64, 48), (1, 3, 64, 48)]),
        (torch.randn(2, 3, 224, 224), [(5, 3, 40, 40), (1, 3, 224, 224), (1, 3, 256, 256), (1, 3, 224, 224)]),
    ],
)
def test_the_run_that_tells_the_order_of_tokens_stands_for_one_at_a_larger_size(inputs, sizes):
    module = Listed("columns", before=1)
    assert real_passes(module, module.embed, inputs) == sizes
    assert aa.capture(module, inputs).outputs["output"].cells == "columns"


def test_at_most_three_passes_also_where_two_are_needed_to_read_tokens_of_one_size():
    module = Listed("rows", before=4, size=(48, 64))
    assert len(real_passes(module, module.embed, torch.randn(1, 3, 48, 64))) <= 3


def test_a_row_less_in_the_run_that_tells_the_order_of_tokens_is_noted():
    class LastDropped(Listed):
        def forward(self, x):
            tokens = super().forward(x)
            return tokens if x.is_meta or len(x) < 3 else tokens[:, :-1]

    (found,) = aa.capture(LastDropped(), torch.randn(4, 3, 64, 48)).contradictions
    assert (found.path, found.expected) == ("output", "[5, 48, 12]")
    assert found.found == "[5, 47, 12] in a real run"


def test_two_samples_where_one_is_refused():
    assert aa.capture(NeedsTwo(), X).contradictions == ()


def test_a_module_without_values_is_not_run_and_its_signature_says_so():
    signature = aa.capture(Halves().to("meta"), X)
    assert signature.unconfirmed == "its weights are on the meta device"
    assert "no real run  its weights are on the meta device" in str(signature)
    assert str(signature.outputs["output"]) == HALVES
    assert aa.capture(Halves(), X).unconfirmed == ""


def test_a_module_that_takes_too_long_at_the_example_is_run_at_a_smaller_size(monkeypatch):
    monkeypatch.setitem(MOST_MULTIPLY_ADDS, "cpu", 1e6)  # a pass takes 12 a pixel
    RunsNoted.shapes.clear()
    assert aa.capture(RunsNoted(), torch.empty(1, 3, 512, 512, device="meta")).unconfirmed == ""
    assert [*RunsNoted.shapes] == [(1, 3, 256, 256), (1, 3, 224, 224), (1, 3, 256, 256)]


def test_a_smaller_size_than_a_module_takes_does_not_speak_against_it(monkeypatch):
    class LargeAlone(nn.Conv2d):
        def forward(self, x):
            return super().forward(x if x.is_meta or x.shape[-1] >= 300 else x[..., :1, :1])

    monkeypatch.setitem(MOST_MULTIPLY_ADDS, "cpu", 1e6)
    signature = aa.capture(LargeAlone(3, 4, 2, 2), torch.empty(1, 3, 512, 512, device="meta"))
    assert signature.unconfirmed == "a pass takes 0 billion multiply-adds"


def test_a_module_that_takes_too_long_at_its_only_size_says_so():
    class Fixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(512, 512)

        def forward(self, x):
            assert x.shape[1:] == (200_000, 512)
            return self.layer(x)

    signature = aa.capture(Fixed(), torch.empty(1, 200_000, 512, device="meta"))
    assert signature.unconfirmed == "a pass takes 52 billion multiply-adds"


@while_threads_sleep
def test_the_module_and_the_random_generators_are_as_they_were():
    module = nn.Sequential(nn.Conv2d(3, 4, 2, 2), nn.BatchNorm2d(4), nn.Dropout())
    before = copy.deepcopy(module.state_dict())
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    aa.capture(module, X)
    found = torch.rand(1), random.random(), np.random.rand()
    torch.manual_seed(3)
    random.seed(3)
    np.random.seed(3)
    assert found == (torch.rand(1), random.random(), np.random.rand())
    assert module.training
    assert all(torch.equal(before[name], tensor) for name, tensor in module.state_dict().items())


def test_signatures_written_before_are_read(tmp_path):
    signature = aa.capture(Halves(), X)
    old = signature.model_dump(exclude={"unconfirmed", "contradictions", "not_finite"})
    assert aa.Signature.model_validate(old) == signature
    signature.save(tmp_path / "one.json")
    assert aa.Signature.load(tmp_path / "one.json") == signature


class Turned(nn.Module):
    def __init__(self, turn):
        super().__init__()
        self.layer, self.turn = nn.Conv2d(3, 4, 3), turn

    def forward(self, x):
        return self.turn(self.layer(x))


@pytest.mark.parametrize(
    ("turn", "said"),
    [
        (lambda y: y.flatten(1).to_sparse_csr(), "not dense"),
        (lambda y: y.to(torch.float8_e4m3fn), "float8_e4m3fn are not supported"),
        (lambda y: torch.masked.masked_tensor(y.detach(), y > 0), "not dense"),
    ],
    ids=["sparse_csr", "float8", "masked"],
)
@pytest.mark.filterwarnings("ignore:.*(beta|prototype):UserWarning")
def test_outputs_that_are_stored_otherwise_are_refused_by_name(turn, said):
    with pytest.raises(aa.AdaptError, match=said):
        aa.capture(Turned(turn), torch.rand(2, 3, 16, 16))
