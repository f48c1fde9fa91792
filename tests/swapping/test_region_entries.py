"""Values that come to the modules of a region otherwise than when it was swapped are refused: nobody looks at them."""

import pytest
import torch
import torch.nn.functional as F
from made_once import made_once
from small_models import Pyramid, image
from torch import nn

import autoadapt as aa


class Chain(nn.Module):
    """Three layers, a head, and paths on which something else happens between them."""

    def __init__(self, function=False):
        super().__init__()
        self.c1, self.c2, self.c3 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 24, 3, 2, 1)
        self.side, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(24, 5, 1)
        self.function = function

    def forward(self, x, path="", other=None):
        a = self.c1(x)
        if path == "entered twice":
            self.c1(other)
        elif path == "added":
            a = a + self.side(x)
        elif path == "joined":
            a = torch.stack([a, self.side(x)]).mean(0)
        elif path == "in part":
            a = a[:1]
        elif path == "another":
            a = self.side(x)
        elif path == "skipped":
            self.c2(a)
        b = self.c2(F.relu(a) if self.function else a)
        found = self.head(self.c3(F.relu(b) if self.function else b))
        return (found, b) if path == "returned" else found


@made_once
def swapped(**options):
    torch.manual_seed(0)
    return aa.swap(Chain(**options), "c1:c3", Pyramid(6, 7, 9), inputs=image(2, 64, 64)).eval()


ENTRIES = {
    "entered twice": "c1 begins another pass of a swapped region before c2 has run in the last one",
    "added": "is given what add made of it and another part of the model",
    "joined": "is given what stack made of it and another part of the model",
    "in part": "is given what __getitem__ took of the model",
    "another": "c2 stands in for a module of a swapped region and is given a tensor of another part of the model",
    "skipped": "c2 stands in for a module of a swapped region, which runs in this order: c1, c2, c3",
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("function", [False, True])
@pytest.mark.parametrize("path", ENTRIES)
def test_what_did_not_enter_the_region_when_it_was_swapped_is_refused(path, function):
    model, x, other = swapped(function=function), image(2, 64, 64), image(2, 64, 64).flip(0)
    with torch.no_grad():
        expected = model(x)
        with pytest.raises(RuntimeError) as raised:
            model(x, path, other)
        assert ENTRIES[path] in str(raised.value)
        assert torch.equal(model(x), expected)


def test_a_first_module_that_runs_on_its_own_and_raises_leaves_no_pass_behind():
    model, x = swapped(), image(2, 64, 64)
    with torch.no_grad():
        expected = model(x)
        model.c1(x)
        assert torch.equal(model(x), expected)
        with pytest.raises(RuntimeError):
            model.c1(torch.zeros(1))
        assert torch.equal(model(x), expected)


class Gated(nn.Module):
    """Functions between modules that take more tensors than one, as residual sums and gates do."""

    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.c3 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 1, 1), nn.Conv2d(8, 24, 3, 2, 1)
        self.head, self.low = nn.Conv2d(24, 5, 1), nn.Conv2d(8, 2, 1)

    def forward(self, x):
        a = self.c1(x)
        b = self.c2(a) + a * torch.sigmoid(a.mean((2, 3), keepdim=True))
        return self.head(self.c3(torch.cat([b[:, :4], a[:, :4]], 1))), self.low(a)


def test_functions_that_took_more_tensors_when_the_region_was_swapped_go_on_doing_so():
    torch.manual_seed(0)
    model = aa.swap(Gated(), "c1:c3", Pyramid(6, 7, 9), inputs=image(2, 64, 64)).eval()
    for size in ((64, 64), (65, 79)):
        with torch.no_grad():
            levels = model.c1.alone()(image(2, *size))
            deep, low = model(image(2, *size))
            assert torch.equal(deep, model.head(levels["c3"]))
            assert torch.equal(low, model.low(levels["c1"]))


@pytest.mark.parametrize("function", [torch.max, torch.sort, torch.median, lambda x, axis: torch.topk(x, 2, axis)])
def test_what_functions_return_beside_an_index_tells_no_values_either(function):
    model = swapped(function=True)
    with torch.no_grad():
        kept = model(image(2, 64, 64), "returned")[1]
        for one in function(kept, 1):
            assert "nothing read it" in repr(one)
            with pytest.raises(RuntimeError, match="now conv2d reads it"):
                F.conv2d(one.float(), nn.Parameter(torch.ones(1, 1, 1, 1)))


def doubled(x: torch.Tensor) -> torch.Tensor:
    return x.relu() * 2


@pytest.mark.filterwarnings("ignore:.*torch.jit.script")
def test_a_scripted_function_which_nothing_can_watch_makes_no_numbers_of_it():
    scripted = torch.jit.script(doubled)
    with torch.no_grad():
        assert scripted(swapped(function=True)(image(2, 64, 64), "returned")[1]).isnan().all()


class Placed(nn.Module):
    """Adds a table of positions that it keeps without registering it."""

    def __init__(self, kept):
        super().__init__()
        self.c1, self.c2, self.head = nn.Conv2d(3, 8, 8, 8), nn.Conv2d(8, 16, 1), nn.Conv2d(16, 5, 1)
        table = torch.rand(1, 8, 8, 8)
        self.pos = {"attribute": table, "list": [{"a": table}], "view": table[:, :4].expand(2, 1, 4, 8, 8)}[kept]
        self.kept = kept

    def forward(self, x):
        a = self.c1(x)
        match self.kept:
            case "attribute":
                a += self.pos.to(a.device, dtype=a.dtype)
            case "list":
                a = a + self.pos[0]["a"].clone()
            case "view":
                a = a + torch.cat(list(self.pos), 1)
        return self.head(self.c2(a))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kept", ["attribute", "list", "view"])
def test_a_tensor_that_the_model_keeps_unregistered_is_nothing_that_it_is_given(kept):
    torch.manual_seed(0)
    model = aa.swap(Placed(kept), "c1:c2", Pyramid(6, 7), inputs=image(2, 64, 64)).eval()
    x = image(3, 64, 64)
    with torch.no_grad():
        assert torch.equal(model(x), model.head(model.c1.alone()(x)["c2"]))
