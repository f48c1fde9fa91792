"""Cost of `transfer` beside plain `load_state_dict` of the same file, and of matching 10,000 names.

Run as `python -m benchmarks.transfer`. Each load runs in a process of its own, so that the peak of
resident memory is its own; kinds take turns, and the medians of the rounds' ratios are given. What
the seconds say depends on what else runs, the processor's seconds beside them less so.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TypeAlias

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from autoadapt.showing.tables import columns
from autoadapt.weights import transfer
from autoadapt.weights.dialects import DIALECTS
from autoadapt.weights.names import pair_by_name
from autoadapt.weights.renaming import Renaming
from autoadapt.weights.tensor_specs import Spec

WIDTH = 1024  # a layer is 4 MiB
MEBI = 1 << 20
THREADS = (1, 2)
KINDS = ("nothing", "plain", "transfer")
Runs: TypeAlias = dict[tuple[int, str], list[dict[str, float]]]


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


def measure(kind: str, path: Path, layers: int, threads: int) -> dict[str, float]:
    """Run one load in a child process, in which torch may use some threads."""
    command = [sys.executable, "-m", "benchmarks.transfer", "--child", kind, str(path), "--layers", str(layers)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads)}
    done = subprocess.run(command, check=True, capture_output=True, text=True, env=environment)
    result: dict[str, float] = json.loads(done.stdout)
    return result


def loading(layers: int, rounds: int) -> list[tuple[str, ...]]:
    """Rows of the table of loads."""
    cases = [(threads, kind) for threads in THREADS for kind in KINDS]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "weights.safetensors"
        state = make_model(layers).state_dict()
        save_file({name: torch.randn(tensor.shape) for name, tensor in state.items()}, path)
        size = path.stat().st_size / MEBI
        del state
        measure("plain", path, layers, 1)  # warms the page cache
        runs: Runs = {case: [] for case in cases}
        for _ in range(rounds):
            for threads, kind in cases:
                runs[threads, kind].append(measure(kind, path, layers, threads))
    head = ("seconds", "x plain", "processor", "x plain", "peak MiB", "x model's own")
    rows = [(f"{kind}, {threads} of torch's threads", *_cells(runs, threads, kind)) for threads, kind in cases]
    return [(f"{size:.0f} MiB safetensors", *head), *rows]


def _cells(runs: Runs, threads: int, kind: str) -> tuple[str, ...]:
    """Medians, and medians of what each round's ratio to the plain load was."""
    own, plain, found = (runs[threads, name] for name in ("nothing", "plain", kind))
    times = ((f"{_median(found, key):.3f}", f"{_ratio(found, plain, key):.2f}") for key in ("seconds", "processor"))
    peak = (f"{_median(found, 'peak'):.0f}", f"{_ratio(found, own, 'peak'):.2f}")
    return (*(cell for pair in times for cell in pair), *peak)


def _median(runs: list[dict[str, float]], key: str) -> float:
    return statistics.median(run[key] for run in runs)


def _ratio(runs: list[dict[str, float]], others: list[dict[str, float]], key: str) -> float:
    return statistics.median(run[key] / other[key] for run, other in zip(runs, others, strict=True))


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
