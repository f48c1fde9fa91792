"""File kinds: a small valid file of every kind that is read, and what reads it."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import autoadapt as aa
from autoadapt.calibration.moments import Moments
from autoadapt.calibration.run_states import State
from autoadapt.calibration.samples import Samples
from autoadapt.cli.example_inputs import read_inputs
from autoadapt.cli.shown_files import held_by as held
from autoadapt.contracts.signature import Signature
from autoadapt.ranking.candidates import Candidate
from autoadapt.ranking.journals import Journal
from autoadapt.ranking.results import Ranked
from autoadapt.sources.images import Preprocessing, read_images

YAML = """\
input: f32[B, 3, 16, 16]
backbone:
  type: torch:Conv2d
  in_channels: 3
  out_channels: 4
  kernel_size: 3
neck: {type: GlobalAveragePooling}
head: &head
  type: LinearClsHead
  num_classes: 5
  in_channels: 4
"""

PYTHON = """\
input = 'f32[B, 3, 16, 16]'
width = 4
model = dict(
    backbone=dict(type='torch:Conv2d', in_channels=3, out_channels=width, kernel_size=3),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=5, in_channels=width))
"""

PARTS = {
    "input": "f32[B, 3, 16, 16]",
    "backbone": {"type": "torch:Conv2d", "in_channels": 3, "out_channels": 4, "kernel_size": 3},
    "neck": {"type": "GlobalAveragePooling"},
    "head": {"type": "LinearClsHead", "num_classes": 5, "in_channels": 4},
}


def backbone() -> nn.Module:
    return nn.Conv2d(3, 5, 2, stride=2)


def linear() -> nn.Module:
    return nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))


@functools.cache
def adapted() -> aa.AdaptedModule:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return aa.adapt(backbone(), like=nn.Conv2d(3, 8, 2, stride=2), inputs=torch.zeros(1, 3, 8, 8))


def signature() -> str:
    return aa.capture(backbone(), torch.zeros(1, 3, 8, 8), inner=True).model_dump_json()


def contract() -> str:
    return aa.capture(nn.Conv2d(3, 8, 4, stride=4), torch.zeros(1, 3, 16, 16)).model_dump_json()


def saved() -> dict[str, bytes]:
    with tempfile.TemporaryDirectory() as folder:
        aa.save(adapted(), folder)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def whole() -> dict[str, bytes]:
    """A bigger model with an adapted part; files below `parts/` by their path."""
    with tempfile.TemporaryDirectory() as folder:
        aa.save(nn.Sequential(adapted(), nn.ReLU(), nn.Conv2d(8, 2, 1)), folder)
        files = [path for path in Path(folder).rglob("*") if path.is_file()]
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def read_whole(folder: Path) -> object:
    model = nn.Sequential(backbone(), nn.ReLU(), nn.Conv2d(8, 2, 1))
    return aa.restore(folder, backbone(), model=model)


def read_saved(folder: Path) -> object:
    return aa.restore(folder, new=backbone())


def safetensors() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        save_file(linear().state_dict(), Path(folder, "a"), {"format": "pt"})
        return Path(folder, "a").read_bytes()


def pickled(content: Any = None) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        torch.save({"state_dict": linear().state_dict(), "epoch": 3} if content is None else content, f"{folder}/a")
        return Path(folder, "a").read_bytes()


INDEX = {"metadata": {"total_size": 96}, "weight_map": dict.fromkeys(linear().state_dict(), "one.safetensors")}

RUN = {"contract": "f32[B]", "batch": 1}


def candidate() -> Candidate:
    return Candidate("torchvision:resnet18", "torchvision:resnet18")


def journal() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        written = Journal(Path(folder, "a"), RUN)
        written.begin(candidate())
        written.end(candidate(), Ranked(source="torchvision:resnet18", parameters=3))
        return Path(folder, "a").read_bytes()


def read_journal(path: Path) -> object:
    return Journal(path, RUN).row(candidate())


def line_of(entry: Any) -> str:
    """An entry of a journal with its checksum."""
    text = json.dumps(entry).removesuffix("}")
    return f'{text}, "sha256": "{hashlib.sha256(text.encode()).hexdigest()[:16]}"}}\n'


def state() -> State:
    return State([[Moments.zeros(2, 3), Moments.zeros(2, 3)]], Samples(2, 1 << 20))


def state_bytes() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        state().save(Path(folder, "a"), "run")
        return Path(folder, "a").read_bytes()


def read_state(path: Path) -> object:
    return state().load(path, "run")


def transferred(path: Path) -> object:
    return aa.transfer(path, linear(), min_coverage=0)


def picture() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        Image.linear_gradient("L").resize((9, 7)).convert("RGB").save(f"{folder}/a.png")
        return Path(folder, "a.png").read_bytes()


def read_pictures(path: Path) -> object:
    return list(read_images(path.parent, Preprocessing(8, 8), count=1))


def array() -> bytes:
    made = io.BytesIO()
    np.save(made, np.zeros((1, 3, 8, 8), np.float32))
    return made.getvalue()


def distributed() -> dict[str, bytes]:
    """A checkpoint of one rank, as torch.distributed writes it."""
    import torch.distributed.checkpoint as dcp

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        dcp.save(linear().state_dict(), checkpoint_id=folder, no_dist=True)
        return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def followed(path: Path) -> object:
    """A signature that is not only read but adapted to, and held against what came of it."""
    contract = Signature.load(path)
    return aa.adapt(backbone(), like=contract).verify()


def shown(path: Path) -> object:
    """What a command prints of a file."""
    return str(held(path))


READERS: dict[str, tuple[str, Callable[[], dict[str, bytes]], Callable[[Path], object]]] = {
    "signature": ("one.json", lambda: {"one.json": signature().encode()}, Signature.load),
    "contract": ("one.json", lambda: {"one.json": contract().encode()}, followed),
    "plan": ("config.json", saved, lambda path: read_saved(path.parent)),
    "plan alone": ("one.json", lambda: {"one.json": adapted().plan.model_dump_json().encode()}, shown),
    "folder": ("config.json", saved, lambda path: read_saved(path.parent)),
    "whole model": ("model.json", whole, lambda path: read_whole(path.parent)),
    "weights of a folder": ("model.safetensors", saved, lambda path: read_saved(path.parent)),
    "yaml": ("one.yaml", lambda: {"one.yaml": YAML.encode()}, aa.assemble),
    "json": ("one.json", lambda: {"one.json": json.dumps(PARTS).encode()}, aa.assemble),
    "python": ("one.py", lambda: {"one.py": PYTHON.encode()}, aa.assemble),
    "safetensors": ("one.safetensors", lambda: {"one.safetensors": safetensors()}, transferred),
    "pth": ("one.pth", lambda: {"one.pth": pickled()}, transferred),
    "index": (
        "model.safetensors.index.json",
        lambda: {"model.safetensors.index.json": json.dumps(INDEX).encode(), "one.safetensors": safetensors()},
        transferred,
    ),
    "distributed": (".metadata", distributed, lambda path: transferred(path.parent)),
    "image": ("one.png", lambda: {"one.png": picture()}, read_pictures),
    "array": ("one.npy", lambda: {"one.npy": array()}, lambda path: read_inputs([str(path)])),
    "journal": ("one.jsonl", lambda: {"one.jsonl": journal()}, read_journal),
    "state": ("one.safetensors", lambda: {"one.safetensors": state_bytes()}, read_state),
}
"""For each kind: the file that is spoilt, all files, and what reads it."""
