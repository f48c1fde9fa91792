"""Arguments of another type are refused by name, with what to write, by verbs that only read them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

import autoadapt as aa

X = torch.zeros(1, 3, 8, 8)
CALLS = {
    "load": lambda value: aa.load(value),
    "list_models": lambda value: aa.list_models(value),
    "restore": lambda value: aa.restore(value),
    "rank": lambda value: aa.rank(value, nn.Conv2d(3, 8, 4, 4), inputs=X),
    "dynamic_shapes": lambda value: aa.dynamic_shapes(NET, value),
}
NET = aa.adapt(nn.Conv2d(3, 5, 4, 4), like=nn.Conv2d(3, 8, 4, 4), inputs=X)


@pytest.mark.parametrize("value", [3, [1], nn.Conv2d, object()], ids=["number", "list", "class", "object"])
@pytest.mark.parametrize("verb", CALLS)
def test_an_argument_of_another_type_is_refused_with_what_to_write(verb: str, value: object) -> None:
    with pytest.raises(aa.AdaptError) as caught:
        CALLS[verb](value)
    assert all(fault.expected and fault.found and fault.remedy for fault in caught.value.mismatches)


OTHERS = {
    "write_html(title=)": (lambda: aa.write_html("a.html", NET.plan, title=3), "title", 'title="a text"'),
    "write_html(command=)": (lambda: aa.write_html("a.html", NET.plan, command=None), "command", 'command="a text"'),
    "progress": (lambda: aa.progress("rich").__enter__(), "listener", "progress(print)"),
    "progress of nothing": (lambda: aa.progress(lambda: None).__enter__(), "listener", "progress(print)"),
    "build": (lambda: aa.build(nn.Conv2d(3, 5, 4, 4), NET.signature), "plan", "aa.build(new, aa.plan("),
    "build(None)": (lambda: aa.build(nn.Conv2d(3, 5, 4, 4), None), "plan", "aa.build(new, aa.plan("),
    "build(share=)": (lambda: aa.build(nn.Conv2d(3, 5, 4, 4), NET.plan, share="no"), "share", "share=False"),
    "describe": (lambda: aa.describe(nn.Conv2d(3, 5, 4, 4)), "model", "aa.describe(model)"),
    "describe(None)": (lambda: aa.describe(None), "model", "aa.describe(model)"),
    "capture(at=0)": (lambda: aa.capture(nn.Sequential(nn.ReLU()), X, at=0), "at", 'at="backbone"'),
    "capture(at=[..])": (lambda: aa.capture(nn.Sequential(nn.ReLU()), X, at=["0"]), "at", 'at="backbone"'),
    "fold(at=0)": (lambda: aa.fold(nn.Sequential(NET), at=0, inputs=X), "at", 'at="backbone"'),
    "rank(report=)": (lambda: aa.rank([NET], NET, inputs=X, report=3), "report", "report=print"),
    "rank(report=) of nothing": (lambda: aa.rank([NET], NET, inputs=X, report=lambda: 0), "report", "report=print"),
}


@pytest.mark.parametrize("call", OTHERS)
def test_what_is_no_such_argument_is_refused_by_its_name(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    run, argument, remedy = OTHERS[call]
    with pytest.raises(aa.AdaptError) as caught:
        run()
    (fault,) = caught.value.mismatches
    assert fault.where == argument
    assert fault.expected
    assert fault.found
    assert remedy in fault.remedy
    assert not list(tmp_path.iterdir())
