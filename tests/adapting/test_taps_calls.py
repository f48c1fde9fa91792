"""What taps take belongs to one call: threads, replicas, calls within calls, calls that raise, and calls run anew."""

from __future__ import annotations

import copy
import pickle
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from saved_models import contract
from small_models import stage
from torch import nn
from torch.utils.checkpoint import checkpoint

import autoadapt as aa

LEVELS = [f"f32[B, {channels}, ceil(H/{s}), ceil(W/{s})]" for channels, s in ((6, 2), (7, 4), (8, 8))]


class Classifier(nn.Module):
    """Three stages, of which the middle one may run under gradient checkpointing."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.third = stage(3, 4), stage(4, 5), stage(5, 6)
        self.head = nn.Linear(6, 10)
        self.saves_memory = False
        self.within: nn.Module | None = None

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.within is not None and x.shape[-1] > 32:
            x = x + self.within(x[..., :32, :32])[0].mean()
        x = self.first(x)
        x = checkpoint(self.second, x, use_reentrant=False) if self.saves_memory else self.second(x)
        return self.head(self.third(x).mean((2, 3)))


def classifier() -> Classifier:
    torch.manual_seed(0)
    return Classifier().eval()


def adapted(new: nn.Module) -> nn.Module:
    return aa.adapt(new, like=contract(LEVELS), inputs=torch.zeros(2, 3, 64, 64)).eval()


def from_file(new: nn.Module) -> nn.Module:
    """The class that `to_source` writes."""
    net, scope = adapted(new), {"__name__": "written"}
    exec(compile(aa.to_source(net), "written", "exec"), scope)
    other = scope["Adapted"](new).eval()
    other.load_state_dict(net.state_dict())
    return other


WRITTEN = pytest.mark.parametrize("make", [adapted, from_file], ids=["module", "file"])


def images(i: int) -> torch.Tensor:
    return torch.randn(1, 3, 32 + 8 * (i % 4), 40, generator=torch.Generator().manual_seed(i))


def equal(found: list[list[torch.Tensor]], expected: list[list[torch.Tensor]]) -> bool:
    """Convolutions may be summed in another order in another thread."""
    return all(
        a.shape == b.shape and torch.allclose(a, b, atol=1e-5)
        for left, right in zip(found, expected, strict=True)
        for a, b in zip(left, right, strict=True)
    )


@WRITTEN
def test_two_hundred_calls_in_four_threads_give_what_they_give_one_after_the_other(make):
    net = make(classifier())
    calls = [images(i) for i in range(200)]
    with torch.no_grad():
        expected = [list(net(x)) for x in calls]

    def call(x: torch.Tensor) -> list[torch.Tensor]:
        with torch.no_grad():
            return list(net(x))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(call, calls))
    finally:
        sys.setswitchinterval(before)
    assert equal(found, expected)


@WRITTEN
def test_replicas_share_hooks_but_not_what_these_take(make):
    net = make(classifier())
    with torch.no_grad():
        expected = [list(net(images(i))) for i in range(2)]
        copies = [_replica(net) for _ in range(2)]
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda i: _no_grad(copies[i % 2], images(i % 2)), range(40)))
    assert equal(found, expected * 20)


def _no_grad(net: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    with torch.no_grad():
        return list(net(x))


def _replica(module: nn.Module) -> nn.Module:
    """What DataParallel makes of a module for each device."""
    made = module._replicate_for_data_parallel()
    made._parameters = dict(module._parameters)
    made._buffers = dict(module._buffers)
    for name, child in module._modules.items():
        made._modules[name] = _replica(child)
    return made


@WRITTEN
def test_a_net_that_is_called_within_its_own_forward_gives_each_call_its_own_levels(make):
    net = make(classifier())
    x = images(0)[..., :32].repeat(1, 1, 2, 2)
    with torch.no_grad():
        shift = net(x[..., :32, :32])[0].mean()
        expected = list(net(x + shift))
        net.backbone.__dict__["within"] = net  # no child, or the module would stand within itself
        assert equal([list(net(x))], [expected])


@WRITTEN
def test_after_a_call_that_raised_half_way_the_next_gives_the_right_levels_and_nothing_is_kept(make):
    net = make(classifier())
    x = images(1)
    with torch.no_grad():
        expected = list(net(x))
        handle = net.backbone.third.register_forward_pre_hook(_raise)
        for _ in range(3):
            with pytest.raises(ValueError, match="half way"):
                net(images(2))
        handle.remove()
        assert equal([list(net(x))], [expected])
    assert [frames for frames in _kept(net) if frames] == []


def _raise(*_: object) -> None:
    raise ValueError("half way")


def _kept(net: nn.Module) -> list[list[object]]:
    hooks = [hook for module in net.modules() for hook in module._forward_hooks.values()]
    holders = [getattr(hook, "__self__", getattr(hook, "_collected", None)) for hook in hooks]
    holders += [getattr(getattr(hook, "func", None), "__self__", None) for hook in hooks]
    return [holder._calls.taken for holder in holders if holder is not None]


@WRITTEN
def test_stages_that_run_anew_in_the_backward_pass_are_not_taken_again(make):
    plain, saving = make(classifier()), make(classifier())
    saving.backbone.saves_memory = True
    found = []
    for net in (plain, saving):
        for _ in range(2):
            levels = net(images(3))
            torch.stack([level.square().mean() for level in levels]).sum().backward()
        found.append([p.grad for p in net.parameters() if p.grad is not None])
    assert equal([found[0]], [found[1]])
    assert [frames for frames in _kept(saving) if frames] == []


@WRITTEN
def test_a_whole_net_under_gradient_checkpointing_learns_as_without(make):
    found = []
    for is_saving in (False, True):
        net, x = make(classifier()), images(4).requires_grad_()
        levels = checkpoint(net, x, use_reentrant=False) if is_saving else net(x)
        torch.stack([level.square().mean() for level in levels]).sum().backward()
        found.append(x.grad)
    assert torch.allclose(found[0], found[1], atol=1e-6)
    assert [frames for frames in _kept(net) if frames] == []


def test_a_copy_that_is_made_while_the_net_runs_starts_without_its_calls():
    net, copies, x = adapted(classifier()), [], images(5)
    handle = net.backbone.second.register_forward_hook(lambda *_: copies.append(copy.deepcopy(net)))
    with torch.no_grad():
        expected = list(net(x))
    handle.remove()
    copies[0].backbone.second._forward_hooks.popitem()
    for other in (copies[0], pickle.loads(pickle.dumps(net))):
        assert [frames for frames in _kept(other) if frames] == []
        with torch.no_grad():
            assert equal([list(other(x))], [expected])
