"""What workers need travels whole, once, and is read where it lies."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from autoadapt.errors import RankingError
from autoadapt.ranking.parcels import Parcel, packed, pickled, unpacked
from autoadapt.sources import load

TENSORS = {
    "half": torch.arange(6).to(torch.bfloat16).reshape(2, 3),
    "turned": torch.arange(6.0).reshape(2, 3).T,
    "number": torch.tensor(3),
    "none": torch.empty(0, 4),
    "flags": torch.tensor([True, False]),
    "complex": torch.tensor([1 + 2j]),
}


def test_tensors_of_every_kind_come_out_as_they_went_in() -> None:
    found = unpacked(packed(TENSORS))
    assert list(found) == list(TENSORS)
    for name, tensor in TENSORS.items():
        assert torch.equal(found[name], tensor), name
        assert found[name].dtype == tensor.dtype


def test_tensors_lie_in_the_parcel_itself_and_in_a_copy_where_it_is_for_reading_only() -> None:
    parcel = packed(torch.zeros(1000))
    unpacked(parcel)[:] = 1
    assert np.count_nonzero(parcel.bytes.view(np.float32) == 1) == 1000
    other = packed(torch.full((1000,), 2.0))
    other.bytes.flags.writeable = False
    unpacked(other)[:] = 3  # to write where only reading is allowed ends the process
    assert np.count_nonzero(other.bytes.view(np.float32) == 2) == 1000


def test_a_parcel_is_opened_once_and_let_go_for_the_next() -> None:
    one, two = packed([1]), packed([2])
    assert unpacked(Parcel(one.bytes.copy(), one.sizes, one.key)) is unpacked(one)
    first = unpacked(one)
    assert unpacked(two) == [2]
    assert unpacked(one) is not first


def test_a_module_keeps_its_weights_its_tied_ones_and_its_mode() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Linear(3, 3)).eval()
    net[2].weight = net[0].weight
    found = unpacked(packed({"net": net, "head": lambda x: net(x) + 1}))
    x = torch.randn(4, 3)
    assert torch.equal(found["net"](x), net(x))
    assert torch.equal(found["head"](x), net(x) + 1)
    assert found["net"][2].weight is found["net"][0].weight
    assert not found["net"].training


def test_a_class_of_a_file_travels_as_code_since_no_other_process_finds_its_module(tmp_path: Path) -> None:
    file = tmp_path / "mine_alone.py"
    file.write_text("from torch import nn\nclass Net(nn.Conv2d):\n    pass\ndef build():\n    return Net(3, 4, 1)\n")
    content = pickled(load(f"{file}:build", allow=[file]), "net")
    assert b"mine_alone" in content
    del sys.modules["mine_alone"]
    import pickle

    assert type(pickle.loads(content)).__name__ == "Net"
    assert b"Conv2d" in pickled(nn.Conv2d(3, 4, 1), "net")


def test_what_cannot_travel_is_named_with_what_to_do() -> None:
    with pytest.raises(RankingError, match=r"cannot be given the head(.|\n)*thread.lock(.|\n)*jobs=1"):
        pickled(threading.Lock(), "the head")
