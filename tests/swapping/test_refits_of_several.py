"""Several adapted modules in one model, each folded or refitted in its turn."""

import pytest
import torch
from generated_decoders import Levels
from test_folding import assert_alike
from torch import nn

import autoadapt as aa

X = torch.randn(2, 3, 16, 16)


class Both(nn.Module):
    """Two branches, as of colours and of depth, whose levels are added, joined, or put beside each other."""

    def __init__(self, left, right):
        super().__init__()
        self.left, self.right = left, right
        self.sum = nn.Conv2d(6, 4, 3, padding=1)
        self.cat, self.part, self.beside = nn.Conv2d(16, 4, 1), nn.Conv2d(4, 2, 1), nn.Conv2d(6, 3, 1)

    def forward(self, x):
        (a, b), (c, d) = self.left(x), self.right(x)
        both = torch.cat([b, d], 1)
        return [
            self.sum(a + c),
            self.cat(both),
            self.part(both.chunk(4, 1)[1]),
            self.beside(torch.stack([a, c], 2)[:, :, 0]),
        ]


class Joined(nn.Module):
    """Two branches that are joined alone."""

    def __init__(self, left, right):
        super().__init__()
        self.left, self.right = left, right
        self.cat, self.head = nn.Conv2d(16, 6, 3, padding=1), nn.Conv2d(18, 2, 1)

    def forward(self, x):
        (a, b), (c, d) = self.left(x), self.right(x)
        joined = nn.functional.interpolate(self.cat(torch.cat([b, d], 1)), a.shape[2:])
        return [self.head(torch.cat([joined, a, c], 1))]


def model(kind=Both):
    torch.manual_seed(0)
    return kind(Levels(6, 8), Levels(6, 8)).eval()


def adapted():
    made = model()
    for path, widths in {"left": (3, 5), "right": (4, 2)}.items():
        aa.swap(made, path, Levels(*widths), inputs=X)
        for parameter in made.get_submodule(path).adapters.parameters():
            nn.init.normal_(parameter, std=0.5)
    return made


@pytest.mark.slow
@pytest.mark.parametrize("order", [("left", "right"), ("right", "left")])
def test_one_after_the_other_is_folded_and_saved(order, tmp_path):
    made = adapted()
    folded = made
    for path in order:
        folded = aa.fold(folded, at=path, inputs=X, outputs=["0", "1"])
    assert not [name for name, _ in folded.named_parameters() if "adapters" in name]
    assert [folded.get_submodule(path).folded.number for path in order] == [0, 1]
    assert (folded.sum.in_channels, folded.cat.in_channels) == (3 + 4 + 2, 5 + 2)  # and two of ones
    for size in (16, 24, 40):
        x = torch.randn(1, 3, size, size)
        assert_alike(folded(x), made(x))
    aa.save(folded, tmp_path / "model")
    back = aa.restore(tmp_path / "model", model=model(), new={"left": Levels(3, 5), "right": Levels(4, 2)})
    assert_alike(back(X), folded(X))


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "refit"), [(Both, True), (Joined, "shrink"), (Joined, True)])
def test_one_after_the_other_is_refitted_and_trains(kind, refit, tmp_path):
    made = model(kind)
    for path, widths in {"right": (4, 2), "left": (4, 5)}.items():
        aa.swap(made, path, Levels(*widths), inputs=X, refit=refit)
    assert (made.cat.in_channels, made.cat.out_channels) == (5 + 2, 4 if kind is Both else 6)
    made.train()
    sum(one.mean() for one in made(X)).backward()
    assert all(p.grad is not None for p in made.parameters())
    aa.save(made, tmp_path / "model")
    back = aa.restore(tmp_path / "model", model=model(kind), new={"left": Levels(4, 5), "right": Levels(4, 2)})
    made.eval()
    assert_alike(back.eval()(X), made(X))
    groups = {group["name"]: (group["lr"], len(group["params"])) for group in aa.param_groups(made, lr=1.0)}
    assert groups["rebuilt"][0] == 10.0
    assert {group["name"]: len(group["params"]) for group in aa.param_groups(back, lr=1.0)} == {
        name: count for name, (_, count) in groups.items()
    }
