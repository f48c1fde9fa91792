"""What a dry run has captured serves the swap that follows, and nothing else that has changed since."""

from __future__ import annotations

import gc
import random
import threading
import weakref
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import pytest
import torch
from region_models import PoseNet
from small_models import Pyramid, image
from torch import nn

import autoadapt as aa
from autoadapt.swapping.dry_runs import _KEPT

X = torch.randn(2, 3, 64, 48, generator=torch.Generator().manual_seed(0))


class Body(nn.Module):
    """A level at stride 4, and calls counted in a list that all copies share."""

    scale = 1.0

    def __init__(self, width: int = 8, channels: int = 3) -> None:
        super().__init__()
        self.layer = nn.Conv2d(channels, width, 4, 4)
        self.slope = 0.1
        self.options = {"add": [0.0]}
        self.layer.register_forward_pre_hook(partial(note, f"{width} wide"))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = nn.functional.leaky_relu(self.layer(x), self.slope)
        return made * self.scale + self.options["add"][0]


CALLS: list[str] = []


def note(name: str, _layer: nn.Module, _args: Any) -> None:
    """A hook that copies share."""
    CALLS.append(name)


def whole() -> nn.Module:
    """A model with a body of 8 channels."""
    return nn.Sequential(Body(8), nn.Conv2d(8, 2, 1))


def calls(run: Callable[[], object]) -> dict[str, int]:
    """How often bodies run, by their width."""
    CALLS.clear()
    run()
    return {name: CALLS.count(name) for name in ("8 wide", "5 wide")}


@cache
def without_dry_run() -> dict[str, int]:
    """How often bodies run in a swap of its own."""
    return calls(lambda: aa.swap(whole(), "0", Body(5), inputs=X))


def test_after_a_dry_run_neither_module_is_captured_again():
    model, new = whole(), Body(5)
    alone = without_dry_run()
    dry = calls(lambda: aa.swap(model, "0", new, inputs=X, dry_run=True))
    after = calls(lambda: aa.swap(model, "0", new, inputs=X))
    assert all(alone[name] <= dry[name] <= alone[name] + 10 for name in dry)  # a few more count what all costs
    assert after["8 wide"] <= alone["8 wide"] - 10
    assert after["5 wide"] <= alone["5 wide"] - 10
    assert new not in _KEPT


def test_the_swap_is_that_of_a_model_that_had_no_dry_run():
    model, new = whole(), Body(5)
    report = aa.swap(model, "0", new, inputs=X, dry_run=True)
    aa.swap(model, "0", new, inputs=X)
    assert report.costs
    assert model[0].swapped == report.model_copy(update={"costs": ()})
    assert model[0].plan == aa.swap(whole(), "0", Body(5), inputs=X)[0].plan
    model[0].verify(X).raise_if_failed()


def set_slope(model: nn.Module, new: nn.Module) -> None:
    """An attribute."""
    new.slope = 0.2


def set_option(model: nn.Module, new: nn.Module) -> None:
    """What stands in containers."""
    new.options["add"][0] = 1.0


def set_class(model: nn.Module, new: nn.Module) -> None:
    """An attribute of the class."""
    Body.scale = 2.0


def set_weight(model: nn.Module, new: nn.Module) -> None:
    """The values of a parameter."""
    with torch.no_grad():
        new.layer.weight.mul_(2)


def replace_weight(model: nn.Module, new: nn.Module) -> None:
    """Another parameter of the same shape."""
    new.layer.weight = nn.Parameter(torch.zeros_like(new.layer.weight))


def add_hook(model: nn.Module, new: nn.Module) -> None:
    """A hook."""
    new.register_forward_hook(lambda _module, _args, output: output + 1)


def patch_forward(model: nn.Module, new: nn.Module) -> None:
    """Another forward."""
    new.forward = lambda x: nn.functional.relu(new.layer(x))


def replace_layer(model: nn.Module, new: nn.Module) -> None:
    """Another layer in it."""
    new.layer = nn.Sequential(new.layer, nn.Identity())


def set_mode(model: nn.Module, new: nn.Module) -> None:
    """A mode."""
    new.layer.eval()


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    "change",
    [set_option, set_weight, add_hook, replace_layer, set_mode, set_slope, set_class, replace_weight, patch_forward],
)
def test_a_module_that_has_changed_is_captured_again(change):
    model, new = whole(), Body(5)
    alone = without_dry_run()
    aa.swap(model, "0", new, inputs=X, dry_run=True)
    try:
        change(model, new)
        after = calls(lambda: aa.swap(model, "0", new, inputs=X))
    finally:
        Body.scale = 1.0
    assert after["5 wide"] >= alone["5 wide"]


def test_an_old_module_that_has_changed_is_captured_again():
    model, new = whole(), Body(5)
    alone = without_dry_run()
    aa.swap(model, "0", new, inputs=X, dry_run=True)
    model[0].layer = nn.Conv2d(3, 8, 2, 2)
    model[0].layer.register_forward_pre_hook(partial(note, "8 wide"))
    after = calls(lambda: aa.swap(model, "0", new, inputs=X))
    assert after == alone
    assert str(model[0].signature.outputs["output"]) == "f32[B, 8, floor(H/2), floor(W/2)]"


@pytest.mark.sampled(1)
@pytest.mark.parametrize("inputs", [X + 1, X[:, :, :32], torch.cat([X, X])])
def test_other_inputs_are_captured_again(inputs):
    model, new = whole(), Body(5)
    aa.swap(model, "0", new, inputs=X, dry_run=True)
    assert calls(lambda: aa.swap(model, "0", new, inputs=inputs))["5 wide"] > 10


def test_equal_inputs_in_another_tensor_are_not():
    model, new = whole(), Body(5)
    dry = calls(lambda: aa.swap(model, "0", new, inputs=X, dry_run=True))
    assert calls(lambda: aa.swap(model, "0", new, inputs=X.clone()))["5 wide"] <= dry["5 wide"] - 10


def test_what_does_not_show_its_state_is_captured_again():
    model, new = whole(), Body(5)
    new.lock = threading.Lock()
    aa.swap(model, "0", new, inputs=X, dry_run=True)
    assert new not in _KEPT
    assert calls(lambda: aa.swap(model, "0", new, inputs=X))["5 wide"] == without_dry_run()["5 wide"]


def test_nothing_is_kept_of_modules_that_are_gone():
    model, new = whole(), Body(5)
    aa.swap(model, "0", new, inputs=X, dry_run=True)
    assert {id(model[0]), id(new)} <= {id(kept) for kept in _KEPT}
    gone = weakref.ref(model[0]), weakref.ref(new)
    del model, new
    gc.collect()
    assert [one() for one in gone] == [None, None]


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("path", "new"), [("conv1:layer3", Pyramid(6, 12, 20)), ("layer3", nn.Conv2d(16, 20, 3, 2, 1))]
)
def test_a_dry_run_draws_none_of_the_caller_s_random_numbers(path, new):
    model, x = PoseNet().train(), image()
    states = random.getstate(), torch.get_rng_state()
    assert aa.swap(model, path, new, inputs=x, dry_run=True).passed
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
