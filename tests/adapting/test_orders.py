"""In which order cells stand among tokens is measured: class tokens last, columns first, windows, the batch second."""

from __future__ import annotations

import pytest
import torch
from small_models import Pyramid
from timm.models._features import FeatureGetterNet
from timm.models.hiera import Hiera
from tokens import PATCH, Listed
from torch import nn

import autoadapt as aa
from autoadapt.contracts.capturing.cell_grid import Grid
from autoadapt.contracts.capturing.perturbing import order_of_tokens, responses
from autoadapt.contracts.signature import AxisSizes
from autoadapt.errors import MatchError

FIXED = (48, 80)
MAP = {"c3": "f32[B, 5, floor(H/8), floor(W/8)]"}


def example(size=(64, 64)):
    return torch.zeros(2, 3, *size)


def contract(text, size=None):
    sizes = None
    if size is not None:
        sizes = {name: AxisSizes(step=0, example=n) for name, n in zip("HW", size, strict=True)}
        sizes |= {"B": AxisSizes(example=2)}
    return aa.Signature.parse({"c3": text}, inputs="f32[B, 3, H, W]", axes=sizes)


def projected(net, map_BCHW):
    """What the one projection of a net makes of a map."""
    layer = net.adapters.c3.project
    weight_DC = layer.weight.flatten(1)
    return torch.einsum("bchw,dc->bdhw", map_BCHW, weight_DC) + layer.bias[:, None, None]


