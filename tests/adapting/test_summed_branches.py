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


class Windows(nn.Module):
    """Blocks that work on a map in another shape, which their caller adds up; a head reads the last sum as a map."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.stages = nn.ModuleList(
            nn.ModuleList([nn.Conv2d(before, width, 3, 2, 1), nn.Sequential(nn.Linear(width, width), nn.GELU())])
            for before, width in ((3, 4), (4, 8), (8, 16))
        )
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5))

    def levels(self, x: torch.Tensor) -> list[torch.Tensor]:
        found = []
        for down, mix in self.stages:
            x = down(x)
            cells = x.flatten(2).mT
            x = (mix(cells) + cells).mT.unflatten(2, x.shape[2:])
            found.append(x)
        return found

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.levels(x)[-1])


class Beside(nn.Module):
    """Tokens that others attend to before the next block reads them; a last norm reads the last sum."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch = nn.Conv2d(3, 16, 8, 8)
        self.blocks = nn.ModuleList(
            nn.ModuleList([nn.Sequential(nn.Linear(16, 16), nn.GELU(), nn.Linear(16, 16)), Looks()]) for _ in range(3)
        )
        self.norm, self.fc = nn.LayerNorm(16), nn.Linear(16, 5)

    def last(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).mT
        beside = torch.zeros_like(x)
        for feed, look in self.blocks:
            x = x + feed(x)
            beside = beside + look(beside, x)
        return x + beside

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc(self.norm(self.last(x)).mean(1))


class Looks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm, self.one, self.two = nn.LayerNorm(16), nn.Linear(16, 16), nn.Linear(16, 16)

    def forward(self, x: torch.Tensor, context: torch.Tensor) -> torch.Tensor:
        return self.one(x) + self.two(self.norm(context))


def test_a_last_sum_of_another_size_that_a_head_reads_is_the_last_level():
    new = Windows().eval()
    net = aa.adapt(new, like=Pyramid(4, 8, 16).eval(), inputs=IMAGES)
    assert [route.source for route in net.plan.routes] == [
        "stages.1.0:inputs.0",
        "stages.2.0:inputs.0",
        "head:inputs.0",
    ]
    assert all(torch.equal(*pair) for pair in zip(net(IMAGES), new.levels(IMAGES), strict=True))
    assert not any("residual" in route.remark for route in net.plan.routes)


def test_a_sum_that_others_look_at_first_is_a_level_where_the_last_norm_reads_it():
    old = aa.Signature.parse(["f32[B, 16, floor(H/8), floor(W/8)]"], inputs="f32[B, 3, H, W]")
    new = Beside().eval()
    net = aa.adapt(new, like=old, inputs=IMAGES)
    assert [route.source for route in net.plan.routes] == ["norm:inputs.0"]
    assert torch.equal(net(IMAGES)[0], new.last(IMAGES).mT.reshape(2, 16, 4, 6))


class Merging(nn.Module):
    """Blocks over all tokens, then a module that makes a few of them, and blocks over these."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.patch = nn.Conv2d(3, 64, 16, 16)
        self.register_buffer("places", torch.randn(1, 16, 64))
        self.blocks = nn.ModuleList(Attends() for _ in range(6))
        self.merge, self.fc = nn.Linear(16, 8), nn.Linear(64, 5)

    def whole(self, x: torch.Tensor) -> torch.Tensor:
        x = self.patch(x).flatten(2).mT + self.places
        for block in self.blocks[:3]:
            x = block(x) + x
        return x

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.merge(self.whole(x).mT).mT
        for block in self.blocks[3:]:
            x = block(x) + x
        return self.fc(x.mean(1))


class Attends(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.values, self.made, self.softmax = nn.Linear(64, 64), nn.Linear(64, 64), nn.Softmax(-1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        heads = self.values(x).unflatten(2, (2, 32)).transpose(1, 2)
        return self.made((self.softmax(heads @ heads.mT) @ heads).transpose(1, 2).flatten(2))


def test_weights_of_few_tokens_are_no_grid_of_cells_and_a_stream_ends_where_a_module_merges_it():
    """Eight by eight weights looked like 8 x 8 cells of stride 8, and 64 channels like these cells."""
    old = aa.Signature.parse(["f32[B, 64, floor(H/16), floor(W/16)]"], inputs="f32[B, 3, H, W]")
    new, images = Merging().eval(), torch.randn(2, 3, 64, 64)
    net = aa.adapt(new, like=old, inputs=images)
    assert [route.source for route in net.plan.routes] == ["merge:inputs.0"]
    assert torch.equal(net(images)[0], new.whole(images).mT.reshape(2, 64, 4, 4))
