"""How long the default `verify` of a ResNet-18 pyramid at 224 px takes, beside another version of the package.

    git worktree add ../earlier 215df9e
    python -m benchmarks.verify_time --against ../earlier

Each version runs in processes of its own, on one core, in turns. Medians of processor time are compared, since the
machine is shared.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parents[1]


def child(rounds: int) -> None:
    """Verify some times and print the median of the seconds."""
    import timm
    import torch

    import autoadapt as aa

    torch.set_num_threads(1)
    x = torch.randn(2, 3, 224, 224)
    old = timm.create_model("resnet34", features_only=True)
    net = aa.adapt(timm.create_model("resnet18", features_only=True), like=old, inputs=x)
    net.verify(x).raise_if_failed()  # the first use of anything costs more
    times = []
    for _ in range(rounds):
        start = time.process_time()
        net.verify(x)
        times.append(time.process_time() - start)
    print(statistics.median(times))


def measured(checkout: Path, rounds: int) -> float:
    """The median of a process of its own that imports the package from a checkout."""
    command = [sys.executable, str(Path(__file__).resolve()), "--child", str(rounds)]
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment, cwd=checkout)
    return float(done.stdout.splitlines()[-1])


def main() -> None:
    """Measure both versions in turns and print the ratio of their medians."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--against", type=Path, help="a checkout of another version")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--child", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child)
        return
    pairs = [(measured(HERE, 3), measured(given.against.resolve(), 3)) for _ in range(given.turns)]
    ours, theirs = (statistics.median(times) for times in zip(*pairs, strict=True))
    print(f"here {ours:.2f} s, there {theirs:.2f} s, ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
