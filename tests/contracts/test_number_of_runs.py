"""A capture runs a module no more often than it takes to tell its sizes."""

import gc
import weakref
from typing import ClassVar

import pytest
import torch
from torch import nn

import autoadapt as aa
from autoadapt.contracts.capturing import ordering
from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.capturing.centres import CentresFollowed
from autoadapt.contracts.capturing.inner_calls import InnerCalls
from autoadapt.contracts.capturing.perturbing import responses
from autoadapt.contracts.capturing.probing import Probe
from autoadapt.contracts.leaves import READ


class Counting(nn.Module):
    """Patches of images, and how often all copies of it ran, with values and without."""

    ran: ClassVar[list[str]] = []

    def __init__(self, patch, also=1):
        super().__init__()
        self.patch, self.also = nn.Conv2d(3, 4, patch, patch), also

    def forward(self, x):
        Counting.ran.append("without" if x.is_meta else "real")
        sizes = [size % (self.patch.kernel_size[0] * self.also) for size in x.shape[2:]]
        if any(sizes):
            raise ValueError("sizes must be whole patches")
        return self.patch(x)


@pytest.mark.parametrize(("patch", "also", "most"), [(16, 1, 15), (14, 1, 17), (1, 1, 10), (4, 3, 28)])
def test_steps_are_looked_for_at_the_patches_of_a_module(patch, also, most):
    Counting.ran.clear()
    signature = aa.capture(Counting(patch, also), torch.zeros(1, 3, 168 * 4, 168 * 4))
    assert (signature.axes["H"].step, signature.axes["W"].step) == (patch * also, patch * also)
    assert Counting.ran.count("without") <= most
    assert Counting.ran.count("real") <= 3


class Uneven(nn.Module):
    """Patches of 16 pixels, of which it takes numbers that differ for each axis."""

    def __init__(self, samples, rows, columns, least=0, square=False):
        super().__init__()
        self.patch, self.steps, self.least, self.square = (
            nn.Conv2d(3, 4, 16, 16),
            (samples, rows, columns),
            least,
            square,
        )

    def forward(self, x):
        samples, _, *sides = x.shape
        whole = not any(size % step for size, step in zip((samples, *sides), self.steps, strict=True))
        if not whole or min(sides) < self.least or (self.square and sides[0] != sides[1]):
            raise ValueError("not such sizes")
        return self.patch(x)


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("module", "steps"),
    [
        (Uneven(1, 16, 32), [1, 16, 32]),
        (Uneven(1, 1, 2), [1, 1, 2]),
        (Uneven(2, 16, 16), [2, 16, 16]),
        (Uneven(1, 16, 16, least=224), [1, 16, 16]),
        (Uneven(1, 1, 1, least=224), [1, 1, 1]),
        (Uneven(1, 1, 1, square=True), [1, 0, 0]),
        (Uneven(1, 16, 16, square=True), [1, 0, 0]),
    ],
)
def test_sizes_that_vary_together_do_not_hide_that_axes_have_other_steps(module, steps):
    signature = aa.capture(module, torch.zeros(2, 3, 224, 224), confirm=False)
    assert [signature.axes[name].step for name in "BHW"] == steps


class Stages(nn.Module):
    """Two layers, of which the second may write over what the first returned; notes each pass of any copy."""

    ran: ClassVar[list[bool]] = []

    def __init__(self, inplace=False):
        super().__init__()
        self.first, self.act, self.second = nn.Conv2d(3, 4, 3, 2, 1), nn.ReLU(inplace), nn.Conv2d(4, 4, 3, 2, 1)

    def forward(self, x):
        Stages.ran.append(self.training)
        return self.second(self.act(self.first(x)))


@pytest.mark.parametrize(
    ("inplace", "taps", "passes"),
    [(False, {}, 2), (False, {"c2": "second"}, 2), (True, {"c2": "first"}, 2)],
    ids=["cut", "nothing to cut", "written over"],
)
def test_a_build_runs_a_view_that_trains_without_what_it_cuts_once_in_each_mode(inplace, taps, passes):
    x, level = torch.zeros(1, 3, 32, 32), "f32[B, 4, ceil(H/4), ceil(W/4)]" if "second" in taps.values() else LEVEL
    new = Stages(inplace)
    plan = aa.adapt(new, like={"c2": level}, inputs=x, taps=taps).plan
    Stages.ran.clear()
    assert aa.build(new, plan).plan == plan
    assert Stages.ran.count(True) == passes // 2
    assert Stages.ran.count(False) == passes // 2 + 1  # what is built returns what the plan says


