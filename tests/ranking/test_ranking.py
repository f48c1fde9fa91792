"""Candidates are weighed, calibrated and put in order; what fails is a row."""

from __future__ import annotations

import html
import itertools
import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
import timm
import torch
from ranked_models import INPUTS, OLD, Pyramid
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

from autoadapt.contracts.capturing import capture
from autoadapt.errors import RankingError
from autoadapt.ranking import Ranked, Ranking, rank
from autoadapt.ranking.image_batches import Batch, gathered, split
from autoadapt.ranking.pictures import draw
from autoadapt.showing import Dot, Scatter
from autoadapt.showing.blocks import FONTS, text_width
from autoadapt.showing.scatters import scatter_svg


def levels(width: int, seed: int) -> nn.Module:
    """A small real backbone of two levels."""
    torch.manual_seed(seed)
    return timm.create_model("resnet18", features_only=True, out_indices=(2, 3), channels=(width,) * 4)


class Head(nn.Module):
    """Six classes read off both levels, sharp enough that images differ."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.linear = nn.Linear(2 * width, 6)
        self.middle = 0.0

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        return 50 * (self.linear(torch.cat([level.mean((2, 3)) for level in maps], 1)) - self.middle)


@pytest.fixture(scope="module")
def judged() -> Ranking:
    """The old network itself, a narrow one, a deaf one and one that does not fit, judged by the old head."""
    torch.manual_seed(0)
    old, head = Pyramid(16).eval(), Head(16).eval()
    deaf = Pyramid(16)
    nn.init.zeros_(deaf.first[0].weight)
    candidates = {"deaf": deaf, "narrow": Pyramid(4), "itself": old, "flat": nn.Flatten()}
    grain = torch.randn(64, 3, 4, 4)
    images = nn.functional.interpolate(grain, size=(32, 32), mode="bilinear")
    with torch.no_grad():
        head.middle = head(old(images)).mean(0) / 50
    return rank(candidates, old, inputs=images[:1], data=images.split(16), head=head)


def test_the_best_comes_first_and_what_cannot_see_comes_last(judged: Ranking) -> None:
    names = [row.source for row in judged.best_first]
    assert names == ["itself", "narrow", "deaf"]
    itself, narrow, deaf = judged.best_first
    assert itself.agreement is not None
    assert itself.agreement > 0.95
    assert itself.divergence is not None
    assert narrow.divergence is not None
    assert itself.divergence < narrow.divergence
    assert itself.r2 == pytest.approx(1, abs=1e-3)
    assert deaf.remark.startswith("no use: ")


def test_a_candidate_that_fails_is_a_row_with_the_reason_and_a_remedy(judged: Ranking) -> None:
    (flat,) = judged.refused
    assert flat.source == "flat"
    assert flat.refused
    assert "not ranked: flat" in str(judged)


def test_the_front_has_what_no_other_beats(judged: Ranking) -> None:
    front = judged.front("multiply_adds")
    assert "itself" in front
    by_name = {row.source: row for row in judged.best_first}
    for name in set(by_name) - set(front):
        assert any(
            other.multiply_adds <= by_name[name].multiply_adds
            and (other.agreement or 0) >= (by_name[name].agreement or 0)
            for other in by_name.values()
            if other.source != name
        )


def row(name: str, agreement: float, seconds: float) -> Ranked:
    return Ranked(source=name, agreement=agreement, divergence=1 - agreement, seconds=seconds)


def test_of_made_up_rows_the_front_is_known() -> None:
    rows = (
        row("slow", 0.9, 3),
        row("good", 0.8, 2),
        row("worse", 0.7, 2),
        row("fast", 0.1, 1),
        row("as fast", 0.05, 1),
    )
    made = Ranking(like="old", inputs="x", images=8, threads=1, rows=rows)
    assert made.front() == ("slow", "good", "fast")
    marked = [line.split()[1] for line in str(made).splitlines() if line.startswith(" *  ")]
    assert marked == ["slow", "good", "fast"]
    useless = row("of no use", 0.0, 0.1).model_copy(update={"fitted": False})
    assert made.model_copy(update={"rows": (*rows, useless)}).front() == made.front()


def test_the_table_has_eighty_columns_and_every_figure(judged: Ranking) -> None:
    text = str(judged)
    assert max(map(len, text.splitlines())) <= 80
    assert re.search(r"^ +candidate +params +kept +adapters +MACs +ms +MiB +agrees +KL$", text, re.MULTILINE)
    assert Ranking.model_validate_json(judged.model_dump_json()) == judged


def test_long_names_keep_their_beginning_and_end_in_eighty_columns() -> None:
    rows = tuple(row(f"timm:vit_small_patch16_224.augreg_in21k_ft_in1k_{i}", 0.123, 12.3) for i in range(12))
    text = str(Ranking(like="x" * 200, inputs="f32[1, 3, 224, 224]", images=128, threads=2, rows=rows))
    assert max(map(len, text.splitlines())) <= 80
    assert all(re.search(rf" vit_small\S*…\S*in1k_{i} ", text) for i in range(12))


@pytest.mark.slow
def test_names_are_loaded_and_patterns_spelt_out_and_time_sorts_without_data() -> None:
    found = rank(["timm:resnet1[48]t", "timm:resnet18", "timm:resnet1"], OLD, inputs=INPUTS)
    assert [one.source for one in found.rows] == ["timm:resnet14t", "timm:resnet18", "timm:resnet1"]
    assert found.best_first[0].seconds <= found.best_first[1].seconds
    small, big, missing = found.rows
    cut = timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3))
    assert big.parameters == sum(parameter.numel() for parameter in cut.parameters())
    assert big.adapter_parameters == 128 * 24 + 24 + 256 * 48 + 48
    assert small.multiply_adds > 0
    assert small.memory > 0
    assert "no such model" in missing.refused
    assert missing.remedy.startswith("timm:resnet1")
    assert "without data nothing tells how well they serve" in str(found)
    assert not found.front()


def test_every_fourth_image_is_held_out_and_never_fitted_on() -> None:
    images = torch.arange(10.0)[:, None, None, None].expand(-1, 3, 8, 8)
    batches = gathered([images[:3], images[3:4], images[4:]], nn.Conv2d(3, 1, 1), 9)
    fitted, held = split(batches)

    def numbers(some: list[Batch]) -> list[int]:
        return [int(image[0, 0, 0]) for batch in some for image in batch.arguments.values["input"]]

    assert numbers(batches) == [*range(9)]
    assert numbers(fitted) == [0, 1, 2, 4, 5, 6, 8]
    assert numbers(held) == [3, 7]


@pytest.mark.slow
def test_images_of_a_loader_with_labels_and_of_dictionaries_are_taken() -> None:
    old, images = Pyramid(4).eval(), torch.randn(16, 3, 16, 16)
    head = Head(4).eval()
    loader = DataLoader(TensorDataset(images, torch.zeros(16)), batch_size=4, shuffle=True)
    found = rank({"narrow": Pyramid(2)}, old, data=loader, head=head)
    assert (found.images, found.held_out, found.inputs) == (12, 4, "f32[1, 3, 16, 16]")
    again = rank({"itself": old}, old, data=({"x": part} for part in images.split(8)), head=head)
    assert (again.images, again.held_out) == (12, 4)
    assert again.rows[0].agreement == 1.0


@pytest.mark.slow
def test_the_head_judges_on_the_images_that_are_named() -> None:
    old, head = Pyramid(4).eval(), Head(4).eval()
    fitted, other = torch.randn(12, 3, 16, 16), 30 + torch.randn(5, 3, 16, 16)
    known, beside = (
        rank({"narrow": Pyramid(2)}, old, data=[fitted], head=head, held_out=[held]) for held in (fitted, other)
    )
    assert (known.images, known.held_out, beside.images, beside.held_out) == (12, 12, 12, 5)
    assert known.rows[0].divergence != beside.rows[0].divergence
    with pytest.raises(RankingError, match="too few images"):
        rank({"narrow": Pyramid(2)}, old, data=[fitted[:3]], head=head)


@pytest.mark.slow
def test_without_a_head_the_variance_explained_is_the_quality() -> None:
    torch.manual_seed(0)
    old, images = Pyramid(8).eval(), torch.randn(16, 3, 16, 16)
    found = rank({"itself": old, "narrow": Pyramid(2)}, old, inputs=images[:1], data=iter(images.split(4)), images=16)
    assert [one.source for one in found.best_first] == ["itself", "narrow"]
    assert found.rows[0].agreement is None
    assert found.rows[0].r2 == pytest.approx(1, abs=1e-3)
    assert " R2" in str(found)


@pytest.mark.slow
def test_random_weights_are_said_to_say_little() -> None:
    old = capture(levels(24, 0), INPUTS)
    assert not rank(["timm:resnet14t"], old, inputs=INPUTS).remarks
    net, images = Pyramid(4).eval(), torch.randn(8, 3, 32, 32)
    found = rank(["timm:resnet14t"], net, inputs=images[:1], data=[images])
    assert "random weights" in found.remarks[0]


def test_what_cannot_be_ranked_is_said_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(RankingError, match="a signature alone cannot be calibrated to"):
        rank(["timm:resnet18"], OLD, inputs=INPUTS, data=[INPUTS])
    with pytest.raises(RankingError, match=r"no model fits timm:rasnet\*(.|\n)*try +timm:resnet"):
        rank("timm:rasnet*", OLD, inputs=INPUTS)
    with pytest.raises(RankingError, match="there are no candidates"):
        rank([], OLD, inputs=INPUTS)
    with pytest.raises(RankingError, match=r"rank.txt is no picture(.|\n)*rank.svg"):
        Ranking(like="old", inputs="x", threads=1, rows=(row("a", 1, 1),)).picture(tmp_path / "rank.txt")


def test_no_candidate_that_fits_can_be_raised() -> None:
    found = rank({"flat": nn.Flatten()}, OLD, inputs=INPUTS)
    assert not found
    with pytest.raises(RankingError, match="no candidate fits"):
        found.raise_if_failed()


@pytest.mark.slow
def test_modules_of_one_class_get_names_of_their_own_and_are_left_as_they_were() -> None:
    nets = [Pyramid(2), Pyramid(3)]
    before = [{name: t.clone() for name, t in net.state_dict().items()} for net in nets]
    torch.manual_seed(1)
    expected, _ = torch.randn(2), torch.manual_seed(1)
    found = rank(nets, ["f32[B, 8, ceil(H/4), ceil(W/4)]"], inputs=INPUTS)
    assert [one.source for one in found.rows] == ["Pyramid", "Pyramid-2"]
    assert torch.equal(torch.randn(2), expected)
    for net, state in zip(nets, before, strict=True):
        assert net.training
        assert all(torch.equal(t, state[name]) for name, t in net.state_dict().items())


@pytest.mark.slow
def test_the_same_candidates_give_the_same_figures() -> None:
    old, images = Pyramid(4).eval(), torch.randn(8, 3, 32, 32)

    def facts() -> list[tuple[float | None, int]]:
        found = rank(["timm:test_resnet", "timm:test_vit"], old, inputs=images[:1], data=[images])
        return [(one.r2, one.multiply_adds) for one in found.rows]

    assert facts() == facts()


def test_a_picture_of_each_kind_is_drawn(judged: Ranking, tmp_path: Path) -> None:
    judged.picture(tmp_path / "rank.svg")
    text = (tmp_path / "rank.svg").read_text()
    assert "<svg" in text
    judged.picture(tmp_path / "rank.png", cost="memory")
    assert (tmp_path / "rank.png").read_bytes().startswith(b"\x89PNG")
    rank({"one": Pyramid(2)}, ["f32[B, 8, ceil(H/4), ceil(W/4)]"], inputs=INPUTS).picture(tmp_path / "cost.svg")
    assert (tmp_path / "cost.svg").stat().st_size > 1000


def test_names_in_a_picture_do_not_cover_one_another() -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.text import Text

    from autoadapt.ranking.pictures import label

    figure = Figure(figsize=(9, 6), dpi=150)
    axes = figure.subplots()
    canvas = FigureCanvasAgg(figure)
    points = [Dot(f"a_rather_long_name_{i}", 10 + i % 7 * 0.1, 0.01 * (i // 7), False) for i in range(20)]
    points += [Dot("far_away", 90, 0.9, True)]
    axes.scatter([point.across for point in points], [point.up for point in points])
    canvas.draw()
    label(axes, points, canvas.get_renderer())
    canvas.draw()
    boxes = [Text.get_window_extent(text, canvas.get_renderer()) for text in axes.texts]
    covered = [
        (left, right)
        for i, left in enumerate(boxes)
        for right in boxes[:i]
        if min(left.x1, right.x1) - max(left.x0, right.x0) > 1 and min(left.y1, right.y1) - max(left.y0, right.y0) > 1
    ]
    assert len(boxes) == 21
    assert not covered


def test_a_page_shows_every_candidate_once_in_a_scatter_and_no_name_lies_on_another(judged: Ranking) -> None:
    hostile = judged.model_copy(update={"rows": (*judged.rows, judged.rows[0].model_copy(update={"source": "<b>x"}))})
    page = hostile._repr_html_()
    assert "<b>x" not in page
    wide, narrow = re.findall(r'<svg .*?class="aa-picture aa-scatter".*?</svg>', page, re.DOTALL)
    for picture in (wide, narrow):
        assert picture.count("<circle") == len(hostile.points())
        assert_apart(names_in(picture), len(hostile.points()))


def names_in(picture: str) -> list[tuple[float, float, float]]:
    """Left, baseline and width of each name."""
    return [
        (float(x), float(y), text_width(html.unescape(name), "spec"))
        for x, y, name in re.findall(r'<text x="([\d.]+)" y="([\d.]+)" class="aa-spec">(.*?)<', picture)
    ]


def assert_apart(names: list[tuple[float, float, float]], count: int) -> None:
    assert len(names) == count
    for (x, y, width), (other_x, other_y, other_width) in itertools.combinations(names, 2):
        apart = x + width <= other_x or other_x + other_width <= x or abs(y - other_y) >= FONTS["spec"].line - 0.2
        assert apart


@pytest.mark.parametrize("values", [[0.0], [3.0, 3.0], [0.0, 1e-9], [0.2, 0.9], [-1.0, 40.0], [0.02, 3e4]])
def test_a_scatter_has_a_few_ticks_whatever_the_values(values: list[float]) -> None:
    drawn = scatter_svg(Scatter("", "ms", "agrees", tuple(Dot("a", abs(value), value, True) for value in values)))
    up = re.findall(r'text-anchor="end" class="aa-head">', drawn)
    across = re.findall(r'text-anchor="middle" class="aa-head">[\d.e-]+<', drawn)
    assert 2 <= len(up) <= 8
    assert 3 <= len(across) <= 8
    assert "nan" not in drawn


def test_a_name_does_not_lie_on_the_line_through_the_best() -> None:
    dots = (Dot("narrow", 0.24, 0.3, True), Dot("wide", 0.25, 1.0, True))
    for width in (760.0, 352.0):
        drawn = scatter_svg(Scatter("", "ms", "agrees", dots), width=width)
        (path,) = re.findall(r'd="M([^"]+)" class="aa-front"', drawn)
        places = [tuple(map(float, place.split())) for place in path.split("L")]
        for left, baseline, taken in names_in(drawn):
            for (x, y), (to_x, to_y) in itertools.pairwise(places):
                beside = max(x, to_x) < left or left + taken < min(x, to_x)
                above = max(y, to_y) < baseline - 9 or baseline < min(y, to_y)
                assert beside or above


def test_a_picture_of_costs_that_are_nearly_equal_has_ticks_too(tmp_path: Path) -> None:
    path = tmp_path / "rank.svg"
    draw([Dot("a", 0.24, 0.3, True), Dot("b", 0.25, 1.0, True)], path, across="ms", up="agreement", title="t")
    assert len(re.findall(r'<g id="xtick_\d+">', path.read_text("utf-8"))) >= 3


@pytest.mark.sampled(1)
@pytest.mark.parametrize("name", ["a\x1b[31m\x07", "a\u202eb", "a\uffff", "a\udcff", r"$\frac$", "a\nb"])
def test_a_picture_shows_names_as_text_and_stays_a_picture(name: str, tmp_path: Path) -> None:
    draw([Dot(name, 1, 1, True)], tmp_path / "rank.svg", across="ms", up="agreement", title=f"in place of {name}")
    drawn = (tmp_path / "rank.svg").read_text("utf-8")
    ElementTree.fromstring(drawn)
    assert all(line.isprintable() for line in drawn.split("\n"))
    for line in ascii(name)[1:-1].split("\\n"):
        assert drawn.count(line.replace("\\\\", "\\")) >= 2


class Leaves(nn.Module):
    """A script's module, which ends the script where something is not as it wants it."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        raise SystemExit(0)


def test_a_candidate_that_ends_the_program_is_a_row_that_says_so() -> None:
    old, new = nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(3, 6, 4, stride=4)
    found = rank({"leaves": Leaves(), "stays": new}, old, inputs=torch.zeros(1, 3, 16, 16))
    assert {row.source: row.refused for row in found.rows} == {"leaves": "SystemExit: 0", "stays": ""}
