"""What `capture`, `adapt` and `swap(dry_run=True)` of models of billions take, which exist on the meta device alone.

    python -m benchmarks.billions

Plain vision transformers of 1, 7 and 70 billion parameters, each in a process of its own on one core: processor time,
and the peak of memory over what the process held after its imports.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn

from autoadapt.contracts.modes import in_eval_mode
from autoadapt.showing.tables import columns

SIZES = {"1 billion": (1792, 26, 28), "7 billion": (4096, 34, 32), "70 billion": (8192, 86, 64)}
"""Width, depth and heads."""


def memory(field: str) -> float:
    """`VmHWM` (peak) or `VmRSS` (now) of this process in MiB."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(field))


def seconds(call: Callable[[], object]) -> float:
    """Processor time of a call."""
    start = time.process_time()
    call()
    return time.process_time() - start


class Detector(nn.Module):
    """A bigger model around a backbone."""

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone, self.head = backbone, nn.Conv2d(512, 4, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.head(self.backbone(x)[-1])
        return found


def child(name: str) -> None:
    """Measure one size and print it."""
    import timm
    from timm.models.vision_transformer import VisionTransformer

    import autoadapt as aa

    torch.set_num_threads(1)
    width, depth, heads = SIZES[name]
    x = torch.empty(1, 3, 224, 224, device="meta")
    with torch.device("meta"):
        new = in_eval_mode(VisionTransformer(embed_dim=width, depth=depth, num_heads=heads))
        old = in_eval_mode(timm.create_model("resnet18", features_only=True, out_indices=(1, 2, 3, 4)))
        model = in_eval_mode(Detector(old))
    before = memory("VmRSS")
    found = {"parameters": sum(p.numel() for p in new.parameters())}
    found["capture"] = seconds(lambda: aa.capture(new, x, inner=True))
    found["adapt"] = seconds(lambda: aa.adapt(new, like=old, inputs=x))
    found["swap"] = seconds(lambda: aa.swap(model, "backbone", new, inputs=x, dry_run=True))
    print(json.dumps(found | {"memory": memory("VmHWM") - before}))


def row(name: str) -> tuple[str, ...]:
    """The line of one size."""
    command = [sys.executable, "-m", "benchmarks.billions", name]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    times = [f"{found[key]:.1f} s" for key in ("capture", "adapt", "swap")]
    return name, f"{found['parameters'] / 1e9:.1f}G", *times, f"{found['memory']:.0f} MiB"


def main() -> None:
    """Measure all sizes and print a table."""
    if sys.argv[1:]:
        child(sys.argv[1])
        return
    rows = [("a ViT of", "parameters", "capture", "adapt", "swap, dry run", "memory"), *map(row, SIZES)]
    print("\n".join(columns(rows, align="lrrrrr")))


if __name__ == "__main__":
    main()
