"""Hostile files: small ones that would take hours or gigabytes, each written and read by a function."""

from __future__ import annotations

import json
import math
import os
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import file_kinds as kinds
import torch
from torch import nn

import autoadapt as aa
from autoadapt.contracts.signature import Signature
from autoadapt.contracts.trees import flatten
from autoadapt.saving.folder_configs import checksum


def signature_of(folder: Path, *dims: str, **changes: Any) -> object:
    data = json.loads(Signature.parse([f"f32[B, {len(dims)}]"], inputs="f32[B, 3, H, W]").model_dump_json())
    data["outputs"]["leaves"][0]["dims"] = ["B", *dims]
    (folder / "one.json").write_text(json.dumps(data | changes))
    return Signature.load(folder / "one.json")


def sized(size: int) -> dict[str, dict[str, int]]:
    return {axis: {"example": size} for axis in "BHW"}


def huge_example(folder: Path) -> object:
    size = {"example": 10**6}
    read = signature_of(folder, "H", axes={"B": size, "H": size, "W": size})
    return aa.verify(nn.Identity(), read)


def middling_example(folder: Path) -> object:
    """1.2 billion values."""
    size = {"example": 20_000}
    read = signature_of(folder, "H", axes={"B": {"example": 1}, "H": size, "W": size})
    return aa.verify(kinds.backbone(), read, seconds=5)


def write_weights(path: Path, names: list[str], shape: list[int]) -> None:
    size = 4 * math.prod(shape)
    places = {name: [size * i, size * (i + 1)] for i, name in enumerate(names)}
    header = {name: {"dtype": "F32", "shape": shape, "data_offsets": place} for name, place in places.items()}
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + bytes(size * len(names)))


def many_names(folder: Path) -> object:
    write_weights(folder / "one.safetensors", [f"layer.{i}.weight" for i in range(10**5)], [1])
    return aa.transfer(folder / "one.safetensors", kinds.linear(), min_coverage=0.5)


def named(folder: Path, names: list[str]) -> object:
    write_weights(folder / "one.safetensors", names, [1])
    return aa.transfer(folder / "one.safetensors", kinds.linear())


def many_names_alike(folder: Path) -> object:
    """Names that all end as one of the model's does."""
    write_weights(folder / "one.safetensors", [f"a{i}.0.weight" for i in range(10**5)], [3, 2])
    return aa.transfer(folder / "one.safetensors", kinds.linear(), min_coverage=0.9)


def shared_dicts(folder: Path) -> object:
    shared: dict[str, Any] = {"weight": torch.zeros(2, 2)}
    for _ in range(5):
        shared = {str(i): shared for i in range(60)}
    torch.save(shared, folder / "one.pth")
    return aa.transfer(folder / "one.pth", kinds.linear())


def index(folder: Path, names: Any) -> object:
    path = folder / "model.safetensors.index.json"
    path.write_text(json.dumps({"weight_map": names}))
    return aa.transfer(path, kinds.linear())


def compressed(folder: Path) -> object:
    """A tensor of 4 GB of zeros in a few megabytes."""
    torch.save({"weight": torch.zeros(2, 2)}, folder / "a.pth")
    with zipfile.ZipFile(folder / "a.pth") as old, zipfile.ZipFile(folder / "b.pth", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name) if not name.endswith("data/0") else bytes(1 << 28))
    return aa.transfer(folder / "b.pth", kinds.linear())


def restored(folder: Path, source: str, **options: Any) -> object:
    """A saved folder whose backbone is to be made with other options."""
    aa.save(kinds.adapted(), folder)
    data = json.loads((folder / "config.json").read_text())
    del data["checksum"]
    tree = json.loads(flatten(options)[0].model_dump_json())
    data["source"] = {"verb": "load", "name": source, "pretrained": False, "options": tree}
    (folder / "config.json").write_text(json.dumps(data | {"checksum": checksum(data)}))
    return aa.restore(folder, allow=["torch"])


def planned(folder: Path, **changes: int) -> object:
    """A saved folder whose plan has another projection."""
    aa.save(kinds.adapted(), folder)
    data = json.loads((folder / "config.json").read_text())
    del data["checksum"]
    (route,) = data["plan"]["routes"]
    route["steps"][0] |= changes
    (folder / "config.json").write_text(json.dumps(data | {"checksum": checksum(data)}))
    return aa.restore(folder, kinds.backbone())


def assembled(folder: Path, text: str) -> object:
    (folder / "one.yaml").write_text(text)
    return aa.assemble(folder / "one.yaml")


def backbone_of(folder: Path, **options: Any) -> object:
    return assembled(folder, json.dumps({"input": "f32[B, 3, 32, 32]", "backbone": options}))


def chained(folder: Path, count: int = 1100) -> object:
    fronts = ["backbone", *(f"neck.p{i}" for i in range(count - 1))]
    parts = "\n".join(f"  p{i}: {{type: torch:Identity, from: {front}}}" for i, front in enumerate(fronts))
    return assembled(folder, kinds.YAML.partition("neck")[0] + "neck:\n" + parts + "\n")


def config_is(folder: Path, make: Callable[[Path], object]) -> object:
    make(folder / "config.json")
    return aa.restore(folder)


CONV = {"type": "torch:Conv2d", "in_channels": 3, "kernel_size": 3}

