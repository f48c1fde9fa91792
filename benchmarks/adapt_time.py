"""How long `adapt` takes and how much memory, as the new model grows, beside torchvision's feature extractor.

    python -m benchmarks.adapt_time            # ResNet-18 to a ViT of a billion parameters
    python -m benchmarks.adapt_time --quick    # without the large ones
    python -m benchmarks.adapt_time --against 215df9e    # a ResNet-18, beside autoadapt as it was at a commit

Each model runs in a process of its own, on one core. `adapt` and the peer take turns and medians are compared. The
peer, `torchvision.models.feature_extraction.create_feature_extractor`, only taps the same inner modules: it knows no
contract, makes no adapters and checks nothing.

Memory is the peak of the process while `adapt` runs, over what it held before, less the bytes of the adapters: a copy
of the weights would show in full.

`--against` checks the commit out beside this one and times `adapt` of a ResNet-18 like a ResNet-101, both as modules at
224 pixels, in processes that take turns; medians are compared. Real passes of the two modules (none before they were
introduced) are counted and timed within `adapt`, by hooks that all copies of a module share.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn

from autoadapt.showing.tables import columns, human_count

MEBI = 1 << 20
MODELS = {
    "resnet18": 9,
    "resnet50": 5,
    "vit_base_patch16_224": 5,
    "vit_large_patch16_224": 3,
    "vit_giant_patch14_224": 3,
}
"""Names in timm, and how often to measure."""
QUICK = ("resnet18", "resnet50", "vit_base_patch16_224")
TAPS = {"resnet": ["act1", "layer1", "layer2", "layer3", "layer4"]}


def memory(field: str) -> float:
    """`VmHWM` (peak) or `VmRSS` (now) of this process in bytes."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def forget_peak() -> None:
    """Let the peak of this process start from now."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")


def model_of(name: str) -> nn.Module:
    """A model of timm with small weights by chance, sooner than its own initialisation."""
    import timm

    features = {"features_only": True} if name.startswith("resnet") else {}
    with torch.device("meta"):
        model: nn.Module = timm.create_model(name, **features)
    model.to_empty(device="cpu").eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.02, 0.02)
        for name, buffer in model.named_buffers():
            buffer.fill_(float(name.endswith("running_var")))
    return model


def contract() -> Any:
    """The signature of ResNet-101's features."""
    import timm

    import autoadapt as aa

    with torch.device("meta"):
        old = timm.create_model("resnet101", features_only=True)
    return aa.capture(old, torch.empty(2, 3, 224, 224, device="meta"))


def extractor(model: nn.Module) -> Callable[[], object]:
    """The peer, on the same model."""
    from torchvision.models.feature_extraction import create_feature_extractor

    blocks = len(getattr(model, "blocks", ()))
    names = [f"blocks.{round(blocks * (i + 1) / 5) - 1}" for i in range(5)] if blocks else TAPS["resnet"]
    return lambda: create_feature_extractor(model, names)


def seconds(call: Callable[[], object]) -> float:
    """How long a call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def child(name: str, rounds: int) -> None:
    """Measure one model and print what was found."""
    import autoadapt as aa

    torch.set_num_threads(1)
    old, x = contract(), torch.randn(2, 3, 224, 224)
    aa.adapt(model_of("resnet18"), like=old, inputs=x)  # first use of anything costs more
    model = model_of(name)
    weights = sum(tensor.numel() * tensor.element_size() for tensor in model.state_dict().values())
    forget_peak()
    before = memory("VmRSS")
    net = aa.adapt(model, like=old, inputs=x)
    peak = memory("VmHWM") - before
    adapters = sum(p.numel() * p.element_size() for p in net.adapters.parameters())
    peer = extractor(model)
    times = [(seconds(lambda: aa.adapt(model, like=old, inputs=x)), seconds(peer)) for _ in range(rounds)]
    print(
        json.dumps(
            {
                "name": name,
                "parameters": sum(p.numel() for p in model.parameters()),
                "adapt": statistics.median(ours for ours, _ in times),
                "peer": statistics.median(theirs for _, theirs in times),
                "ratio": statistics.median(ours / theirs for ours, theirs in times),
                "beyond": peak - adapters,
                "weights": weights,
            }
        )
    )


def against(commit: str, rounds: int) -> str:
    """The table of two versions: medians, their ratio, and the ratio without the real passes."""
    here = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "other"
        subprocess.run(["git", "worktree", "add", "--detach", str(other), commit], cwd=here, check=True)
        try:
            found: dict[str, list[dict[str, Any]]] = {"now": [], commit: []}
            for _ in range(rounds):
                for name, root in (("now", here), (commit, other)):
                    found[name].append(turn_in(root))
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(other)], cwd=here, check=True)
    rows = [("ResNet-18 like ResNet-101", "adapt", "real passes", "of these", "without them")]
    medians = {name: medians_of([turn for one in turns for turn in one["turns"]]) for name, turns in found.items()}
    for name, turns in found.items():
        counted = Counter(f"{model} {'x'.join(map(str, shape))}" for model, shape in turns[-1]["passes"])
        shapes = ", ".join(f"{count} of {text}" for text, count in counted.items())
        whole, spent, rest = (f"{seconds:.3f} s" for seconds in medians[name])
        rows.append((name, whole, shapes or "none", spent, rest))
    whole, _, rest = (now / then if then else 0.0 for now, then in zip(medians["now"], medians[commit], strict=True))
    rows.append(("ratio of medians", f"{whole:.2f}", "", "", f"{rest:.2f}"))
    return "\n".join(columns(rows, align="lrlrr"))


def medians_of(turns: Sequence[tuple[float, float]]) -> tuple[float, float, float]:
    """Seconds of `adapt`, of the real passes in it, and of all else."""
    parts = [(whole, spent, whole - spent) for whole, spent in turns]
    whole, spent, rest = map(statistics.median, zip(*parts, strict=True))
    return whole, spent, rest


def turn_in(root: Path) -> dict[str, Any]:
    """One turn of the autoadapt in a folder, by a script that knows both."""
    environment = {**os.environ, "PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-P", str(Path(__file__).with_name("adapt_turn.py"))]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env=environment, cwd=root)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def measured(name: str, rounds: int) -> dict[str, Any]:
    """What a process of its own found."""
    command = [sys.executable, "-m", "benchmarks.adapt_time", "--child", name, str(rounds)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(found: dict[str, Any]) -> tuple[str, ...]:
    """The line of one model."""
    return (
        found["name"],
        human_count(found["parameters"]),
        f"{found['adapt']:.2f} s",
        f"{found['peer']:.2f} s",
        f"{found['ratio']:.2f}",
        f"{found['beyond'] / MEBI:.1f} MiB",
        f"{100 * found['beyond'] / found['weights']:.2f} %",
    )


def main() -> None:
    """Measure every model and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="without the large models")
    parser.add_argument("--against", metavar="COMMIT", help="compare with autoadapt as it was at a commit")
    parser.add_argument("--child", nargs=2, metavar=("MODEL", "ROUNDS"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child[0], int(given.child[1]))
        return
    if given.against:
        print(against(given.against, rounds=3))
        return
    rows = [("like ResNet-101 features", "parameters", "adapt", "extractor", "ratio", "memory", "of the weights")]
    rows += [row(measured(name, MODELS[name])) for name in (QUICK if given.quick else MODELS)]
    print("\n".join(columns(rows, align="lrrrrrr")))


if __name__ == "__main__":
    main()
