"""Branches that their caller adds up, in lists that no reader of the stream stands in: the stream is a level."""

from __future__ import annotations

import timm
import torch
from small_models import Pyramid
from torch import nn
from torch.nn import functional as F

import autoadapt as aa

IMAGES = torch.randn(2, 3, 32, 48, generator=torch.Generator().manual_seed(0))


class Mix(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(width, width, 3, 1, 1), nn.Conv2d(width, width, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(F.relu(self.first(x)))


class Sums(nn.Module):
    """Stages of which the caller adds up the branches; a function takes the last sum."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.downs = nn.ModuleList([nn.Conv2d(b, w, 3, 2, 1) for b, w in ((3, 4), (4, 8), (8, 16))])
        self.mixes = nn.ModuleList([nn.ModuleList([Mix(w), Mix(w)]) for w in (4, 8, 16)])
        self.fc = nn.Linear(16, 5)

    def levels(self, x: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for down, (first, second) in zip(self.downs, self.mixes, strict=True):
            x = down(x)
            x = x + first(x)
            x = x + second(x)
            found.append(x)
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.levels(x)[-1].mean((2, 3)))


class Writing(Sums):
    """The same, written over what it adds to."""

    def levels(self, x: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for down, (first, second) in zip(self.downs, self.mixes, strict=True):
            x = down(x)
            x += first(x)
            x += second(x)
            found.append(x)
        return found


class Tokens(nn.Module):
    """A transformer written into one module, one list for each kind of branch."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch = nn.Conv2d(3, 16, 8, 8)
        self.attend = nn.ModuleList([nn.MultiheadAttention(16, 2, batch_first=True) for _ in range(4)])
        self.feed = nn.ModuleList([nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16)) for _ in range(4)])
        self.fc = nn.Linear(16, 5)

    def streams(self, x: torch.Tensor) -> list[torch.Tensor]:
        x, found = self.patch(x).flatten(2).transpose(1, 2), []
        for attend, feed in zip(self.attend, self.feed, strict=True):
            x = x + attend(x, x, x, need_weights=False)[0]
            x = x + feed(x)
            found.append(x)
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.streams(x)[-1].mean(1))


def check_levels_are_the_sums(new: nn.Module) -> None:
    wanted = [level.clone() for level in new.levels(IMAGES)]
    net = aa.adapt(new, like=Pyramid(4, 8, 16).eval(), inputs=IMAGES)
    assert [route.source for route in net.plan.routes] == ["downs.1:inputs.0", "downs.2:inputs.0", "mixes.2.1"]
    assert all(torch.equal(*pair) for pair in zip(net(IMAGES)[:2], wanted[:2], strict=True))
    assert [route.remark[:31] for route in net.plan.routes] == ["", "", "mixes.2.1 is a residual branch:"]


def test_the_sum_that_the_next_stage_reads_is_a_level_and_a_last_one_that_no_module_reads_is_told():
    check_levels_are_the_sums(Sums().eval())


def test_so_it_is_where_sums_are_written_over_what_they_add_to():
    check_levels_are_the_sums(Writing().eval())


def test_streams_between_two_lists_are_levels_and_not_the_last_branch_four_times():
    old = aa.Signature.parse(["f32[B, 16, floor(H/8), floor(W/8)]"] * 4, inputs="f32[B, 3, H, W]")
    new = Tokens().eval()
    net = aa.adapt(new, like=old, inputs=IMAGES)
    assert [route.source for route in net.plan.routes] == [*(f"attend.{i}:inputs.0" for i in (1, 2, 3)), "feed.3"]
    wanted = [tokens.transpose(1, 2).reshape(2, 16, 4, 6) for tokens in new.streams(IMAGES)]
    assert all(torch.equal(*pair) for pair in zip(net(IMAGES)[:3], wanted[:3], strict=True))


class Fused(nn.Module):
    """Two resolutions, of which the finer one is added to the coarser one only for the scores, as HRNet does."""

    def __init__(self) -> None:
        super().__init__()
        self.downs = nn.ModuleList([nn.Conv2d(b, w, 3, 2, 1) for b, w in ((3, 4), (4, 8), (8, 16))])
        self.mixes = nn.ModuleList([Mix(w) for w in (4, 8, 16)])
        self.joins = nn.ModuleList([nn.Conv2d(b, w, 3, 2, 1) for b, w in ((4, 8), (8, 16))])
        self.fc = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        maps = [x]
        for down in self.downs:
            maps.append(down(maps[-1]))
        fine, middle, coarse = (mix(one) for mix, one in zip(self.mixes, maps[1:], strict=True))
        return self.fc((coarse + self.joins[1](middle + self.joins[0](fine))).mean((2, 3)))


def test_what_is_added_to_something_else_than_what_it_was_made_of_is_no_residual_branch():
    made = aa.plan(aa.capture(Fused(), IMAGES, inner=True), aa.capture(Pyramid(4, 8, 16), IMAGES))
    assert [route.source for route in made.routes] == ["mixes.0", "mixes.1", "mixes.2"]
    assert not any("residual" in route.remark for route in made.routes)


def test_a_block_that_adds_in_place_returns_the_sum():
    """timm's residual blocks add the shortcut to what their last norm returned, and return that tensor."""
    old = {"c5": "f32[B, 8, ceil(H/32), ceil(W/32)]"}
    net = aa.adapt(timm.create_model("resnet18"), like=old, inputs=torch.zeros(1, 3, 64, 64))
    assert net.plan.routes[0].source == "layer4.1"
    assert "branch" not in str(net.plan)
