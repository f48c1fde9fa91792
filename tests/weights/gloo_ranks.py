"""What each of two gloo processes does in the tests of sharded models; the first says what came of it."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from safetensors.torch import save_file
from sharding import fully_shard
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from weights_models import randomised

from autoadapt.errors import TransferError
from autoadapt.weights import transfer


class Net(nn.Module):
    """Rows that two ranks do not share evenly, a norm, and a layer of one row."""

    def __init__(self, rows: int = 7) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Linear(5, 7), nn.BatchNorm1d(7))
        self.head = nn.Linear(7, rows)
        self.gate = nn.Linear(7, 1)


def sharded(model: nn.Module) -> nn.Module:
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    fully_shard(model.body[0], mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def whole(model: nn.Module) -> dict[str, Tensor]:
    """The whole state of a sharded model, on every rank."""
    return {name: getattr(t, "full_tensor", lambda t=t: t)() for name, t in model.state_dict().items()}


def in_two_files(model: nn.Module, folder: Path, rank: int) -> Path:
    """A safetensors index over two files, which the first rank writes."""
    index = folder / "model.safetensors.index.json"
    if rank == 0:
        names = list(model.state_dict())
        files = {name: f"part{number % 2}.safetensors" for number, name in enumerate(names)}
        for file in sorted(set(files.values())):
            save_file({name: t for name, t in model.state_dict().items() if files[name] == file}, folder / file)
        index.write_text(json.dumps({"metadata": {}, "weight_map": files}))
    dist.barrier()
    return index


def main(rank: int, folder: Path) -> None:
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    found: dict[str, object] = {}
    dcp.save({"model": sharded(randomised(Net(), 1)).state_dict(), "epoch": 3}, checkpoint_id=folder / "saved")
    model = sharded(randomised(Net(), 2))
    found["report"] = transfer(folder / "saved", model).model_dump_json()
    torch.save(whole(model), folder / f"loaded{rank}.pth")

    sliced = sharded(randomised(Net(rows=4), 3))
    transfer(folder / "saved", sliced, keep={"head": [6, None, 1, 3]})
    torch.save(whole(sliced), folder / f"kept{rank}.pth")

    with torch.device("meta"):
        empty = Net()
    empty = sharded(empty).to_empty(device="cpu")
    transfer(in_two_files(randomised(Net(), 1), folder, rank), empty)
    torch.save(whole(empty), folder / f"filled{rank}.pth")

    before = whole(model)
    source = randomised(Net(), 4).state_dict() if rank == 0 else folder / "nothing.pth"
    try:
        transfer(source, model)
    except Exception as error:
        found["failed"] = f"{type(error).__name__}: {error}"
    try:
        transfer(folder / "saved", model, exclude=["head"] if rank == 0 else [])
    except TransferError as error:
        found["different"] = str(error)
    try:
        transfer(folder / "saved", sliced, keep={"head": [6, None, 1, 3 - rank]})
    except TransferError as error:
        found["different rows"] = error.summary
    after = whole(model)
    found["untouched"] = all(torch.equal(before[name], after[name]) for name in before)
    try:
        transfer(model, Net())
    except TransferError as error:
        found["sharded source"] = error.summary
    (folder / f"found{rank}.json").write_text(json.dumps(found))
    dist.destroy_process_group()


if __name__ == "__main__":
    try:
        main(int(sys.argv[1]), Path(sys.argv[2]))
    except TransferError:
        traceback.print_exc()
        sys.exit(1)
    os._exit(0)  # all is written: threads of gloo now and then abort a process that ends by itself
