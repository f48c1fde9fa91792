"""Regions whose modules return numbers beside tensors: they are those of the old model at every size."""

import copy

import pytest
import torch
import torch.nn.functional as F
from region_models import by_hand
from small_models import Pyramid, image
from torch import nn

import autoadapt as aa


class Embedding(nn.Module):
    """Patches as tokens, with their rows and columns."""

    def __init__(self, source, target, step):
        super().__init__()
        self.proj, self.norm = nn.Conv2d(source, target, step, step), nn.LayerNorm(target)

    def forward(self, x):
        x = self.proj(x)
        return self.norm(x.flatten(2).transpose(1, 2)), *x.shape[-2:]


class Mixing(nn.Linear):
    def forward(self, x, height, width):
        assert height * width == x.shape[1]
        return super().forward(x)


class PyramidTransformer(nn.Module):
    """Stages of `(tokens, H, W)`, as in PVT: the code between makes maps of them."""

    def __init__(self):
        super().__init__()
        self.embed1, self.block1, self.norm1 = Embedding(3, 8, 4), nn.ModuleList([Mixing(8, 8)]), nn.LayerNorm(8)
        self.embed2, self.block2, self.norm2 = Embedding(8, 16, 2), nn.ModuleList([Mixing(16, 16)]), nn.LayerNorm(16)
        self.head = nn.Conv2d(24, 3, 1)

    def forward(self, x):
        maps = []
        for i in ("1", "2"):
            x, height, width = getattr(self, "embed" + i)(x)
            for block in getattr(self, "block" + i):
                x = block(x, height, width)
            x = getattr(self, "norm" + i)(x).reshape(len(x), height, width, -1).permute(0, 3, 1, 2).contiguous()
            maps.append(x)
        return self.head(torch.cat([maps[0], F.interpolate(maps[1], size=maps[0].shape[2:])], 1))


class Stage(nn.Module):
    def __init__(self, source, target):
        super().__init__()
        self.embed, self.block = Embedding(source, target, 2), Mixing(target, target)

    def forward(self, x):
        if isinstance(x, tuple):
            x = x[0].transpose(1, 2).reshape(len(x[0]), -1, *x[1:])
        tokens, *size = self.embed(x)
        return self.block(tokens, *size), *size


class Stages(nn.Module):
    """What a stage returns, tokens and numbers, goes into the next one and into heads."""

    def __init__(self):
        super().__init__()
        self.stage1, self.stage2 = Stage(3, 8), Stage(8, 16)
        self.head1, self.head2 = nn.Conv2d(8, 2, 1), nn.Conv2d(16, 2, 1)

    def forward(self, x):
        one = self.stage1(x)
        two = self.stage2(one)
        maps = [tokens.transpose(1, 2).reshape(len(tokens), -1, *size) for tokens, *size in (one, two)]
        return self.head1(maps[0]), self.head2(maps[1])


class Remembering(nn.Conv2d):
    """A layer that tells which size it was given, beside its map."""

    def forward(self, x):
        return super().forward(x), x.shape[2:]


class Resizing(nn.Module):
    def __init__(self):
        super().__init__()
        self.one, self.two = Remembering(3, 8, 3, 2, 1), Remembering(8, 16, 3, 2, 1)
        self.head = nn.Conv2d(16, 2, 1)

    def forward(self, x):
        x, first = self.one(x)
        x, second = self.two(x)
        return F.interpolate(F.interpolate(self.head(x), size=second), size=first)


