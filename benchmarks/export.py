"""Ten adapted models by every way out: folder, source, `torch.export`, ONNX, TorchScript, and compiled by inductor.

    python -m benchmarks.export                     # all, which takes minutes
    python -m benchmarks.export --only points       # kinds whose name holds a word
    python -m benchmarks.export --compile           # also torch.compile with inductor, at two sizes

Each cell is the largest difference from the adapted module at two sizes that it was not exported at, the second of
which divides by no stride; 0 is bit-equal. The models are those of `tests/exported_models.py`, trained for a step.
"""

from __future__ import annotations

import argparse
import copy
import importlib.util
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

import autoadapt as aa
from autoadapt.contracts.capturing import bind
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.contracts.trees import flatten
from autoadapt.saving.exporting.formats import FORMATS
from autoadapt.showing.tables import columns

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from exported_models import ALLOW, KINDS, exported
from point_clouds import cloud
from saved_models import Made, images

Run = Callable[[tuple[Any, ...]], list[torch.Tensor]]


def restored(one: Made, folder: Path) -> Run:
    """From a folder."""
    aa.save(one.net, folder / "net")
    return plain(aa.restore(folder / "net", allow=ALLOW))


def from_source(one: Made, folder: Path) -> Run:
    """From a file of plain PyTorch, with the same state dict."""
    aa.to_source(one.net, folder / "net.py")
    spec = importlib.util.spec_from_file_location("net", folder / "net.py")
    assert spec is not None
    assert spec.loader is not None
    written = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(written)
    other = written.Adapted(copy.deepcopy(one.new))
    other.load_state_dict(one.net.state_dict(), strict=True)
    return plain(in_eval_mode(other))


def by_export(ending: str) -> Callable[[Made, Path], Run]:
    """From a file that `export` wrote."""

    def make(one: Made, folder: Path) -> Run:
        aa.export(one.net, folder / f"net{ending}", one.inputs)
        run = FORMATS[ending].load(folder / f"net{ending}")
        return lambda inputs: run(bind(one.net, inputs))

    return make


def compiled(one: Made, folder: Path) -> Run:
    """Compiled without graph breaks, for any size."""
    torch._dynamo.reset()
    return plain(torch.compile(copy.deepcopy(one.net), fullgraph=True, dynamic=True))


def plain(module: Callable[..., object]) -> Run:
    return lambda inputs: flatten(module(*inputs))[1]


WAYS: dict[str, Callable[[Made, Path], Run]] = {
    "restore": restored,
    "source": from_source,
    "export": by_export(".pt2"),
    "ONNX": by_export(".onnx"),
    "TorchScript": by_export(".ts"),
}


def other_inputs(kind: str) -> list[tuple[torch.Tensor]]:
    """Two calls at other sizes, the second odd."""
    if kind == "points":
        return [(cloud(1, 80),), (cloud(3, 97),)]
    channels = 1 if kind == "grey images" else 3
    return [(images(channels, 96, 224)[:1],), (torch.cat([images(channels, 97, 131)] * 2)[:3],)]


def cell(net: nn.Module, run: Run, kind: str) -> str:
    """How far a way out is from the module, in units of an output's largest value where that is above 1."""
    worst = 0.0
    for inputs in other_inputs(kind):
        expected, found = flatten(net(*inputs))[1], run(inputs)
        assert [tuple(one.shape) for one in expected] == [tuple(one.shape) for one in found]
        for left, right in zip(expected, found, strict=True):
            worst = max(worst, float((left - right).abs().max() / left.abs().max().clamp(min=1)))
    return f"{worst:.1e}" if worst else "0"


def row(kind: str, ways: dict[str, Callable[[Made, Path], Run]]) -> tuple[str, ...]:
    """The line of one model."""
    start, one, cells = time.perf_counter(), exported(kind), []
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")
        for make in ways.values():
            try:
                cells.append(cell(one.net, make(one, Path(folder)), kind))
            except Exception as error:
                cells.append(f"{type(error).__name__}: {str(error).splitlines()[0]}"[:40])
    return (kind, *cells, f"{time.perf_counter() - start:.0f} s")


def main() -> None:
    """Take every model through every way out and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="")
    parser.add_argument("--compile", action="store_true", help="also by inductor, which needs a C++ compiler")
    given = parser.parse_args()
    torch.set_num_threads(1)
    ways = WAYS | ({"inductor": compiled} if given.compile else {})
    rows: list[tuple[str, ...]] = [("model", *ways, "time")]
    for kind in KINDS:
        if given.only in kind:
            rows.append(row(kind, ways))
            print(*rows[-1], sep=" | ", flush=True)
    print("\n".join(columns(rows, align="l" + "r" * (len(ways) + 1))))


if __name__ == "__main__":
    main()