WAYS = [
    {"way": "rows"},
    {"way": "rows", "before": 1},
    {"way": "columns"},
    {"way": "columns", "behind": 1},
    {"way": "rows", "axes": "nbc"},
    {"way": "columns", "axes": "bcn"},
    {"way": "rows", "behind": 1},
    {"way": "rows", "behind": 3},
    {"way": "rows", "before": 1, "behind": 2},
    {"way": "columns", "before": 1},
    {"way": "columns", "axes": "nbc", "behind": 1},
    {"way": "rows", "axes": "bcn", "behind": 1},
]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("size", [None, FIXED, (64, 64)])
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_cell_of_a_map_made_of_tokens_is_in_its_place(way, size):
    new = Listed(**way, size=size).eval()
    x = example(size or (64, 64))
    net = aa.adapt(new, like=contract("f32[B, 5, floor(H/8), floor(W/8)]", size), inputs=x).eval()
    (route,) = net.plan.routes
    assert route.source == "output"
    for height, width in [size] if size else [(64, 64), (48, 80), (96, 32)]:
        image = torch.randn(2, 3, height, width)
        expected = projected(net, new.map_of(new(image), height // PATCH, width // PATCH))
        assert torch.allclose(net(image)["c3"], expected, atol=1e-5)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("way", [way for way in WAYS if "axes" not in way], ids=str)
def test_blocks_are_tapped_in_the_order_in_which_they_list_cells(way):
    new = nn.Sequential(Listed(**way), Pooled()).eval()
    net = aa.adapt(new, like=contract("f32[B, 5, floor(H/8), floor(W/8)]"), inputs=example()).eval()
    (route,) = net.plan.routes
    assert route.source in ("0", "0.blocks.2")
    image = torch.randn(2, 3, 48, 80)
    assert torch.allclose(net(image)["c3"], projected(net, new[0].map_of(new[0](image), 6, 10)), atol=1e-5)


class Pooled(nn.Module):
    """A classifier on the mean of tokens."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(12, 7)

    def forward(self, tokens):
        return self.head(tokens.mean(1))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("way", WAYS, ids=str)
def test_an_old_module_that_lists_cells_otherwise_gets_them_as_it_had_them(way):
    old, new = Listed(**{**way, "before": 0, "behind": 0}).eval(), nn.Conv2d(3, 12, 8, 8)
    nn.init.dirac_(new.weight)
    net = aa.adapt(new, like=old, inputs=example()).eval()
    image = torch.randn(2, 3, 48, 80)
    assert not list(net.adapters.children())
    assert torch.equal(old.map_of(net(image), 6, 10), new(image))
    assert net.verify(example()).passed


def test_cells_in_windows_are_asked_for():
    new = nn.Sequential(Listed("windows"), Pooled()).eval()
    with pytest.raises(MatchError, match="cannot be read as a grid") as refused:
        aa.adapt(new, like=contract("f32[B, 5, floor(H/8), floor(W/8)]"), inputs=example())
    assert 'grid={"' in refused.value.mismatches[0].remedy
    with pytest.raises(MatchError, match="cells neither in rows nor in columns"):
        aa.adapt(Listed("windows"), like=contract("f32[B, 5, floor(H/8), floor(W/8)]"), inputs=example())
    with pytest.raises(MatchError, match="in which order cells of the image stand"):
        aa.adapt(nn.Conv2d(3, 12, 8, 8), like=Listed("windows"), inputs=example())
    fixed = Listed("windows", size=FIXED)
    with pytest.raises(MatchError, match="cells neither in rows nor in columns"):
        aa.adapt(fixed, like=contract("f32[B, 5, floor(H/8), floor(W/8)]", FIXED), inputs=example(FIXED))


@pytest.mark.slow
def test_a_model_that_lists_levels_of_windows_is_told_to_return_them_as_maps_and_then_serves():
    new, x = Hiera(img_size=(64, 64), embed_dim=8, num_heads=1, stages=(1, 1, 1), q_pool=2).eval(), example()
    old = aa.capture(Pyramid(4, 6, 8, 10), x)
    with pytest.raises(MatchError, match="cannot be read as a grid") as refused:
        aa.adapt(new, like=old, outputs=["1", "2", "3"], inputs=x)
    (fault,) = refused.value.mismatches
    assert (fault.where, "features_only=True" in fault.remedy) == ("blocks.1", True)
    net = aa.adapt(FeatureGetterNet(new, out_indices=(0, 1, 2)), like=old, outputs=["1", "2", "3"], inputs=x)
    assert [route.source for route in net.plan.routes] == ["0", "1", "2"]


@pytest.mark.sampled(1)
@pytest.mark.parametrize("way", [*WAYS, {"way": "windows"}], ids=str)
def test_what_is_like_itself_is_passed_on_in_any_order(way):
    old = Listed(**way).eval()
    net = aa.adapt(old, like=old, inputs=example()).eval()
    image = torch.randn(2, 3, 64, 48)
    assert not list(net.adapters.children())
    assert torch.equal(net(image), old(image))


def test_means_over_cells_in_an_unknown_order_are_allowed():
    net = aa.adapt(Listed("windows"), like=contract("f32[B, 5]"), inputs=example())
    assert net(example())["c3"].shape == (2, 5)


def test_class_tokens_at_the_other_end_are_refused():
    with pytest.raises(MatchError) as refused:
        aa.adapt(Listed(before=1), like=Listed(behind=1), inputs=example())
    assert "the target has 1 trailing token and the source 1 leading token" in str(refused.value)


@pytest.mark.sampled(4)
@pytest.mark.parametrize("size", [(64, 64), (40, 56)])
@pytest.mark.parametrize("way", [*WAYS, {"way": "windows", "before": 1}], ids=str)
def test_the_order_of_interpolated_cells_is_told_although_a_shift_by_one_hardly_shows(way, size):
    spec = aa.capture(Listed(**way, finer=2, blocks=1).eval(), example(size)).outputs.leaves[0]
    told = "unknown" if way["way"] == "windows" else way["way"]
    assert (spec.cells, spec.trailing) == (told, 0 if told == "unknown" else way.get("behind", 0))


@pytest.mark.slow
def test_verify_sees_cells_in_another_order():
    old = Listed(behind=1).eval()
    for other in (Listed(before=1), Listed("columns", behind=1)):
        report = aa.verify(other.eval(), aa.capture(old, example()), inputs=example())
        assert report["signature"].outcome == "failed"
        assert "1 last" in report["signature"].faults[0].expected


def test_the_module_runs_once_for_real_and_on_meta_not_at_all():
    class Counted(Listed):
        runs = 0

        def forward(self, x):
            Counted.runs += x.device.type != "meta"
            return super().forward(x)

    new = Counted("columns")
    spec = aa.capture(new, example(), confirm=False).outputs.leaves[0]
    assert (spec.cells, Counted.runs) == ("columns", 1)
    assert aa.capture(new.to("meta"), example()).outputs.leaves[0].cells == "rows"
    assert Counted.runs == 1


def test_tokens_that_move_alike_tell_nothing_and_peaks_elsewhere_tell_disorder():
    assert order_of_tokens(torch.ones(2, 30).numpy(), Grid(5, 6)) is None
    peaks = torch.full((2, 30), 0.1)
    peaks[0, 11], peaks[1, 2] = 3.0, 3.0
    assert order_of_tokens(peaks.numpy(), Grid(5, 6)) == ("unknown", 0)


@pytest.mark.parametrize("value", [0.0, float("inf"), float("nan")])
def test_tokens_without_a_finite_change_tell_no_order_and_no_warning(value):
    found = responses(torch.full((3, 30, 4), value))
    assert order_of_tokens(found, Grid(5, 6)) is None