CASES = {
    "PVT": (PyramidTransformer, "embed1:norm2"),
    "stages": (Stages, ["stage1", "stage2"]),
    "sizes": (Resizing, "one:two"),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("case", CASES)
def test_numbers_that_members_return_follow_the_size_of_the_image(case):
    torch.manual_seed(0)
    kind, region = CASES[case]
    old = kind()
    model = aa.swap(copy.deepcopy(old), region, Pyramid(6, 12, 20), inputs=image(2, 64, 64)).eval()
    net = next(one for one in model.modules() if isinstance(one, aa.AdaptedModule))
    for height, width in ((64, 64), (96, 64), (128, 160)):
        x = image(2, height, width)
        with torch.no_grad():
            torch.testing.assert_close(model(x), by_hand(old, net, x), rtol=0, atol=0)


def test_a_number_that_is_no_size_and_changes_with_it_is_refused_by_the_module_that_returns_it():
    class Scaled(nn.Conv2d):
        def forward(self, x):
            return super().forward(x), x.shape[-1] / 100

    class Scaling(nn.Module):
        def __init__(self):
            super().__init__()
            self.one, self.two = Scaled(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1)
            self.head = nn.Conv2d(8, 2, 1)

        def forward(self, x):
            x, scale = self.one(x)
            return self.head(self.two(x)) * scale

    with pytest.raises(aa.SwapError) as raised:
        aa.swap(Scaling(), "one:two", Pyramid(6, 12), inputs=image())
    assert str(raised.value).splitlines() == [
        "`one` returns a number that no stand-in can tell",
        "  expected  tensors, whole numbers that are sizes, and numbers that stay",
        "  found     it returns a number that is another one at another size",
        "  try       let what reads it derive it from the tensors that one returns",
    ]


class Given(nn.Conv2d):
    """Shifts or scales by a number that it is given."""

    def forward(self, x, number, *sizes):
        return super().forward(x) * number


class Giving(nn.Module):
    """Gives a later module of the region a number; `gives` says which."""

    def __init__(self, gives):
        super().__init__()
        self.one, self.two = nn.Conv2d(3, 8, 3, 2, 1), Given(8, 8, 3, 2, 1)
        self.head, self.gives, self.step = nn.Conv2d(8, 2, 1), gives, 0

    def forward(self, x, number=2):
        self.step += 1
        x = self.one(x)
        match self.gives:
            case "argument":
                x = self.two(x, number)
            case "sizes":
                x = self.two(x, 1, *x.shape[-2:], len(x))
            case "share of the width":
                x = self.two(x, x.shape[-1] / 64)
            case "step":
                x = self.two(x, self.step)
        return self.head(x)


@pytest.mark.parametrize("number", [2, 0.5])
def test_a_number_that_a_later_module_is_given_and_that_changes_is_refused(number):
    torch.manual_seed(0)
    inputs = {"x": image(2, 64, 64), "number": number}
    model = aa.swap(Giving("argument"), "one:two", Pyramid(6, 12), inputs=inputs).eval()
    with torch.no_grad():
        for size in ((64, 64), (96, 64)):
            expected = model.head(model.one.alone()(image(2, *size)))
            assert torch.equal(model(image(2, *size), number), expected)
    with pytest.raises(RuntimeError) as raised:
        model(image(2, 64, 64), 3)
    assert str(raised.value) == (
        f"two stands in for a module of a swapped region and takes no arguments: it is given (tensor, 3), and was "
        f"given (tensor, {number}) when the region was swapped; swap with inputs= that give these"
    )


def test_numbers_that_inputs_of_a_function_show_are_all_taken():
    def both(model):
        return model(image(2, 64, 64), 2), model(image(2, 64, 64), 3)

    model = aa.swap(Giving("argument"), "one:two", Pyramid(6, 12), inputs=both)
    model(image(2, 64, 64), 2)
    model(image(2, 64, 64), 3)
    with pytest.raises(RuntimeError, match=r"given \(tensor, 2\) or \(tensor, 3\) when"):
        model(image(2, 64, 64), 4)


@pytest.mark.parametrize("gives", ["sizes", "share of the width"])
def test_numbers_that_follow_the_size_of_the_input_may_be_any(gives):
    model = aa.swap(Giving(gives), "one:two", Pyramid(6, 12), inputs=image(2, 64, 64)).eval()
    with torch.no_grad():
        for count, height, width in ((2, 64, 64), (3, 80, 48), (1, 65, 79)):
            x = image(count, height, width)
            levels = model.one.alone()(x)
            assert torch.equal(model(x), model.head(levels["two"] if isinstance(levels, dict) else levels))


def test_a_number_that_counts_calls_is_refused_when_the_region_is_swapped():
    with pytest.raises(aa.SwapError) as raised:
        aa.swap(Giving("step"), "one:two", Pyramid(6, 12), inputs=image(2, 64, 64))
    first, where, *rest = str(raised.value).splitlines()
    assert first == "`two` is given a number that changes from call to call"
    assert where == "  expected  numbers that stay, or that follow the size of the input"
    assert rest[0].startswith("  found     (tensor, ")
    assert rest[1] == "  try       a region without two"
