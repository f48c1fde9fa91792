"""A swap takes over how the old module stood, serves what is read, and changes nothing when it fails."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from snapshots import snapshot
from torch import nn

from autoadapt.errors import AdaptError, SwapError
from autoadapt.swapping import swap
from autoadapt.swapping.containers import watched
from autoadapt.swapping.places import set_modules
from autoadapt.swapping.read_attributes import find_surface


class Body(nn.Module):
    """Two levels, and a few things that its consumers read off it."""

    def __init__(self, width: int = 8, *, extra: int = 3) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, stride=2, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, stride=2, padding=1)
        self.widths = [width, 2 * width]
        self.extra = extra

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        c1 = self.norm(self.conv1(x))
        return {"c1": c1, "c2": self.conv2(c1)}

    def deepest(self, x: torch.Tensor) -> torch.Tensor:
        """Only what is deepest."""
        return self(x)[f"c{len(self.widths)}"]

    def first_weight(self) -> torch.Tensor:
        """The weight of a part of its own."""
        return self.conv1.weight


class Whole(nn.Module):
    """A body and a head; `reads` says what else the head does with the body."""

    def __init__(self, reads: str = "") -> None:
        super().__init__()
        self.body = Body()
        self.head = nn.Conv2d(16, 2, 1)
        self.reads = reads

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        match self.reads:
            case "method":
                deep = self.body.deepest(x)
            case "attribute":
                deep = self.body(x)["c2"] * self.body.extra
            case "part":
                deep = self.body(x)["c2"] + self.body.conv1.weight.sum()
            case "weight by method":
                deep = self.body(x)["c2"] + self.body.first_weight().sum()
            case "both levels":
                levels = self.body(x)
                deep = levels["c2"] + levels["c1"].mean()
            case "twice":
                deep = self.body(x)["c2"] + self.body(x.flip(-1))["c2"]
            case "keys":
                deep = list(self.body(x).values())[-1]
                return {"out": self.head(deep), "seen": deep}
            case "all":
                levels = self.body(x)
                return {"out": self.head(levels["c2"]), "levels": levels}
            case _:
                deep = self.body(x)["c2"]
        return {"out": self.head(deep)}


class New(nn.Module):
    """Two levels of other widths, as a list."""

    def __init__(self, width: int = 5, *, strides: tuple[int, int] = (2, 2)) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, width, 3, stride=strides[0], padding=1)
        self.second = nn.Conv2d(width, 3 * width, 3, stride=strides[1], padding=1)

    def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
        shallow = self.first(image)
        return [shallow, self.second(shallow)]


X = torch.rand(2, 3, 24, 32)


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


# What stands there takes over how the old module stood.


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
    assert not any(p.requires_grad for p in model.body.parameters())
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


# Where modules stand.


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


# Every way to fail leaves the model as it was.


class Raising(Whole):
    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        deep = self.body(x)["c2"]
        if "adapters" in dict(self.body.named_children()):
            raise RuntimeError("the head does not like it")
        return {"out": self.head(deep)}


class Peeking(Whole):
    """Returns something else where the body is another."""

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        made = super().forward(x)
        return made if isinstance(self.body, Body) else {**made, "more": x}


class Holding(Whole):
    """Keeps a second reference where no path leads."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = [self.body]

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": self.head(self.kept[0](x)["c2"])}


