"""Memory of each of two gloo processes that load a distributed checkpoint into a model of which each holds a half.

`python -m benchmarks.rank_memory` prints, for each, the most MiB beside the model while `transfer` ran.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.distributed.checkpoint as dcp
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard

from autoadapt.weights import transfer

SIDE, LAYERS = 1024, 64
"""Square layers of 4 MiB each."""


def memory(name: str) -> int:
    """`VmHWM` (peak) or `VmRSS` (now) of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(name))


def made() -> nn.Module:
    """A model of which this process holds a half."""
    mesh = init_device_mesh("cpu", (dist.get_world_size(),))
    model = nn.Sequential(*(nn.Linear(SIDE, SIDE, bias=False) for _ in range(LAYERS)))
    for layer in model:
        fully_shard(layer, mesh=mesh)
    fully_shard(model, mesh=mesh)
    return model


def rank_of_two(rank: int, folder: Path) -> None:
    """Save, or load what was saved and note the memory."""
    dist.init_process_group("gloo", init_method=f"file://{folder}/rendezvous", rank=rank, world_size=2)
    is_saved = (folder / "saved").exists()
    dist.barrier()
    model = made()
    if is_saved:
        _load(rank, folder, model)
    else:
        dcp.save({"model": model.state_dict()}, checkpoint_id=folder / "saved")
    dist.barrier()
    dist.destroy_process_group()


def _load(rank: int, folder: Path, model: nn.Module) -> None:
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
    Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
    before = memory("VmRSS")
    report = transfer(folder / "saved", model)
    assert report.ok, str(report)
    whole = sum(parameter.numel() * 4 for parameter in model.parameters())
    found = {"beside": memory("VmHWM") - before, "whole": whole}
    (folder / f"memory{rank}.json").write_text(json.dumps(found))


def main() -> None:
    """Two processes save, then two load."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for _ in range(2):
            command = [sys.executable, "-m", "benchmarks.rank_memory"]
            ranks = [subprocess.Popen([*command, str(rank), name]) for rank in range(2)]
            assert [rank.wait() for rank in ranks] == [0, 0]
            (folder / "rendezvous").unlink(missing_ok=True)
        for rank in range(2):
            found = json.loads((folder / f"memory{rank}.json").read_text())
            whole, beside = (found[key] / 2**20 for key in ("whole", "beside"))
            print(f"rank {rank}: model {whole:.0f} MiB, shard {whole / 2:.0f}, beside it at most {beside:.0f}")


if __name__ == "__main__":
    rank_of_two(int(sys.argv[1]), Path(sys.argv[2])) if len(sys.argv) > 1 else main()
