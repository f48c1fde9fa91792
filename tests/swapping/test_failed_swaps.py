"""Every way in which a swap fails leaves the model as it was."""

from __future__ import annotations

import functools

import pytest
import torch
from snapshots import snapshot
from swapped_models import Body, New, Whole, X
from torch import nn

from autoadapt.errors import AdaptError, SwapError
from autoadapt.swapping import swap
from autoadapt.swapping.places import set_modules


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
        self.kept = functools.partial(self.body)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"out": self.head(self.kept(x)["c2"])}


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


@pytest.mark.sampled(1)
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
