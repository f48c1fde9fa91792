"""A branch that serves only what nobody reads does not run, where the rest is left as it was; the plan counts it."""

from __future__ import annotations

import copy

import pytest
import torch
from small_models import Pyramid, stage
from torch import nn

import autoadapt as aa

IMAGES = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


class Trunk(nn.Module):
    """Three stages, and a branch that leaves after the second and that the contract knows nothing of."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.first, self.second, self.third = stage(3, 4), stage(4, 8), stage(8, 16)
        self.aux = nn.Sequential(nn.Conv2d(8, 32, 3, 1, 1), nn.ReLU(), nn.Conv2d(32, 5, 1))
        self.fc = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> object:
        x = self.second(self.first(x))
        beside = self.leave(x)
        scores = self.fc(self.third(self.joined(x, beside)).mean((2, 3)))
        return scores, beside.flatten(1).mean(1)

    def leave(self, x: torch.Tensor) -> torch.Tensor:
        return self.aux(x)

    def joined(self, x: torch.Tensor, beside: torch.Tensor) -> torch.Tensor:
        return x


class Pooled(Trunk):
    """Functions and layers stand behind the branch."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Linear(5, 3)

    def leave(self, x: torch.Tensor) -> torch.Tensor:
        return self.scores(self.aux(x).mean((2, 3))).softmax(-1)


class WritesBehind(Trunk):
    """What follows the branch is written over; without the branch that would be the trunk."""

    def leave(self, x: torch.Tensor) -> torch.Tensor:
        return self.aux(x).sub_(100).relu_()


class WritesOnItsInput(Trunk):
    """The branch writes over what it shares with the trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = nn.Sequential(nn.Hardtanh(0, 0.1, inplace=True), *self.aux)


class Remembers(Trunk):
    """The trunk reads what the branch made in the call before."""

    def __init__(self) -> None:
        super().__init__()
        self.memory: torch.Tensor | float = 0.0

    def leave(self, x: torch.Tensor) -> torch.Tensor:
        self.before, self.memory = self.memory, self.aux(x).mean().detach()
        return x[:, :1]

    def joined(self, x: torch.Tensor, beside: torch.Tensor) -> torch.Tensor:
        return x + self.before


class AsksForAShape(Trunk):
    """The trunk looks at the shape of what the branch made."""

    def joined(self, x: torch.Tensor, beside: torch.Tensor) -> torch.Tensor:
        return x * 2 if beside.shape[1] == 5 else x


class Halves(nn.Module):
    """Returns two tensors."""

    def __init__(self) -> None:
        super().__init__()
        self.one, self.other = nn.Conv2d(8, 5, 1), nn.Conv2d(8, 7, 1)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self.one(x), self.other(x)


class Unpacked(Trunk):
    """The branch returns as many tensors as the example has images."""

    def __init__(self) -> None:
        super().__init__()
        self.aux = Halves()

    def leave(self, x: torch.Tensor) -> torch.Tensor:
        one, other = self.aux(x)
        return one.mean((2, 3)) + other.mean()


class Block(nn.Module):
    """Two convolutions."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.halve, self.same = stage(before, width), stage(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.same(self.halve(x))


def levels(new: nn.Module, x: torch.Tensor) -> list[torch.Tensor]:
    """What the three stages return in a call of the whole."""
    found: list[torch.Tensor] = []
    handles = [
        part.register_forward_hook(lambda _module, _args, made: found.append(made.clone()))
        for part in (new.first, new.second, new.third)
    ]
    new(x)
    for handle in handles:
        handle.remove()
    return found