class Streams(nn.Module):
    """Blocks whose sums no module returns, one of them called twice, levels in a dict, and a head of vectors."""

    def __init__(self):
        super().__init__()
        self.stem, self.blocks = nn.Conv2d(3, 8, 4, 4), nn.ModuleList(nn.Conv2d(8, 8, 1) for _ in range(3))
        self.again, self.norm, self.head = nn.ReLU(), Named(), nn.Linear(8, 5)

    def forward(self, x):
        x = self.stem(x)
        for block in self.blocks:
            x = self.again(block(x)) + x
        levels = self.norm(x)
        return self.head(levels["a"].mean((2, 3)))


class Named(nn.Module):
    def forward(self, x):
        return {"a": x * 2, "b": (x, x.int())}


def test_a_run_at_another_size_notes_the_shapes_that_a_run_at_length_notes():
    probe = Probe(Streams(), Arguments({"x": torch.zeros(2, 3, 32, 32)}, 1), real=False, inner=True)
    first = probe.run()
    at_length, shapes = (probe.run([(1, 3, 64, 40)], known=known) for known in (None, first.inner))
    assert {path for _, _, path in first.inner} >= {READ, "output", "a", "b.0", "b.1"}
    assert first.inner.keys() == at_length.inner.keys() == shapes.inner.keys()
    for key, leaf in shapes.inner.items():
        assert leaf.shape == at_length.inner[key].shape != first.inner[key].shape


def test_a_run_that_follows_cells_and_notes_shapes_alone_finds_the_cells_that_a_run_at_length_finds():
    probe = Probe(Streams(), Arguments({"x": torch.zeros(2, 3, 32, 32)}, 1), real=False, inner=True)
    known, names, sizes = probe.run().inner, [("B", "", "H", "W")], [(1, 3, 64, 40)]
    at_length, shapes = (probe.run(sizes, follow=names, known=noted) for noted in (None, known))
    assert shapes.grids == at_length.grids
    assert any(leaf.grid for leaf in shapes.inner.values())
    for key, leaf in shapes.inner.items():
        assert leaf.grid == at_length.inner[key].grid


def test_hooks_are_put_on_a_copy_once_and_let_it_go():
    model, followed = Streams(), CentresFollowed([])
    calls = InnerCalls(model)
    for _ in range(2):
        with torch.no_grad(), calls.watched(True, followed) as watcher:
            model(torch.zeros(1, 3, 8, 8))
        assert watcher.noted
    assert all(len(part._forward_hooks) == 1 for path, part in model.named_modules() if path)
    gc.collect()
    gc.disable()
    try:
        kept = weakref.ref(model)
        del model
        assert kept() is None
    finally:
        gc.enable()


LEVEL = "f32[B, 4, ceil(H/2), ceil(W/2)]"


class Rolled(nn.Module):
    """Writes the class token behind the cells, into the tensor that it is given."""

    def forward(self, tokens):
        return tokens.copy_(tokens.roll(-1, 1))


class Tokens(nn.Module):
    """A class token and cells, which pass layers without effect before the class token is moved behind them."""

    def __init__(self):
        super().__init__()
        self.patch, self.first = nn.Conv2d(3, 8, 16, 16), nn.Parameter(torch.randn(1, 1, 8))
        self.mix, self.same, self.roll, self.last = (
            nn.Linear(8, 8),
            nn.Sequential(*map(nn.Dropout, [0.1] * 4)),
            Rolled(),
            nn.Identity(),
        )

    def forward(self, x):
        cells = self.patch(x).flatten(2).transpose(1, 2)
        return self.last(self.roll(self.same(self.mix(torch.cat([self.first.expand(len(x), -1, -1), cells], 1)))))


def test_the_order_of_tokens_is_looked_for_once_in_a_tensor_and_again_once_it_is_written_over(monkeypatch):
    torch.manual_seed(0)
    looked = []
    monkeypatch.setattr(ordering, "responses", lambda tokens: looked.append(tokens.shape) or responses(tokens))
    signature = aa.capture(Tokens(), torch.zeros(2, 3, 96, 96), inner=True)
    inner = {one.module: one.spec.trailing for one in signature.inner if len(one.spec.dims) == 3 and not one.is_read}
    assert inner["mix"] == inner["same"] == 0
    assert inner["roll"] == inner["last"] == signature.outputs.leaves[0].trailing == 1
    assert len(looked) == 2
