"""Names with terminal escapes, C1 and bidirectional controls are shown as visible text wherever results are."""

import io
import json

import pytest
import torch
from command_runs import run
from rich.console import Console
from torch import nn

import autoadapt as aa

NAME = "a\x1b[31m\u202e\x9b"
IMAGE = torch.zeros(1, 3, 8, 8)


class Backbone(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.conv = nn.Conv2d(3, channels, 2, 2)

    def forward(self, x):
        return {NAME: self.conv(x)}


Backbone.__name__ = f"Backbone {NAME}"


def checkpoint(folder):
    torch.save({"0.weight": torch.zeros(8, 3, 2, 2), NAME: torch.zeros(3)}, folder / "a.pth")
    return folder / "a.pth"


@pytest.fixture(scope="module")
def nets():
    old, new = Backbone(8), Backbone(5)
    return old, new, aa.adapt(new, like=old, inputs=IMAGE)


def calibrated(nets, folder):
    made = aa.adapt(nets[1], like=nets[0], inputs=IMAGE, share=False)
    return aa.calibrate(made, like=nets[0], data=[torch.randn(4, 3, 8, 8) for _ in range(3)])


RESULTS = {
    "signature": lambda nets, folder: aa.capture(nets[0], IMAGE),
    "plan": lambda nets, folder: nets[2].plan,
    "verification": lambda nets, folder: aa.verify(nets[2], aa.capture(nets[0], IMAGE), seconds=0.1),
    "saved": lambda nets, folder: aa.save(nets[2], folder / NAME, check=False),
    "transfer": lambda nets, folder: aa.transfer(checkpoint(folder), nn.Sequential(nn.Conv2d(3, 8, 2))),
    "ranking": lambda nets, folder: aa.rank({NAME: nets[1]}, nets[0], inputs=IMAGE),
    "calibration": calibrated,
    "swap": lambda nets, folder: aa.swap(nn.Sequential(Backbone(8)), "0", nets[1], inputs=IMAGE, dry_run=True),
}


def is_visible(text):
    return all(line.isprintable() for line in text.split("\n"))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", RESULTS)
def test_a_result_shows_them_as_text_in_every_form(kind, nets, tmp_path):
    result = RESULTS[kind](nets, tmp_path)
    terminal = io.StringIO()
    Console(file=terminal, width=200).print(result)
    assert r"\x1b[31m" in str(result)
    assert is_visible(str(result))
    assert is_visible(terminal.getvalue())
    aa.write_html(tmp_path / "a.html", result)
    assert not {"\x1b", "\u202e", "\x9b"} & set((tmp_path / "a.html").read_text())


def test_the_code_of_a_net_shows_them_as_escapes(nets):
    assert is_visible(nets[2].code)
    assert is_visible(aa.to_source(nets[2]))


def test_an_error_shows_them_as_text(nets, tmp_path):
    with pytest.raises(aa.AdaptError) as caught:
        aa.adapt(nn.Linear(3, 3), like=nets[0], inputs=IMAGE, pairs={NAME: "x"})
    assert is_visible(str(caught.value))


def test_json_for_a_terminal_escapes_controls(nets, tmp_path):
    aa.capture(nets[0], IMAGE).save(tmp_path / "old.json")
    told = run("show", str(tmp_path / "old.json"), "--json").stdout
    assert not {"\x1b", "\u202e", "\x9b"} & set(told)
    assert json.loads(told)["outputs"]["tree"]["keys"] == [NAME]