def ran(net: nn.Module, x: torch.Tensor) -> set[str]:
    """The modules of an adapted one that run in a call."""
    called: set[str] = set()
    copied = copy.deepcopy(net)
    for path, part in copied.backbone.named_modules():
        part.register_forward_hook(lambda _module, _args, _made, path=path: called.add(path))
    copied(x)
    return called


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("make", "cut"),
    [
        (Trunk, ("aux", "fc")),
        (Pooled, ("aux", "scores", "fc")),
        (WritesBehind, ("fc",)),
        (WritesOnItsInput, ("aux.1", "aux.3", "fc")),
        (Remembers, ("fc",)),
        (AsksForAShape, ("fc",)),
        (Unpacked, ("fc",)),
    ],
)
def test_a_branch_is_cut_where_the_rest_does_not_notice_and_every_level_is_as_it_was(make, cut):
    new = make().eval()
    wanted = [levels(reference := copy.deepcopy(new), IMAGES), levels(reference, IMAGES[:1]), levels(reference, IMAGES)]
    net = aa.adapt(new, like=Pyramid(4, 8, 16).eval(), inputs=IMAGES, nondeterministic="allow")
    assert set(net.plan.cut) == set(cut)
    for x, right in zip((IMAGES, IMAGES[:1], IMAGES), wanted, strict=True):
        made = net(x)
        assert torch.equal(made[2], right[2])
        assert torch.equal(made[1], right[1]) or make is WritesOnItsInput  # of which the level is what is read on
    assert len(net(torch.cat([IMAGES, IMAGES[:1]]))[0]) == 3
    assert ("aux.0" in ran(net, IMAGES)) == (("aux" not in cut) and make is not Unpacked)


def test_the_plan_counts_what_a_branch_no_longer_costs_before_and_after_it_is_built():
    aux = sum(p.numel() for p in Trunk().aux.parameters())
    net = aa.adapt(Trunk(), like=Pyramid(4, 8, 16), inputs=IMAGES)
    planned = aa.plan(aa.capture(Trunk(), IMAGES, inner=True), aa.capture(Pyramid(4, 8, 16), IMAGES))
    for made in (net.plan, planned):
        assert made.saved.parameters == aux + 16 * 5 + 5
        assert made.saved.multiply_adds == 8 * 12 * (8 * 32 * 9 + 32 * 5) + 16 * 5
    assert net.plan.frozen == ()
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in Pyramid(4, 8, 16).parameters())


class Levels(Pyramid):
    """A pyramid that also returns scores made of its first level."""

    def __init__(self, *channels: int) -> None:
        super().__init__(*channels)
        self.aux = nn.Conv2d(channels[0], 5, 1)

    def forward(self, x: torch.Tensor) -> object:
        maps = super().forward(x)
        return {"maps": maps, "scores": self.aux(maps[0]).mean((2, 3))}


def test_a_branch_to_an_output_that_nobody_reads_is_cut_without_any_tap():
    new = Levels(4, 8, 16).eval()
    net = aa.adapt(new, like=Pyramid(4, 8, 16).eval(), inputs=IMAGES)
    assert (net.plan.taps, net.plan.cut) == ({}, ("aux",))
    assert all(torch.equal(made, one) for made, one in zip(net(IMAGES), new(IMAGES)["maps"], strict=True))


def test_the_kept_share_counts_branches_and_last_convolutions_that_are_cut():
    class Classifier(Trunk):
        def __init__(self) -> None:
            super().__init__()
            last = nn.Sequential(nn.Conv2d(8, 16, 1), nn.BatchNorm2d(16), nn.ReLU())
            self.features = nn.Sequential(nn.Sequential(Block(3, 4)), nn.Sequential(Block(4, 8)), last)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.fc(self.features(x).mean((2, 3)))

    sizes = {name: p.numel() for name, p in Classifier().features.named_parameters()}
    kept = aa.plan(aa.capture(Classifier(), IMAGES, inner=True), aa.capture(Pyramid(4, 8), IMAGES)).kept
    last = sum(size for name, size in sizes.items() if name.startswith("2."))
    assert (kept.parameters, kept.of) == (sum(sizes.values()) - last, sum(sizes.values()))
    kept = aa.plan(aa.capture(Trunk(), IMAGES, inner=True), aa.capture(Pyramid(4, 8, 16), IMAGES)).kept
    assert kept.of - kept.parameters == sum(p.numel() for p in Trunk().aux.parameters())


@pytest.mark.parametrize(("kept", "text"), [(984, "98.4"), (943, "94"), (9999, "99.9"), (10000, "100")])
def test_nearly_all_is_said_to_a_tenth(kept, text):
    of = 1000 if kept < 1000 else 10000
    share = type(aa.plan(aa.capture(Trunk(), IMAGES, inner=True), aa.capture(Pyramid(4, 8, 16), IMAGES)).kept)
    assert str(share(parameters=kept, of=of, depth=1)) == f"{text} % of its parameters, 100 % of its depth"
