"""A swap takes over how the old module stood, and serves what is read."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from snapshots import snapshot
from swapped_models import New, Whole, X
from torch import nn

from autoadapt.errors import SwapError
from autoadapt.swapping import swap
from autoadapt.swapping.containers import watched
from autoadapt.swapping.read_attributes import find_surface


@pytest.mark.sampled(1)
@pytest.mark.parametrize("reads", ["", "method", "attribute", "both levels", "twice", "keys", "all"])
def test_the_whole_returns_what_it_did_at_other_sizes_too(reads):
    model = Whole(reads)
    head = model.head
    swap(model, "body", New(), inputs=X)
    assert model.head is head
    assert model(torch.rand(3, 3, 41, 30))["out"].shape == (3, 2, 11, 8)


def test_only_what_is_read_is_served():
    model = swap(Whole(), "body", New(), inputs=X)
    part = model.body.swapped.parts[0]
    assert (part.read, part.free, part.left_out) == (("c2",), (), ("c1",))
    assert list(model.body(X)) == ["c2"]
    assert part.generated == 15 * 16 + 16


def test_what_only_escapes_is_served_where_that_takes_no_layer():
    free = swap(Whole("all"), "body", New(width=8), inputs=X).body.swapped.parts[0]
    assert (free.free, free.left_out) == (("c1",), ())
    costly = swap(Whole("all"), "body", New(width=5), inputs=X)
    assert costly.body.swapped.parts[0].left_out == ("c1",)
    assert list(costly(X)["levels"]) == ["c2"]


class Levels(nn.Module):
    """Two levels, the first at a stride of 2 or 4."""

    def __init__(self, stride):
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3, stride, 1), nn.Conv2d(8, 8, 3, 2, 1)

    def forward(self, x):
        first = self.first(x).relu()
        return first, self.second(first)


class Unpacking(nn.Module):
    """Returns the first level as it is, beside what its head makes of the second."""

    def __init__(self):
        super().__init__()
        self.levels, self.head = Levels(2), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        first, second = self.levels(x)
        return self.head(second), first


def test_what_the_whole_returns_is_served_where_that_takes_no_parameters():
    model = swap(Unpacking().eval(), "levels", Levels(4), inputs=X)
    assert model.levels.swapped.parts[0].left_out == ()
    assert [tuple(one.shape) for one in model(X)] == [tuple(one.shape) for one in Unpacking()(X)]


def test_a_check_tells_what_the_whole_no_longer_returns():
    model = swap(Whole("all"), "body", New(width=5), inputs=X)
    detail = model.body.swapped.checks[0].detail
    assert detail == "the model's outputs are as before, but for levels.c1 (left out: outputs=[...] serves it)"


def test_outputs_can_be_named_outright():
    model = swap(Whole(), "body", New(), inputs=X, outputs=["c1", "c2"])
    assert list(model.body(X)) == ["c1", "c2"]


def test_iteration_reads_what_then_goes_into_tensor_code():
    assert swap(Whole("keys"), "body", New(), inputs=X).body.swapped.parts[0].read == ("c2",)


def test_attributes_and_methods_are_found_by_watching_and_served():
    model = swap(Whole("method"), "body", New(), inputs=X)
    assert model.body.swapped.parts[0].says == ("deepest()", "widths")
    assert swap(Whole("attribute"), "body", New(), inputs=X).body.extra == 3


def test_calls_are_counted():
    assert swap(Whole("twice"), "body", New(), inputs=X).body.swapped.parts[0].calls == 2


def test_a_training_step_says_what_a_loss_reads():
    def step(model):
        levels = model.body(X)
        model(X)
        levels["c1"].square().mean().backward()

    model = swap(Whole(), "body", New(), inputs=step)
    assert list(model.body(X)) == ["c1", "c2"]
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_dry_run_changes_nothing_and_gives_the_call():
    model = Whole()
    before = snapshot(model)
    report = swap(model, "body", New(), inputs=X, dry_run=True)
    assert report.passed
    assert report.call == 'model = aa.swap(model, "body", new, inputs=inputs)'
    assert "runs in train mode  passed" in str(report)
    assert snapshot(model) == before
    assert type(report).model_validate_json(report.model_dump_json()) == report


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_is_taken_over(training):
    model = Whole().train(training)
    swap(model, "body", New().train(not training), inputs=X)
    assert {module.training for module in model.body.modules()} == {training}


def test_dtype_and_gradient_pattern_are_taken_over():
    model = Whole().double()
    model.body.requires_grad_(False)
    new = New()
    swap(model, "body", new, inputs=X.double())
    assert {p.dtype for p in model.body.parameters()} == {torch.float64}
    assert not any(p.requires_grad for p in model.body.backbone.parameters())
    assert {p.dtype for p in new.parameters()} == {torch.float32}
    assert all(p.requires_grad for p in new.parameters())


def test_norms_that_are_kept_in_eval_mode_stay_so():
    model = Whole()
    model.body.norm.eval()
    swap(model, "body", nn.Sequential(nn.BatchNorm2d(3), New()), inputs=X)
    assert [m.training for m in model.body.modules() if isinstance(m, nn.BatchNorm2d)] == [False]
    assert model.body.training


def test_a_module_in_eval_mode_but_for_some_parts_keeps_the_rest_so_in_a_trained_place():
    model, new = Whole(), nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3), New()).eval()
    new[1].train()
    swap(model, "body", new, inputs=X)
    norms = [m.training for m in model.body.modules() if isinstance(m, nn.BatchNorm2d)]
    assert (model.body.training, norms) == (True, [False, True])


def test_the_memory_format_is_taken_over():
    model = Whole().to(memory_format=torch.channels_last)
    swap(model, "body", New(), inputs=X)
    assert model.body.backbone.second.weight.is_contiguous(memory_format=torch.channels_last)


def test_weights_are_shared_with_the_new_module_unless_told_otherwise():
    new = New()
    model = swap(Whole(), "body", new, inputs=X)
    assert model.body.backbone.first.weight.data_ptr() == new.first.weight.data_ptr()
    model = swap(Whole(), "body", new, inputs=X, share=False)
    assert model.body.backbone.first.weight.data_ptr() != new.first.weight.data_ptr()


def test_a_shared_submodule_is_replaced_everywhere():
    layer = nn.Conv2d(4, 4, 1)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), layer, nn.ReLU(), layer)
    report = swap(model, "1", nn.Conv2d(4, 2, 1), inputs=X, dry_run=True)
    assert (report.parts[0].also_at, report.parts[0].calls) == (("3",), 2)
    swap(model, "1", nn.Conv2d(4, 2, 1), inputs=X)
    assert model[1] is model[3] is not layer


def test_an_item_of_a_list_is_replaced_in_its_place():
    model = nn.Sequential(OrderedDict(stem=nn.Conv2d(3, 4, 1), layers=nn.Sequential(nn.ReLU(), nn.Conv2d(4, 4, 3))))
    swap(model, "layers.1", nn.Conv2d(4, 6, 3), inputs=X)
    assert [name for name, _ in model.layers.named_children()] == ["0", "1"]
    assert model(X).shape == (2, 4, 22, 30)


def test_a_wrapper_around_the_old_module_takes_its_place_without_recursing():
    class Around(nn.Module):
        def __init__(self, inner: nn.Module) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {name: 2 * level for name, level in self.inner(x).items()}

    model = Whole().eval()
    before = model.body(X)["c2"]
    swap(model, "body", Around(model.body), inputs=X)
    assert torch.equal(model.body(X)["c2"], 2 * before)
    assert model.body.swapped.parts[0].generated == 0


def test_modules_at_several_places_have_weights_of_their_own():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 1), nn.Conv2d(4, 4, 1))
    with pytest.warns(UserWarning, match="run one after the other, and each is replaced alone"):
        swap(model, "[12]", nn.Conv2d(4, 2, 1), inputs=X)
    assert model[1].backbone.weight.data_ptr() != model[2].backbone.weight.data_ptr()


@pytest.mark.parametrize(
    ("kind", "layer", "count"),
    [
        ("conv1x1", nn.Conv2d(4, 6, 3, padding=1), 4 * 6 + 6),
        ("mlp", nn.Conv2d(4, 6, 1), 4 * 16 + 16 + 16 * 6 + 6),
        ("channel_linear", nn.Conv2d(4, 6, 1, bias=False), 4 * 6 + 6),
        ("identity", nn.Conv2d(4, 4, 3, padding=1), 0),
        ("linear", nn.Conv2d(4, 6, 3, stride=2, padding=1), (4 * 6 * 4) * (6 * 3 * 2) + 6 * 3 * 2),
        ("conv1x1", nn.Conv2d(4, 6, 3, stride=2, padding=1), 4 * 6 + 6),
    ],
)
def test_generated_layers_keep_the_shape_and_tell_their_cost(kind, layer, count):
    model = nn.Sequential(nn.Conv2d(3, 4, 4, stride=4), layer, nn.Flatten(), nn.LazyLinear(2))
    x = X[..., :16]
    shape = model[:2](x).shape
    model(x)
    swap(model, "1", kind, inputs=x, allow_cost=True)
    assert model[1].swapped.parts[0].generated == count
    assert model[1].swapped.parts[0].generated == sum(p.numel() for p in model[1].parameters())
    assert model[:2](torch.cat([x, x])).shape == (2 * shape[0], *shape[1:])


def test_a_generated_layer_far_larger_than_the_old_one_asks_for_consent_below_the_general_limit():
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Flatten())
    with pytest.raises(SwapError, match="at most 160 generated parameters"):
        swap(model, "0", "linear", inputs=torch.rand(2, 3, 4, 4))
    swap(model, "0", "linear", inputs=torch.rand(2, 3, 4, 4), max_parameters=10_000)
    assert model(torch.rand(5, 3, 4, 4)).shape == (5, 64)


def test_a_key_that_the_consumer_wrote_itself_is_no_look_up():
    seen = []
    levels = watched({"c1": torch.zeros(1), "c2": torch.zeros(1)}, seen.append)
    levels["c1"] = torch.ones(1)
    assert (levels["c1"], levels["c2"], seen) == (torch.ones(1), torch.zeros(1), [("c2",)])


def test_weights_kept_in_a_list_are_refused_by_name():
    layer = nn.Linear(2, 2)
    layer.kept = [torch.zeros(2)]
    surface, faults = find_surface(layer, ["kept"], {}, "layer")
    assert not surface.names
    assert [(fault.where, fault.why) for fault in faults] == [("layer.kept", "it holds weights of the old module")]


class Skipping(nn.Module):
    """Blocks of which the last is skipped in train mode, as stochastic depth may do with any."""

    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 4, 4)
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(8, 8, 1), nn.Conv2d(8, 8, 1)) for _ in range(2))
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks[: 1 if self.training else 2]:
            x = x + block(x)
        return self.head(x.mean((2, 3)))


def test_what_runs_but_does_not_train_is_refused_before_it_is_set():
    model = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.Conv2d(6, 2, 1)).eval()
    before = snapshot(model)
    with pytest.raises(SwapError, match="the new module at `0` does not train") as caught:
        swap(model, "0", Skipping(), inputs=torch.rand(2, 3, 16, 16), taps={"output": "blocks.1.1"})
    assert "0: blocks.1.1\n  expected  1 calls\n  found     0 calls" in str(caught.value)
    assert snapshot(model) == before


def test_a_small_step_of_training_is_among_what_a_swap_has_checked():
    model = nn.Sequential(nn.Conv2d(3, 6, 4, 4), nn.Conv2d(6, 2, 1))
    swapped = swap(model, "0", Skipping(), inputs=torch.rand(2, 3, 16, 16), taps={"output": "stem"})[0].swapped
    checks = {check.name: (check.outcome, check.detail) for check in swapped.checks}
    assert checks["training step"] == ("passed", "forward and backward, with gradients")
