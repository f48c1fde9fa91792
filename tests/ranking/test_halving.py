"""Not every candidate is tried to the end, and the best of them are."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st
from ranked_models import INPUTS, OLD, Pyramid
from torch import nn

from autoadapt.contracts.costs import cost_of, cost_without_values
from autoadapt.errors import RankingError
from autoadapt.ranking import Ranked, Ranking, rank
from autoadapt.ranking.rungs import Clock, better, rungs

QUALITIES = st.floats(0, 1)
ROWS = st.lists(st.tuples(QUALITIES, st.integers(1, 100)), min_size=1, max_size=40)


@settings(deadline=None)  # what else the machine does is not measured
@given(st.integers(1, 10_000))
def test_each_step_has_four_times_as_many_images_and_the_last_has_all(images: int) -> None:
    none, *others, last = rungs(images)
    assert (none, last) == (0, images)
    assert others == [8 * 4**power for power in range(len(others))]
    assert all(other < last for other in others)
    assert 4 * (others[-1] if others else 2) >= last


@pytest.mark.slow
@settings(deadline=None)
@given(ROWS)
def test_a_quarter_climbs_the_best_among_them_and_nobody_that_no_other_beats_is_left(
    made: list[tuple[float, int]],
) -> None:
    rows = [Ranked(source=str(i), agreement=q, multiply_adds=c) for i, (q, c) in enumerate(made)]
    climbing = set(better([*rows, Ranked(source="refused", refused="no")]))
    assert "refused" not in climbing
    assert len(climbing) >= len(rows) / 4
    left = [row for row in rows if row.source not in climbing]
    for row in left:
        assert all((row.quality or 0) <= (one.quality or 0) for one in rows if one.source == better(rows)[0])
        assert any((o.quality or 0) >= (row.quality or 0) and o.multiply_adds <= row.multiply_adds for o in rows)


def test_from_plan_and_cost_all_that_fit_climb_the_cheapest_first() -> None:
    rows = [Ranked(source="dear", multiply_adds=9), Ranked(source="cheap", multiply_adds=1)]
    assert better([*rows, Ranked(source="none", refused="it does not fit")]) == ("cheap", "dear")
    assert better([]) == ()


def test_a_budget_is_a_time_and_nothing_else() -> None:
    assert [Clock.of(text).seconds for text in ("90s", "2 h", "1.5min", 3)] == [90, 7200, 90, 3]
    for wrong in ("soon", "2", 0, -1, True, "1 week"):
        with pytest.raises(RankingError, match=r"rank takes no such budget(.|\n)*2h"):
            Clock.of(wrong)


def test_what_is_left_of_the_time_is_shared_among_the_steps_that_are_left() -> None:
    clock = Clock(60.0, time.monotonic() - 20)
    assert clock.until(4) - time.monotonic() == pytest.approx(10, abs=0.5)
    assert clock.until(1) - time.monotonic() == pytest.approx(40, abs=0.5)
    assert Clock().until(4) == float("inf")


def test_costs_without_values_are_those_of_a_pass() -> None:
    net = Pyramid(3)
    told, run = cost_without_values(net, INPUTS), cost_of(net, INPUTS)
    assert told.seconds == 0
    assert told.model_dump(exclude={"seconds"}) == run.model_dump(exclude={"seconds"})


class WithoutValues(Pyramid):
    """Counts its passes of values."""

    passes = 0

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        type(self).passes += not x.is_meta
        return super().forward(x)


@pytest.fixture(scope="module")
def halved(tmp_path_factory: pytest.TempPathFactory) -> tuple[Ranking, list[Ranked], dict[str, Any]]:
    """Seven candidates and one that does not fit, 64 images of which 48 are fitted on."""
    torch.manual_seed(0)
    old, linear = Pyramid(8).eval(), nn.Linear(8, 6)
    images = nn.functional.interpolate(torch.randn(64, 3, 4, 4), size=(32, 32), mode="bilinear")
    with torch.no_grad():
        middle = linear(old(images)[-1].mean((2, 3))).mean(0)
    seen = list[Ranked]()

    def head(maps: list[torch.Tensor]) -> torch.Tensor:
        return 50 * (linear(maps[-1].mean((2, 3))) - middle)

    options: dict[str, Any] = {"inputs": images[:1], "data": images.split(16), "head": head, "images": 64}
    options |= {"candidates": {f"w{width}": Pyramid(width) for width in (2, 3, 4, 5, 6)}, "like": old}
    options["candidates"] |= {"itself": old, "flat": nn.Flatten()}
    state = tmp_path_factory.mktemp("halved") / "rank.jsonl"
    options["state"] = state
    return rank(**options, halving=True, report=lambda row, _done, _of: seen.append(row)), seen, options


@pytest.mark.slow
def test_the_best_comes_to_all_images_and_those_left_behind_follow_with_fewer(
    halved: tuple[Ranking, list[Ranked], dict[str, Any]],
) -> None:
    found, seen, _ = halved
    first, *others = found.best_first
    assert (first.source, first.images, first.agreement) == ("itself", 48, 1.0)
    assert [row.images for row in others] == sorted((row.images for row in others), reverse=True)
    assert {row.images for row in others} >= {8}
    assert [row.source for row in found.refused] == ["flat"]
    tried = {images: {row.source for row in seen if row.images == images} for images in (0, 8, 32, 48)}
    assert tried[8] == tried[0] - {"flat"}
    assert tried[48] <= tried[32] < tried[8]
    assert "images" in str(found)
    assert set(found.front()) <= tried[48]


@pytest.mark.slow
def test_the_last_step_is_the_same_as_without_halving_and_is_not_done_again(
    halved: tuple[Ranking, list[Ranked], dict[str, Any]],
) -> None:
    found, _, options = halved
    full = {row.source: row for row in rank(**options).rows}
    for row in found.rows:
        assert row.images < 48 or full[row.source] == row
    again = rank(**options, halving=True)
    assert [row for row in again.rows if not row.refused] == [row for row in found.rows if not row.refused]
    alone = rank(**{**options, "candidates": {"itself": options["like"]}, "state": None})
    measured = {"seconds", "took"}
    assert alone.rows[0].model_dump(exclude=measured) == full["itself"].model_dump(exclude=measured)


@pytest.mark.slow
def test_when_the_time_is_up_the_rest_says_so_and_a_later_call_goes_on(tmp_path: Path) -> None:
    state, candidates = tmp_path / "rank.jsonl", {f"w{width}": Pyramid(width) for width in (2, 3, 4)}

    def wait(row: Ranked, done: int, of: int) -> None:
        time.sleep(20)

    late = rank(candidates, OLD, inputs=INPUTS, state=state, budget=15, report=wait)
    assert [row.refused for row in late.rows] == ["", *2 * ["not tried: the time was up"]]
    assert not rank(candidates, OLD, inputs=INPUTS, state=state).refused


class Looking(Pyramid):
    """Runs on values alone."""

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        assert float(x.sum()) < float("inf")
        return super().forward(x)


@pytest.mark.slow
def test_by_plan_and_cost_no_weights_are_run_but_of_code_that_looks_at_values() -> None:
    old, images, seen = Pyramid(4).eval(), torch.randn(12, 3, 32, 32), list[tuple[str, str, int, int]]()
    WithoutValues.passes = 0

    def note(row: Ranked, done: int, of: int) -> None:
        seen.append((row.source, row.refused, row.multiply_adds, WithoutValues.passes))
        if done == of:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rank({"deaf": WithoutValues(2), "looking": Looking(2)}, old, data=[images], halving=True, report=note)
    (_, *deaf), (_, *looking) = seen
    assert deaf == looking
    assert deaf[0] == ""
    assert deaf[1] > 0
    assert deaf[2] == 0


def test_halving_without_images_is_refused() -> None:
    with pytest.raises(RankingError, match="without data nothing tells the better half"):
        rank({"one": Pyramid(2)}, OLD, inputs=INPUTS, halving=True)
