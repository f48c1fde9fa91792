"""Long work tells what it is doing: a function, a logger, a notebook; and nobody where nobody asked."""

from __future__ import annotations

import io
import logging
import re
import sys
import time
import types
from pathlib import Path

import pytest
import torch
from torch import nn

import autoadapt as aa
from autoadapt.cli.outcomes import working
from autoadapt.showing.progress import Event, telling

OLD, X = nn.Conv2d(3, 8, 4, stride=4), torch.zeros(2, 3, 16, 16)


def new() -> nn.Module:
    return nn.Conv2d(3, 5, 2, stride=2)


def told(work: object) -> list[Event]:
    events: list[Event] = []
    with aa.progress(events.append):
        work()  # type: ignore[operator]
    return events


@pytest.mark.sampled(1)
@pytest.mark.parametrize(
    ("verb", "first"),
    [
        ("capture", "running Conv2d at several sizes"),
        ("swap", "running Sequential to see what it reads of 0"),
        ("verify", "signature"),
        ("calibrate", "128 tokens"),
        ("distil", "old model on the images held out"),
        ("rank", "Conv2d"),
        ("transfer", "reading the checkpoint"),
        ("export", "writing net.pt2 by torch.export"),
    ],
)
def test_every_verb_that_takes_long_tells_what_it_does(verb: str, first: str, tmp_path: Path) -> None:
    net = aa.adapt(new(), like=OLD, inputs=X)
    work = {
        "capture": lambda: aa.capture(OLD, X),
        "swap": lambda: aa.swap(nn.Sequential(OLD, nn.ReLU()), "0", new(), inputs=X),
        "verify": lambda: net.verify(),
        "calibrate": lambda: aa.calibrate(net, like=OLD, data=[torch.randn(8, 3, 16, 16)]),
        "distil": lambda: aa.distil(net, like=OLD, data=[torch.randn(8, 3, 16, 16) for _ in range(4)], steps=2),
        "rank": lambda: aa.rank([new()], like=OLD, inputs=X),
        "transfer": lambda: aa.transfer(OLD.state_dict(), nn.Conv2d(3, 8, 4, stride=4)),
        "export": lambda: aa.export(net, tmp_path / "net.pt2"),
    }
    events = [event for event in told(work[verb]) if event.verb == verb]
    assert events[0].text == first


def test_what_is_counted_is_told_with_its_total() -> None:
    events = told(lambda: aa.adapt(new(), like=OLD, inputs=X).verify())
    checks = [event for event in events if event.verb == "verify" and event.done is not None]
    assert [event.done for event in checks] == list(range(len(checks)))
    assert {event.total for event in checks} == {len(checks)}
    assert str(checks[1]) == f"verify: {checks[1].text} (1/{len(checks)})"


def test_what_a_verb_calls_is_told_as_a_part_of_it() -> None:
    events = told(lambda: aa.rank([new()], like=OLD, inputs=X))
    assert {event.verb for event in events} <= {"rank", "capture"}
    assert "capture: running Conv2d at several sizes" in [event.text for event in events if event.verb == "rank"]


def test_it_all_goes_to_the_logger(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="autoadapt"):
        aa.capture(OLD, X)
    assert "capture: running Conv2d at several sizes" in caplog.messages


def test_nothing_is_printed_where_nobody_listens(capfd: pytest.CaptureFixture[str]) -> None:
    aa.capture(OLD, X)
    assert capfd.readouterr() == ("", "")


def test_what_a_listener_raises_stops_the_work_and_the_model_is_as_it_was() -> None:
    model = nn.Sequential(OLD, nn.ReLU())

    def stop(event: Event) -> None:
        if "building" in event.text:
            raise KeyboardInterrupt

    with aa.progress(stop), pytest.raises(KeyboardInterrupt):
        aa.swap(model, "0", new(), inputs=X)
    assert model[0] is OLD
    assert told(lambda: aa.capture(OLD, X)), "another listener is heard afterwards"


def test_on_a_terminal_a_command_shows_names_with_brackets_and_how_much_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    terminal = io.StringIO()
    monkeypatch.setattr(terminal, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    with working("capturing [/x].py"), telling("capture", 4) as tell:
        tell("f32[B, 3]", 2)
        time.sleep(0.2)  # rich draws eight times a second
    assert "capturing [/x].py: f32[B, 3] (2/4)" in terminal.getvalue()


def drawn_in_a_notebook(monkeypatch: pytest.MonkeyPatch, total: int | None, *told: tuple[str, int | None]) -> str:
    """What stands in the output of a cell after each step, by tqdm in text."""
    tqdm = pytest.importorskip("tqdm")
    cell = io.StringIO()

    class Bar(tqdm.tqdm):
        def __init__(self, **options: object) -> None:
            super().__init__(**options, file=cell, ncols=60)

    shell = types.SimpleNamespace(config={"IPKernelApp": {}})
    monkeypatch.setitem(sys.modules, "IPython", types.SimpleNamespace(get_ipython=lambda: shell))  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=Bar))  # type: ignore[arg-type]
    with telling("verify", total) as tell:
        for text, done in told:
            tell(text, done)
    return cell.getvalue()


def test_in_a_notebook_a_bar_is_drawn_as_each_step_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = drawn_in_a_notebook(monkeypatch, 4, ("sizes", 0), ("calls", 1), ("capture: running", None))
    assert re.findall(r"verify: +(\d+)%[^\r]*?(\d)/4 [^\r]*, ([a-z]+)", drawn) == [
        ("0", "0", "sizes"),
        ("25", "1", "calls"),
        ("25", "1", "capture"),
    ]


def test_in_a_notebook_work_of_unknown_length_has_a_line_with_its_step(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "verify, reading [00:00]" in drawn_in_a_notebook(monkeypatch, None, ("reading", None))
