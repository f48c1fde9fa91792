"""Taps whose tensors the rest of a module writes over: values and gradients of the moment they were made."""

from __future__ import annotations

import copy
import pickle
import runpy

import pytest
import torch
from torch import nn

import autoadapt as aa
from autoadapt.contracts.leaves import READ
from autoadapt.contracts.tapping import hand_on_copies, overwritten, tap


class Block(nn.Module):
    """A block with a shortcut; `follower` and the sum write over what they are given."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(inside, outside, 3, 2, 1), nn.BatchNorm2d(outside))
        self.follower = nn.ReLU(inplace=True)
        self.rest = nn.Sequential(nn.Conv2d(outside, outside, 3, 1, 1), nn.BatchNorm2d(outside))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.first(x)
        out = self.rest(self.follower(made))
        out += made
        return out


class Overwriting(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), nn.BatchNorm2d(4))
        self.over = nn.ReLU(inplace=True)
        self.two = Block(4, 6)
        self.head = nn.Linear(6, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.two(self.over(self.one(x))).mean((2, 3)))


class Pyramid(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.one = nn.Conv2d(3, 4, 3, 2, 1)
        self.two = nn.Conv2d(4, 6, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        fine = self.one(x)
        return [fine, self.two(fine)]


TAPS = [("one", "two.first"), ("over", "two.rest"), ("one", "two"), ("one.1", "two.first.1"), ("one.0", "two.first.0")]


def at_the_moment(new: nn.Module, paths: tuple[str, ...], x: torch.Tensor) -> list[torch.Tensor]:
    """What inner modules return, copied before anything else runs."""
    new, taken = copy.deepcopy(new), {}
    for path in paths:
        new.get_submodule(path).register_forward_hook(lambda _m, _a, out, path=path: taken.update({path: out.clone()}))
    new(x)
    return [taken[path] for path in paths]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("paths", TAPS)
def test_a_tap_gives_the_value_of_its_module_whatever_writes_over_it_later(paths):
    new, x = Overwriting().eval(), torch.randn(2, 3, 32, 32)
    net = aa.adapt(new, like=Pyramid(), inputs=x, taps=dict(zip("01", paths, strict=True)))
    for twin in (net, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        for made, expected in zip(twin(x), at_the_moment(new, paths, x), strict=True):
            torch.testing.assert_close(made, expected, rtol=0, atol=0)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("paths", TAPS)
def test_gradients_pass_through_taps_that_are_written_over_later(paths):
    new, x = Overwriting().train(), torch.randn(2, 3, 32, 32)
    net = aa.adapt(new, like=Pyramid().train(), inputs=x, taps=dict(zip("01", paths, strict=True)))
    sum(level.square().mean() for level in net(x)).backward()
    assert all(p.grad is not None for p in net.parameters() if p.requires_grad)
    assert net.verify(x).raise_if_failed() is None


def test_only_what_is_written_over_is_copied():
    taps = {"0": "one", "1": "two.first"}
    net = aa.adapt(Overwriting(), like=Pyramid(), inputs=torch.zeros(1, 3, 32, 32), taps=taps)
    assert {one.module: one.overwritten for one in net.plan.taps.values()} == {"one": True, "two.first": True}
    net = aa.adapt(Overwriting(), like=Pyramid(), inputs=torch.zeros(1, 3, 32, 32), taps={"0": "over", "1": "two"})
    assert not any(one.overwritten for one in net.plan.taps.values())


def test_standalone_source_copies_what_is_written_over(tmp_path):
    new, x = Overwriting().eval(), torch.randn(2, 3, 32, 32)
    net = aa.adapt(new, like=Pyramid().eval(), inputs=x, taps={"0": "one", "1": "two.first"})
    aa.to_source(net, tmp_path / "net.py")
    twin = runpy.run_path(str(tmp_path / "net.py"))["Adapted"](copy.deepcopy(new)).eval()
    twin.load_state_dict(net.state_dict())
    for made, expected in zip(twin(x), net(x), strict=True):
        torch.testing.assert_close(made, expected, rtol=0, atol=0)


def test_parameters_that_serve_no_output_are_named_in_the_plan_and_take_no_gradient():
    class Unused(Overwriting):
        def __init__(self) -> None:
            super().__init__()
            self.prompt = nn.Parameter(torch.zeros(6))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return super().forward(x) + self.prompt.sum()

    net = aa.adapt(Unused(), like=Pyramid(), inputs=torch.zeros(1, 3, 32, 32), taps={"0": "one", "1": "two.first"})
    assert "prompt" in net.plan.frozen
    assert not net.backbone.prompt.requires_grad
    assert " frozen " in str(net.plan)
    assert "prompt" in str(net.plan)


class WritingOverWhatItReads(nn.Module):
    """A module that writes over its input, which its caller goes on with; or the caller does."""

    def __init__(self, *, inside: bool) -> None:
        super().__init__()
        self.one, self.two, self.inside = nn.Conv2d(3, 4, 3, 2, 1), nn.Conv2d(4, 6, 3, 2, 1), inside
        self.scaled = Scaling() if inside else nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        made = self.one(x) * 1.0
        self.scaled(made)
        if not self.inside:
            made *= 2
        return self.two(made)


class Scaling(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x.mul_(2)


@pytest.mark.parametrize("inside", [True, False])
def test_what_a_module_reads_is_tapped_as_it_comes_in_and_writes_reach_its_caller(inside):
    new, x, taps = WritingOverWhatItReads(inside=inside).eval(), torch.randn(2, 3, 32, 32), [("scaled", 0, READ)]
    expected, whole, ended = new.one(x).detach(), new(x).detach(), []
    tapped = copy.deepcopy(new)
    tap(tapped, taps)
    hand_on_copies(tapped, overwritten(copy.deepcopy(new), taps, lambda module: module(x)))
    tapped.two.register_forward_hook(lambda _module, _args, output: ended.append(output))
    (read,) = tapped(x)
    assert torch.equal(read, expected)
    assert torch.equal(ended[0], whole)
    (read.sum() + ended[0].sum()).backward()
    assert all(p.grad is not None for p in tapped.parameters())
