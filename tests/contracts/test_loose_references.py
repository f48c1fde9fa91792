"""A signature file that names what it has not is refused, whatever the field."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autoadapt as aa

CENTRES = {"first": 0.5, "step": 2}
AXIS = {"step": 1, "offset": 0, "smallest": 1, "example": 8}
CHANGES: dict[str, dict[str, Any]] = {
    "contiguous": {"contiguous": ["nothing"]},
    "unread tokens": {"unread_tokens": ["nothing"]},
    "not finite": {"not_finite": ["nothing"]},
    "unverified": {"unverified": ["nothing"]},
    "written": {"written": ["output"]},
    "ranges of values": {"value_ranges": {"nothing": [0, 3]}},
    "filled by no output": {"filled": {"input": "nothing"}},
    "replaced": {"replaced_when_empty": ["input"]},
    "more arguments by position": {"positional": 2},
    "fewer than none": {"positional": -1},
    "an axis of nothing": {"axes": {"Q": AXIS}},
    "a step backwards": {"axes": {"H": AXIS | {"step": -3}}},
    "an example between the steps": {"axes": {"H": AXIS | {"step": 5}}},
    "an example below the smallest": {"axes": {"H": AXIS | {"smallest": 300}}},
    "centres along another axis": {"centres": [CENTRES | {"axis": "Q"}]},
    "centres along samples": {"centres": [CENTRES | {"axis": "B"}]},
    "centres told twice": {"centres": [CENTRES | {"axis": "H"}] * 2},
    "more tokens than there are": {"trailing": 10**9},
    "fewer tokens than none": {"trailing": -1},
    "65 axes": {"dims": ["B"] * 65},
}


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("signatures") / "old.json"
    aa.capture(nn.Sequential(nn.Conv2d(3, 8, 2, stride=2)), torch.zeros(1, 3, 8, 8), inner=True).save(path)
    return path


@pytest.mark.parametrize("name", CHANGES)
def test_a_file_that_names_what_it_has_not_is_refused(name: str, saved: Path, tmp_path: Path) -> None:
    read = json.loads(saved.read_text())
    leaf = read["outputs"]["leaves"][0]
    for field, value in CHANGES[name].items():
        place = leaf if field in leaf else read
        place[field] = read["axes"] | value if field == "axes" else value
    path = tmp_path / "changed.json"
    path.write_text(json.dumps(read))
    assert aa.Signature.load(saved).outputs.leaves
    with pytest.raises(aa.SignatureError, match=r"names what it has not|too many axes"):
        aa.Signature.load(path)


def test_an_output_under_an_empty_text_is_served_as_any_other() -> None:
    class Nameless(nn.Conv2d):
        def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
            return {"": super().forward(x)}

    net = aa.adapt(Nameless(3, 5, 2), like=Nameless(3, 8, 2), inputs=(image := torch.zeros(1, 3, 8, 8)))
    assert net(image)[""].shape == (1, 8, 7, 7)