class Fixed(nn.Module):
    """Returns integers only."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x[:, 0].long()


def error_in_new():
    class Broken(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise ValueError("broken")

    return Broken()


def nested():
    body = Body()
    return nn.Sequential(body, nn.Sequential(body))


FAILURES = {
    "misspelt path": (Whole, "bdy", New, {}, "there is no module at `bdy`"),
    "empty path": (Whole, "", New, {}, "the whole model cannot be swapped"),
    "pattern that matches nothing": (Whole, "bodies.*", New, {}, "there is no module"),
    "path of an unused module": (Whole, "head", New, {"inputs": lambda model: model.body(X)["c2"]}, "does not run"),
    "no source": (Whole, "body", Fixed, {}, "can serve `c2`"),
    "new raises": (Whole, "body", error_in_new, {}, "raises at the given input"),
    "whole raises at the inputs": (Whole, "body", New, {"inputs": torch.rand(2, 4, 8, 8)}, "raises at the given"),
    "inputs do not fit": (Whole, "body", New, {"inputs": (X, X)}, "inputs do not fit Whole"),
    "error in the consumer afterwards": (Raising, "body", New, {}, "the head does not like it"),
    "other outputs afterwards": (Peeking, "body", New, {}, "does not return what it did"),
    "a part that is read": (lambda: Whole("part"), "body", New, {}, "body.conv1"),
    "a method that cannot be served": (lambda: Whole("weight by method"), "body", New, {}, "through first_weight()"),
    "a reference out of reach": (Holding, "body", New, {}, "another reference|does not run"),
    "outputs that do not exist": (Whole, "body", New, {"outputs": ["c9"]}, "outputs names something"),
    "outputs that leave out what is read": (Whole, "body", New, {"outputs": ["c1"]}, "'c2'"),
    "pairs that do not exist": (Whole, "body", New, {"pairs": {"c2": "nowhere"}}, "pairs"),
    "too costly": (Whole, "body", New, {"max_parameters": 10}, "allow_cost=True"),
    "no such layer": (Whole, "head", lambda: "liner", {}, "linear"),
    "a layer that does not fit": (Whole, "head", lambda: "identity", {}, "cannot take the place"),
    "a layer for two outputs": (lambda: Whole("both levels"), "body", lambda: "linear", {}, "has 2"),
    "new is no module": (Whole, "body", lambda: 3, {}, "`new` is of the wrong type"),
    "shifted beyond repair": (Whole, "body", lambda: nn.Flatten(), {}, "serve"),
    "nested places": (nested, "*", New, {}, "cannot both be swapped"),
}


@pytest.mark.parametrize("name", FAILURES)
def test_a_failed_swap_changes_nothing(name):
    make, path, new, options, message = FAILURES[name]
    model = make()
    model.register_forward_hook(lambda *_: None)
    for part in list(model.children())[1:]:
        part.eval()
    before = snapshot(model)
    with pytest.raises(AdaptError, match=message) as caught:
        swap(model, path, new(), **{"inputs": X, **options})
    assert isinstance(caught.value, SwapError)
    assert caught.value.mismatches
    assert snapshot(model) == before
    report = swap(model, path, new(), **{"inputs": X, **options}, dry_run=True)
    assert not report
    assert "refused" in str(report)
    with pytest.raises(SwapError, match=message):
        report.raise_if_failed()


def test_a_new_module_that_is_the_whole_model_is_refused():
    model = Whole()
    before = snapshot(model)
    with pytest.raises(SwapError, match="stand inside itself"):
        swap(model, "body", model, inputs=X)
    assert snapshot(model) == before


def test_a_misspelt_path_gets_the_nearest():
    with pytest.raises(SwapError) as caught:
        swap(Whole(), "bdy", New(), inputs=X)
    assert str(caught.value) == (
        "there is no module at `bdy`\n"
        "  expected  a path in named_modules()\n"
        "  found     no module of that name; nearest: body, body.norm\n"
        '  try       swap(model, "body", ...)'
    )


def test_a_module_that_mixes_the_samples_of_a_batch_is_refused():
    class Centred(New):
        def forward(self, image: torch.Tensor) -> list[torch.Tensor]:
            return [level - level.mean(0) for level in super().forward(image)]

    model = Whole()
    before = snapshot(model)
    with pytest.raises(SwapError, match="mixes the samples of a batch"):
        swap(model, "body", Centred(), inputs=X)
    assert snapshot(model) == before


def test_all_places_are_set_or_none():
    class Stubborn(nn.Sequential):
        def register_module(self, name: str, module: nn.Module | None) -> None:
            if name == "1" and isinstance(module, nn.Linear):
                raise RuntimeError("not here")
            super().register_module(name, module)

    model = Stubborn(nn.ReLU(), nn.ReLU())
    before = snapshot(model)
    with pytest.raises(RuntimeError, match="not here"):
        set_modules(model, {"0": nn.Linear(2, 2), "1": nn.Linear(2, 2)})
    assert snapshot(model) == before


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
