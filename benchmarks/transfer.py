"""Cost of `transfer` beside plain `load_state_dict` of the same file, and of matching 10,000 names.

Run as `python -m benchmarks.transfer`. Each load runs in a process of its own, so that the peak of
resident memory is its own; kinds take turns, and medians are compared. The seconds of a busy machine
say little; the processor's seconds beside them depend less on what else runs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from autoadapt.tables import columns
from autoadapt.weights import transfer
from autoadapt.weights.dialects import DIALECTS
from autoadapt.weights.names import pair_by_name
from autoadapt.weights.renaming import Renaming
from autoadapt.weights.specs import Spec

WIDTH = 1024  # a layer is 4 MiB
MEBI = 1 << 20


def make_model(layers: int) -> nn.Module:
    """A stack of linear layers, without spending time on random values."""
    model = nn.Sequential(*(nn.utils.skip_init(nn.Linear, WIDTH, WIDTH) for _ in range(layers)))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
    return model


def memory(field: str) -> float:
    """`VmHWM` (peak) or `VmRSS` (now) of this process in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def child(kind: str, path: str, layers: int) -> None:
    """Load once and print what it took; `nothing` tells the cost of the model alone."""
    before = memory("VmRSS")
    model = make_model(layers)
    start, used = time.perf_counter(), time.process_time()
    if kind == "plain":
        model.load_state_dict(load_file(path))
    elif kind == "transfer":
        transfer(path, model)
    result = {
        "seconds": time.perf_counter() - start,
        "processor": time.process_time() - used,
        "peak": memory("VmHWM") - before,
    }
    print(json.dumps(result))


def measure(kind: str, path: Path, layers: int) -> dict[str, float]:
    """Run one load in a child process."""
    command = [sys.executable, "-m", "benchmarks.transfer", "--child", kind, str(path), "--layers", str(layers)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def loading(layers: int, rounds: int) -> list[tuple[str, ...]]:
    """Rows of the table of loads."""
    kinds = ("nothing", "plain", "transfer")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        state = make_model(layers).state_dict()
        save_file({name: torch.randn(tensor.shape) for name, tensor in state.items()}, path)
        size = path.stat().st_size / MEBI
        del state
        for kind in kinds:
            measure(kind, path, layers)  # warms the page cache
        runs = {kind: [] for kind in kinds}
        for _ in range(rounds):
            for kind in kinds:
                runs[kind].append(measure(kind, path, layers))
    middle = {
        kind: {key: statistics.median(run[key] for run in found) for key in found[0]} for kind, found in runs.items()
    }
    own, plain = middle["nothing"]["peak"], middle["plain"]
    head = ("seconds", "x plain", "processor", "x plain", "peak MiB", "x model's own")
    return [(f"{size:.0f} MiB safetensors", *head), *((kind, *_cells(m, plain, own)) for kind, m in middle.items())]


def _medians(runs: list[dict[str, float]]) -> dict[str, float]:
    return {key: statistics.median(run[key] for run in runs) for key in runs[0]}


def _cells(found: dict[str, float], plain: dict[str, float], own: float) -> tuple[str, ...]:
    times = ((f"{found[key]:.3f}", f"{found[key] / plain[key]:.2f}") for key in ("seconds", "processor"))
    return (*(cell for pair in times for cell in pair), f"{found['peak']:.0f}", f"{found['peak'] / own:.2f}")


def names(count: int) -> dict[str, tuple[list[Spec], list[Spec]]]:
    """Lists of names that need different stages."""
    leaves = ("attn.qkv.weight", "attn.qkv.bias", "mlp.fc1.weight", "mlp.fc1.bias", "norm1.weight")
    shapes = ((96, 32), (96,), (128, 32), (128,), (32,))
    plain = [
        Spec(f"stages.{block // 50}.blocks.{block % 50}.{leaf}", shape)
        for block in range(count // len(leaves))
        for leaf, shape in zip(leaves, shapes, strict=True)
    ]
    put = lambda front: [Spec(front(i) + s.name, s.shape) for i, s in enumerate(plain)]  # noqa: E731
    return {
        "exact": (plain, plain),
        "prefix": (put(lambda _: "model.module."), plain),
        "prefix exchanged": (put(lambda _: "encoder."), put(lambda _: "backbone.body.")),
        "suffix": (put(lambda i: f"part{i // 500}."), plain),
        "underscores": ([Spec("ema_" + s.name.replace(".", "_"), s.shape) for s in plain], plain),
        "nothing fits": ([Spec(f"x.{i}.w", (7, i + 1)) for i in range(len(plain))], plain),
    }


def matching(count: int, rounds: int) -> list[tuple[str, ...]]:
    """Rows of the table of name matching."""
    rows: list[tuple[str, ...]] = [(f"{count} names, {len(DIALECTS)} dialects", "seconds", "paired")]
    for label, (sources, targets) in names(count).items():
        seconds = []
        for _ in range(rounds):
            start = time.perf_counter()
            pairing = pair_by_name(sources, targets, Renaming())
            seconds.append(time.perf_counter() - start)
        rows.append((label, f"{statistics.median(seconds):.3f}", str(len(pairing.pairs))))
    return rows


def main() -> None:
    """Print both tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=256, help="layers of 4 MiB; 256 make 1 GiB")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--child", nargs=2, metavar=("KIND", "PATH"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.child:
        child(*arguments.child, arguments.layers)
        return
    print("\n".join(columns(loading(arguments.layers, arguments.rounds), align="lrrrrrr")))
    print()
    print("\n".join(columns(matching(10_000, arguments.rounds), align="lrr")))


if __name__ == "__main__":
    main()
