"""A saved config that tells of parts which the module has not is refused by name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import autoadapt as aa
from autoadapt.saving.folder_configs import checksum


@pytest.fixture(scope="module")
def net() -> nn.Module:
    return aa.adapt(nn.Conv2d(3, 4, 2, 2), like=nn.Conv2d(3, 8, 2, 2), inputs=torch.zeros(1, 3, 8, 8))


@pytest.mark.parametrize(
    ("field", "told"), [("training", {"nothing": True}), ("frozen", ["nothing"]), ("channels_last", ["nothing"])]
)
def test_a_part_that_the_module_has_not_is_refused(net: nn.Module, field: str, told: Any, tmp_path: Path) -> None:
    aa.save(net, tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["checksum"]
    place = config["weights"] if field == "channels_last" else config
    place[field] = told if isinstance(told, list) else place[field] | told
    (tmp_path / "config.json").write_text(json.dumps(config | {"checksum": checksum(config)}))
    with pytest.raises(aa.AdaptError) as caught:
        aa.restore(tmp_path, new=nn.Conv2d(3, 4, 2, 2))
    (fault,) = caught.value.mismatches
    assert (fault.where, fault.found) == (field, "nothing")


def test_an_interruption_while_a_plan_is_written_is_one(net, monkeypatch, tmp_path):
    def interrupted(self):
        raise KeyboardInterrupt

    monkeypatch.setattr(aa.Dim, "__str__", interrupted)
    with pytest.raises(KeyboardInterrupt):
        aa.save(net, tmp_path / "net")
    assert not [*tmp_path.rglob("*.*")]
