"""Peak of memory of a model that is made on the meta device and gets its weights from a checkpoint in shards.

    python -m benchmarks.sharded_transfer

A safetensors index over four files; one process that holds all of it, and two FSDP2 ranks that hold half of it each.
Every process is measured by itself, over what it held after its imports: memory of its own (`RssAnon`) is looked at
every millisecond; pages of the files, which the system takes back when it wants, are not counted.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn

from autoadapt.showing.tables import columns

WIDTH, LAYERS, FILES = 4096, 16, 4  # a layer is 64 MiB
MEBI = 1 << 20


def make_model() -> nn.Module:
    """A stack of wide layers, without memory."""
    with torch.device("meta"):
        return nn.Sequential(*(nn.Linear(WIDTH, WIDTH) for _ in range(LAYERS)))


def own_memory() -> float:
    """`RssAnon` of this process in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("RssAnon"))


class Peak:
    """The most memory of its own that this process held while a block ran."""

    def __enter__(self) -> Peak:
        self.before = self.most = own_memory()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._over.wait(0.001):
            self.most = max(self.most, own_memory())

    def __exit__(self, *_error: object) -> None:
        self._over.set()
        self._thread.join()
        self.most = max(self.most, own_memory())


def child(folder: Path, rank: int, count: int) -> None:
    """Load once and print the peak."""
    import torch.distributed as dist
    from torch.distributed.fsdp import fully_shard

    import autoadapt as aa

    aa.transfer({"weight": torch.ones(2, 2)}, nn.Linear(2, 2))  # what it imports is no part of the peak
    if count > 1:
        method = f"file://{folder}/rendezvous{count}"
        dist.init_process_group("gloo", init_method=method, rank=rank, world_size=count)
    model = make_model()
    for layer in model if count > 1 else ():
        fully_shard(layer)
    model = fully_shard(model) if count > 1 else model
    with Peak() as peak:
        model.to_empty(device="cpu")
        report = aa.transfer(folder / "model.safetensors.index.json", model)
    held = sum(getattr(p, "_local_tensor", p).nbytes for p in model.parameters()) / MEBI
    assert report.ok
    print(json.dumps({"held": held, "peak": peak.most - peak.before}), flush=True)
    if count > 1:
        dist.barrier()
    os._exit(0)  # threads of gloo now and then abort a process that ends by itself


def save(folder: Path) -> float:
    """Write the shards and their index; their size in MiB."""
    places, size = {}, 0
    names = list(make_model().state_dict().items())
    for number in range(FILES):
        part = {name: torch.randn(tensor.shape) for name, tensor in names[number::FILES]}
        file = f"model-{number + 1:05d}-of-{FILES:05d}.safetensors"
        save_file(part, folder / file)
        places |= dict.fromkeys(part, file)
        size += sum(tensor.nbytes for tensor in part.values())
    index = {"metadata": {"total_size": size}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index), encoding="utf-8")
    return size / MEBI


def measure(folder: Path, count: int) -> list[dict[str, float]]:
    """What each of some processes found."""
    command = [sys.executable, "-m", "benchmarks.sharded_transfer", str(folder)]
    children = [
        subprocess.Popen([*command, str(rank), str(count)], stdout=subprocess.PIPE, text=True) for rank in range(count)
    ]
    return [json.loads(each.communicate()[0].splitlines()[-1]) for each in children]


def main() -> None:
    """Measure both and print a table."""
    if sys.argv[1:]:
        child(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
        return
    rows = [("from shards", "processes", "a process holds", "its peak", "ratio")]
    with tempfile.TemporaryDirectory() as name:
        size = save(Path(name))
        for count in (1, 2):
            found = max(measure(Path(name), count), key=lambda each: each["peak"])
            shown = (f"{found['held']:.0f} MiB", f"{found['peak']:.0f} MiB", f"{found['peak'] / found['held']:.2f}")
            rows.append((f"{size:.0f} MiB", str(count), *shown))
    print("\n".join(columns(rows, align="rrrrr")))


if __name__ == "__main__":
    main()