HOSTILE: dict[str, Callable[[Path], object]] = {
    "a dim of 40 factors": lambda f: signature_of(f, "*".join(f"(H + {i})*(W + {i})" for i in range(1, 21))),
    "a layer of 10^9 in a folder": lambda f: restored(
        f, "torch.nn:Conv2d", in_channels=3, out_channels=10**9, kernel_size=2
    ),
    "a dim of 20,000 terms": lambda f: signature_of(f, " + ".join(f"floor(H/{i})" for i in range(2, 20_002))),
    "a dim whose product has very many terms": lambda f: signature_of(f, "*".join(["(B + C + D + E + F + G)"] * 12)),
    "20,000 dims": lambda f: signature_of(f, *["ceil(H/4)"] * 20_000, axes=sized(8)),
    "100,000 axes": lambda f: signature_of(f, "H", axes=sized(8) | {f"A{i}": {"example": 2} for i in range(100_000)}),
    "deep JSON": lambda f: (f / "one.json").write_text("[" * 10**6) and Signature.load(f / "one.json"),
    "an example of 10^6": huge_example,
    "an example that is large several times": middling_example,
    "100,000 names": many_names,
    "100,000 names that end alike": many_names_alike,
    "300,000 names": lambda f: named(f, [f"l{i}.w" for i in range(300_000)]),
    "a name of 100,000 dots": lambda f: named(f, ["." * 100_000]),
    "20,000 names of 200 segments": lambda f: named(f, [f"{'a.' * 200}{i}" for i in range(20_000)]),
    "dicts that share each other": shared_dicts,
    "an index of 200,000 shards": lambda f: index(f, {str(i): f"{i}.bin" for i in range(200_000)}),
    "an index of itself": lambda f: index(f, {"a": "model.safetensors.index.json"}),
    "a compressed pickle": compressed,
    "a layer of 10^5 squared in a folder": lambda f: restored(
        f, "torch.nn:Conv2d", in_channels=10**5, out_channels=10**5, kernel_size=2
    ),
    "a depth of 10^9 in a folder": lambda f: restored(f, "timm:vit_tiny_patch16_224", depth=10**9),
    "a depth of 10^5 in a folder": lambda f: restored(f, "timm:vit_tiny_patch16_224", depth=10**5),
    "a width of 10^7 in a folder": lambda f: restored(f, "timm:vit_tiny_patch16_224", embed_dim=10**7),
    "an image of 10^5 in a folder": lambda f: restored(f, "timm:vit_tiny_patch16_224", img_size=10**5),
    "depths of 10^7 of blocks in a folder": lambda f: restored(f, "timm:resnet18", layers=[10**7] * 4),
    "a projection of 10^9 in a plan": lambda f: planned(f, source=10**9, target=10**9),
    "a projection of nothing in a plan": lambda f: planned(f, source=0),
    "a layer of 10^7 in a config": lambda f: backbone_of(f, **CONV, out_channels=10**7),
    "a layer of 10^9 in a config": lambda f: backbone_of(f, **CONV, out_channels=10**9),
    "a kernel of 10^5 in a config": lambda f: backbone_of(f, **CONV | {"kernel_size": 10**5}, out_channels=3),
    "a depth of 10^6 in a config": lambda f: backbone_of(f, type="timm:vit_tiny_patch16_224", depth=10**6),
    "classes by the billion": lambda f: assembled(f, kinds.YAML.replace("num_classes: 5", "num_classes: 1000000000")),
    "sexagesimal integers": lambda f: assembled(f, "a: " + "1:" * 300_000 + "1\nb: 2"),
    "many sexagesimal integers": lambda f: assembled(f, "a:\n" + ("- " + "59:" * 12 + "1\n") * 20_000),
    "8 MB of YAML": lambda f: assembled(f, "a: 1\n" * 1_600_000),
    "900 levels of YAML": lambda f: assembled(f, "a: 2\nb: " + "[" * 900 + "]" * 900),
    "200,000 open brackets of YAML": lambda f: assembled(f, "a: 2\nb: " + "[" * 200_000),
    "1,100 chained parts": chained,
    "a pipe": lambda f: config_is(f, os.mkfifo),
    "a device": lambda f: config_is(f, lambda path: path.symlink_to("/dev/zero")),
    "a device of weights": lambda f: (
        (f / "one.safetensors").symlink_to("/dev/zero") or aa.transfer(f / "one.safetensors", kinds.linear())
    ),
    "a pipe of weights": lambda f: os.mkfifo(f / "one.pth") or aa.transfer(f / "one.pth", kinds.linear()),
    "a header that claims 2^60 bytes": lambda f: (
        (f / "one.safetensors").write_bytes(struct.pack("<Q", 1 << 60) + b"{}")
        and aa.transfer(f / "one.safetensors", kinds.linear())
    ),
    "a tensor of 2^40 values of one": lambda f: (
        torch.save({"state_dict": {"0.weight": torch.zeros(1).expand(1 << 40)}}, f / "one.pth")
        or aa.transfer(f / "one.pth", kinds.linear(), shapes="resample")
    ),
    "a journal that is a pipe": lambda f: os.mkfifo(f / "one.jsonl") or kinds.read_journal(f / "one.jsonl"),
    "a journal that is a device": lambda f: (
        (f / "one.jsonl").symlink_to("/dev/zero") or kinds.read_journal(f / "one.jsonl")
    ),
    "a state that is a pipe": lambda f: os.mkfifo(f / "one.st") or kinds.read_state(f / "one.st"),
    "a state that is a device": lambda f: (f / "one.st").symlink_to("/dev/zero") or kinds.read_state(f / "one.st"),
    "a base of itself by a device": lambda f: (
        (f / "base.py").symlink_to("/dev/zero")
        or ((f / "one.py").write_text("_base_ = 'base.py'\n") and aa.assemble(f / "one.py"))
    ),
    "a base that is doubled 60 times": lambda f: (
        (f / "one.py").write_text(
            "a0 = [1]\n"
            + "".join(f"a{i + 1} = [a{i}, a{i}]\n" for i in range(60))
            + "model = dict(backbone=dict(type=a60))"
        )
        and aa.assemble(f / "one.py")
    ),
}
