"""Distributed checkpoints, and models of which each rank holds a shard."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch
import torch.distributed.checkpoint as dcp
from gloo_ranks import Net
from torch import nn
from weights_models import equal, prefixed, randomised, snapshot

from autoadapt.errors import SourceError, TransferError
from autoadapt.weights import Transfer, transfer
from autoadapt.weights.memory import as_bytes
from autoadapt.weights.tensor_files import read_block
from autoadapt.weights.tensor_specs import Spec


def save(state: dict[str, object], folder: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own: of a single process, of its storages
        dcp.save(state, checkpoint_id=folder)
    return folder


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which two gloo processes saved, loaded and failed."""
    folder = tmp_path_factory.mktemp("ranks")
    script = Path(__file__).parent / "gloo_ranks.py"
    here = os.pathsep.join([str(script.parent), *sys.path])
    environment = os.environ | {"PYTHONPATH": here, "OMP_NUM_THREADS": "1"}
    ranks = [
        subprocess.Popen([sys.executable, script, str(rank), folder], env=environment, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    told = [rank.communicate(timeout=120)[1].decode() for rank in ranks]
    assert [rank.returncode for rank in ranks] == [0, 0], "\n".join(told)
    return folder


@pytest.mark.slow
def test_two_ranks_load_a_distributed_checkpoint_with_the_report_of_one(two_ranks: Path) -> None:
    source, model = randomised(Net(), 1), randomised(Net(), 2)
    single = transfer(two_ranks / "saved", model)
    assert single.ok
    assert single.container == "model"
    assert equal(snapshot(model), snapshot(source))
    for rank in range(2):
        found = json.loads((two_ranks / f"found{rank}.json").read_text())
        report = Transfer.model_validate_json(found["report"])
        assert report.model_copy(update={"model": single.model}) == single  # torch 2.5 says FSDPNet
        loaded = torch.load(two_ranks / f"loaded{rank}.pth", weights_only=True)
        assert equal(loaded, dict(source.state_dict()))


@pytest.mark.slow
def test_a_sharded_model_that_was_made_on_the_meta_device_is_filled_from_a_checkpoint_in_files(two_ranks: Path) -> None:
    source = randomised(Net(), 1)
    for rank in range(2):
        filled = torch.load(two_ranks / f"filled{rank}.pth", weights_only=True)
        assert equal(filled, dict(source.state_dict()))


@pytest.mark.slow
def test_rows_that_are_kept_go_to_the_rank_that_holds_them(two_ranks: Path) -> None:
    source, model = randomised(Net(), 1), randomised(Net(rows=4), 3)
    transfer(source, model, keep={"head": [6, None, 1, 3]})
    for rank in range(2):
        kept = torch.load(two_ranks / f"kept{rank}.pth", weights_only=True)
        assert equal(kept, dict(model.state_dict()))


def test_where_one_rank_fails_no_rank_loads(two_ranks: Path) -> None:
    found = [json.loads((two_ranks / f"found{rank}.json").read_text()) for rank in range(2)]
    assert [f["untouched"] for f in found] == [True, True]
    assert found[0]["failed"].startswith("TransferError: another rank could not load, so that none does")
    assert "rank 1" in found[0]["failed"]
    assert found[1]["failed"].startswith("SourceError: there is no such file")


def test_ranks_that_were_told_different_things_all_refuse(two_ranks: Path) -> None:
    for rank in range(2):
        found = json.loads((two_ranks / f"found{rank}.json").read_text())
        assert found["different rows"] == "the ranks would load different things, so that none does"
        assert "found     others on rank 1" in found["different"]
        assert "try       transfer(...) with the same checkpoint and arguments on every rank" in found["different"]


def test_a_model_whose_tensors_lie_on_several_ranks_is_no_source(two_ranks: Path) -> None:
    found = [json.loads((two_ranks / f"found{rank}.json").read_text()) for rank in range(2)]
    assert [f["sharded source"] for f in found] == ["the source is sharded"] * 2


@pytest.mark.parametrize(("offsets", "sizes"), [((0, 0), (3, 4)), ((3, 0), (2, 4)), ((5, 0), (0, 4)), ((1, 2), (3, 1))])
def test_a_block_is_read_out_of_pieces_of_any_size(offsets: tuple[int, int], sizes: tuple[int, int]) -> None:
    whole = torch.arange(20.0).reshape(5, 4)
    for size in (1, 7, 16, 80):
        data = as_bytes(whole)
        pieces = [data[start : start + size] for start in range(0, data.size, size)]
        block = read_block(lambda name, pieces=pieces: iter(pieces), Spec("w", (5, 4)), offsets, sizes)
        rows, columns = (slice(at, at + n) for at, n in zip(offsets, sizes, strict=True))
        assert torch.equal(block, whole[rows, columns])


def test_the_container_that_looks_like_the_model_is_taken_from_a_distributed_checkpoint(tmp_path: Path) -> None:
    source, model = randomised(Net(), 1), randomised(Net(), 2)
    optimiser = {"state": {name: {"exp_avg": torch.ones(3)} for name in source.state_dict()}}
    state = {"model": prefixed(source.state_dict(), "module._orig_mod."), "optim": optimiser, "step": torch.tensor(4)}
    report = transfer(save(state, tmp_path / "saved"), model)
    assert report.ok
    assert report.container == "model"
    assert equal(snapshot(model), snapshot(source))


def test_a_flat_distributed_checkpoint_is_read_too(tmp_path: Path) -> None:
    source, model = randomised(Net(), 1), randomised(Net(), 2)
    assert transfer(save(dict(source.state_dict()), tmp_path / "saved") / ".metadata", model).ok
    assert equal(snapshot(model), snapshot(source))


class Harm:
    """Pickled, it would write a file when it is read."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (self.path,)


def test_no_code_in_a_table_of_contents_is_run(tmp_path: Path) -> None:
    folder = save(dict(Net().state_dict()), tmp_path / "saved")
    (folder / ".metadata").write_bytes(pickle.dumps(Harm(tmp_path / "harm")))
    with pytest.raises(SourceError, match="the file needs code to load"):
        transfer(folder, Net())
    assert not (tmp_path / "harm").exists()
    (folder / ".metadata").write_bytes(pickle.dumps({"eval": eval}))
    with pytest.raises(SourceError, match=r"builtins\.eval"):
        transfer(folder, Net())


def test_a_distributed_checkpoint_with_a_file_missing_or_cut_is_refused(tmp_path: Path) -> None:
    folder = save(dict(randomised(Net(), 1).state_dict()), tmp_path / "saved")
    (shards,) = folder.glob("*.distcp")
    content = shards.read_bytes()
    model = Net()
    before = snapshot(model)
    shards.write_bytes(content[: len(content) // 2])
    with pytest.raises(SourceError, match="a whole file of shards"):
        transfer(folder, model)
    shards.unlink()
    with pytest.raises(SourceError, match="no file"):
        transfer(folder, model)
    shards.write_bytes(content[:200] + b"x" * (len(content) - 200))
    with pytest.raises(TransferError, match="the model is as it was"):
        transfer(folder, model)
    (folder / ".metadata").write_bytes((folder / ".metadata").read_bytes()[:50])
    with pytest.raises(SourceError, match="the file is damaged"):
        transfer(folder, model)
    assert equal(snapshot(model), before)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pth"])
def test_the_shards_of_deepspeed_are_told_to_be_consolidated_and_then_read(name: str, tmp_path: Path) -> None:
    state = randomised(Net(), 1).state_dict()
    folder = tmp_path / "global_step3"
    folder.mkdir()
    torch.save({}, folder / "bf16_zero_pp_rank_0_mp_rank_00_optim_states.pt")
    with pytest.raises(SourceError, match=r"python zero_to_fp32\.py"):
        transfer(tmp_path, Net())
    torch.save(state, tmp_path / name)
    assert transfer(tmp_path if name == "pytorch_model.bin" else tmp_path / name, Net()).ok


@pytest.mark.parametrize("order", ["compiled, parallel", "parallel, compiled"])
def test_wrappers_around_the_model_are_seen_through_in_any_order(order: str) -> None:
    source = randomised(Net(), 1)
    model = Net()
    wrapped = model
    for wrapper in order.split(", "):
        wrapped = torch.compile(wrapped, backend="eager") if wrapper == "compiled" else nn.DataParallel(wrapped)
    assert transfer(source, wrapped).ok
    assert equal(snapshot(model), snapshot(source))
    assert transfer(wrapped, Net()).ok
