"""What a model writes into its own buffers, or takes past all functions, is read like anything else."""

import copy

import pytest
import torch
import torch.nn.functional as F
from region_models import by_hand
from small_models import Pyramid, image
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import autoadapt as aa


class Centred(nn.Module):
    """Keeps a mean of its features, as memories of contrastive learning and prototypes do."""

    def __init__(self, write):
        super().__init__()
        self.c1, self.c2, self.c3 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 24, 3, 2, 1)
        self.head = nn.Conv2d(24, 5, 1)
        self.write = write
        self.register_buffer("center", torch.ones(16))

    def forward(self, x):
        b = self.c2(self.c1(x))
        mean = b.detach().mean((0, 2, 3))
        match self.write:
            case "assigned":
                self.center = 0.9 * self.center + 0.1 * mean
            case "in place":
                self.center.lerp_(mean, 0.1)
            case "in part":
                self.center[:4] = mean[:4]
            case "copied":
                self.center.copy_(mean)
            case "while it trains":
                if self.training:
                    self.center = 0.9 * self.center + 0.1 * mean
        return self.head(self.c3(F.relu(b)))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("write", ["assigned", "in place", "while it trains", "in part", "copied"])
def test_what_is_written_into_a_buffer_is_a_level(write):
    torch.manual_seed(0)
    old, x = Centred(write), image(2, 64, 64)
    model = aa.swap(copy.deepcopy(old), "c1:c3", Pyramid(6, 7, 9), inputs=x)
    assert model.c1.hand_on.handing.served == ("c2", "c3")
    assert torch.equal(model.center, torch.ones(16))
    with torch.no_grad():
        level = model.c1.alone()(x)["c2"] if write != "while it trains" else None
        model(x)
        if level is not None and write in ("assigned", "in place"):
            torch.testing.assert_close(model.center, 0.9 + 0.1 * level.mean((0, 2, 3)), rtol=1e-3, atol=1e-3)
    assert type(model.center) is torch.Tensor
    copy.deepcopy(old).load_state_dict(model.state_dict(), strict=False)


class Taken(nn.Module):
    """Takes a level past all functions: what comes of it is another object over the same memory."""

    def __init__(self):
        super().__init__()
        self.c1, self.c2, self.c3 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 24, 3, 2, 1)
        self.head, self.low = nn.Conv2d(24, 5, 1), nn.Conv2d(16, 5, 1)

    def forward(self, x, past=True):
        b = self.c2(self.c1(x))
        found = self.head(self.c3(F.relu(b)))
        return (found, self.low(b.as_subclass(torch.Tensor))) if past else found


def refuses_kinds_below_modes():
    """Whether this torch, as 2.5 does, lets no model call `as_subclass` while it is followed."""
    try:
        with FlopCounterMode(display=False):
            torch.ones(1).as_subclass(torch.Tensor)
    except RuntimeError:
        return True
    return False


@pytest.mark.skipif(refuses_kinds_below_modes(), reason="this torch refuses as_subclass below a dispatch mode")
def test_a_level_that_is_taken_as_another_kind_of_tensor_is_served():
    torch.manual_seed(0)
    old, x = Taken(), image(2, 64, 64)
    model = aa.swap(copy.deepcopy(old), "c1:c3", Pyramid(6, 7, 9), inputs=x).eval()
    assert model.c1.hand_on.handing.served == ("c2", "c3")
    with torch.no_grad():
        torch.testing.assert_close(model(x), by_hand(old, model.c1, x), rtol=0, atol=0)


def test_what_nobody_read_is_not_taken_as_another_kind_of_tensor():
    model = aa.swap(Taken(), "c1:c3", Pyramid(6, 7, 9), inputs={"x": image(), "past": False})
    with pytest.raises(RuntimeError, match="now as_subclass reads it"):
        model(image())


class Adding(nn.Module):
    """Adds one level to another in place, and goes on to read both."""

    def __init__(self, function):
        super().__init__()
        self.c1, self.c2, self.c3 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 24, 3, 2, 1)
        self.skip, self.head, self.low = nn.Conv2d(16, 24, 1, 2), nn.Conv2d(24, 5, 1), nn.Conv2d(24, 5, 1)
        self.function = function

    def forward(self, x):
        b = self.c2(self.c1(x))
        deep, skip = self.c3(b), self.skip(b)
        self.function(deep, skip)
        return self.head(deep), self.low(skip)


WRITES = {
    "sum": lambda deep, skip: deep.__iadd__(skip),
    "view": lambda deep, skip: deep.flatten(1).add_(skip.flatten(1)),
    "part": lambda deep, skip: deep.__setitem__((slice(None), slice(4)), skip[:, :4]),
    "activation": lambda deep, skip: F.relu_(deep),
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("write", WRITES)
def test_a_level_that_the_model_writes_over_is_no_tensor_of_the_new_module(write):
    torch.manual_seed(0)
    layers = [nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 16, 3, 2, 1), nn.Conv2d(16, 24, 3, 2, 1), nn.ReLU()]
    model, x = Adding(WRITES[write]), image(2, 64, 64)
    aa.swap(model, "c1:skip", nn.Sequential(*layers), inputs=x)
    level = model.c1.backbone(x)
    written = level.detach().clone()
    WRITES[write](written, level.detach())
    deep, low = model(x)
    torch.testing.assert_close(deep, model.head(written))
    torch.testing.assert_close(low, model.low(level))
    (deep.sum() + low.sum()).backward()
    assert model.c1.backbone[0].weight.grad is not None
