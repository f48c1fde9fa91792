"""What serves no output that is read neither runs nor trains, also where levels are collected by hooks."""

from __future__ import annotations

import copy

import pytest
import timm
import torch
from torch import nn

import autoadapt as aa

IMAGES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
WIDTHS = (4, 6, 8, 10)


class Block(nn.Module):
    """A block whose level is what an inner activation returns."""

    def __init__(self, before: int, width: int) -> None:
        super().__init__()
        self.first, self.act = nn.Conv2d(before, width, 3, 2, 1), nn.ReLU()
        self.second = nn.Conv2d(width, width, 3, 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.act(self.first(x)))


class Hooked(nn.Module):
    """Collects its levels by hooks inside its blocks, as timm does with models such as Xception."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.blocks = nn.Sequential(*[Block(b, w) for b, w in zip((3, *WIDTHS), WIDTHS, strict=False)])
        self.taken: list[torch.Tensor] = []
        self.handles = [block.act.register_forward_hook(self.take) for block in self.blocks]

    def take(self, _module: nn.Module, _args: object, made: torch.Tensor) -> None:
        self.taken.append(made)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        self.blocks(x)
        found, self.taken = self.taken, []
        return found


class Levels(nn.Module):
    """A pyramid of which some levels are read."""

    def __init__(self, read: tuple[int, ...]) -> None:
        super().__init__()
        self.backbone = timm.create_model("resnet10t", features_only=True, out_indices=(0, 1, 2, 3))
        self.read = read
        self.heads = nn.ModuleList(nn.Conv2d(self.backbone.feature_info.channels()[i], 2, 1) for i in read)

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        levels = self.backbone(x)
        return [head(levels[i]) for head, i in zip(self.heads, self.read, strict=True)]


@pytest.mark.parametrize("count", [1, 2, 3])
def test_what_hooks_collect_of_later_blocks_neither_stands_nor_runs(count):
    new = Hooked().eval()
    wanted = [f"f32[B, {width}, ceil(H/{2 ** (i + 1)}), ceil(W/{2 ** (i + 1)})]" for i, width in enumerate(WIDTHS)]
    net = aa.adapt(new, like=aa.Signature.parse(wanted[:count], inputs="f32[B, 3, H, W]"), inputs=IMAGES)
    assert net.plan.cut == (f"blocks.{count - 1}.second", *(f"blocks.{i}" for i in range(count, len(WIDTHS))))
    needed = sum(p.numel() for name, p in new.blocks[:count].named_parameters() if name[:8] != f"{count - 1}.second")
    assert sum(p.numel() for p in net.parameters()) == needed
    for made, level in zip(net(IMAGES), new(IMAGES), strict=False):
        assert torch.equal(made, level)
    assert len(copy.deepcopy(net)(IMAGES)) == count


@pytest.mark.sampled(1)
@pytest.mark.parametrize("read", [(0,), (1, 2), (3,)])
@pytest.mark.parametrize(
    "make", [Hooked, lambda: timm.create_model("resnet14t", features_only=True, out_indices=(0, 1, 2, 3))]
)
def test_after_a_swap_all_that_may_be_trained_is_trained_and_the_rest_is_named(make, read):
    model = aa.swap(Levels(read), "backbone", make(), inputs=IMAGES)
    sum(level.mean() for level in model.train()(IMAGES)).backward()
    names = dict(model.backbone.named_parameters())
    assert [name for name, p in names.items() if p.requires_grad and p.grad is None] == []
    plan = model.backbone.swapped.parts[0].plan
    assert [name for name, p in names.items() if not p.requires_grad] == [f"backbone.{name}" for name in plan.frozen]


def test_levels_with_equal_dims_are_read_free_as_long_as_nothing_more_runs_for_them():
    new = timm.create_model("resnet10t", features_only=True, out_indices=(0, 1, 2, 3))
    part = aa.swap(Levels((1,)), "backbone", new, inputs=IMAGES).backbone.swapped.parts[0]
    assert (part.read, part.free, part.left_out) == (("1",), ("0",), ("2", "3"))


class ByValue(nn.Module):
    """Reads a value, so that it does not run without any."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 6, 3, 2, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.conv(x) * x.mean().item()


def test_what_runs_on_values_alone_is_cut_where_the_rest_trains_without_it() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, 2, 1), ByValue())
    net = aa.adapt(model, like={"p1": "f32[B, 5, ceil(H/2), ceil(W/2)]"}, inputs=IMAGES)
    assert net.plan.cut == ("1",)
    found = net(IMAGES)["p1"]
    torch.testing.assert_close(found, net.adapters["p1"](model[0](IMAGES)))
    found.sum().backward()
    assert all(parameter.grad is not None for parameter in net.parameters())


class NamedByNumbers(nn.Sequential):
    """Returns the map behind its last layer in a list, so that the output is called `0` as its first layer is."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:  # type: ignore[override]
        return [super().forward(x)]


@pytest.mark.parametrize(("strides", "sources"), [((4, 8), ["1", "0"]), ((8,), ["0"])])
def test_nothing_is_cut_where_an_output_is_read_that_has_the_name_of_a_layer(strides, sources) -> None:
    old = aa.Signature.parse([f"f32[B, 8, ceil(H/{stride}), ceil(W/{stride})]" for stride in strides])
    new = NamedByNumbers(*(nn.Conv2d(width, 8, 3, 2, 1) for width in (3, 8, 8))).eval()
    made = aa.plan(aa.capture(new, IMAGES, inner=True), old)
    assert ([route.source for route in made.routes], made.cut, made.kept.share) == (sources, (), 1)
    net = aa.adapt(new, like=old, inputs=IMAGES)
    net(IMAGES)[-1].sum().backward()
    assert [name for name, one in net.named_parameters() if one.grad is None] == []
