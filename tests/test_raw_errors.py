"""No foreign traceback: what once ended in another exception of Python, torch or Pillow ends in an `AdaptError`."""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import file_kinds as kinds
import pytest
import torch

import autoadapt as aa
from autoadapt.contracts.signature import Signature
from autoadapt.errors import AdaptError
from autoadapt.saving.folder_configs import checksum
from autoadapt.sources.images import Preprocessing, read_images


def signature(folder: Path, change: Callable[[Any], object]) -> object:
    data = json.loads(kinds.signature())
    change(data)
    (folder / "one.json").write_text(json.dumps(data))
    return Signature.load(folder / "one.json")


def adapt(folder: Path, change: Callable[[Any], object]) -> object:
    return aa.adapt(kinds.backbone(), like=signature(folder, change))


def saved(folder: Path, change: Callable[[Any], object]) -> object:
    """A saved folder whose config was changed together with its checksum."""
    aa.save(kinds.adapted(), folder)
    data = json.loads((folder / "config.json").read_text())
    del data["checksum"]
    change(data)
    (folder / "config.json").write_text(json.dumps(data | {"checksum": checksum(data)}))
    return aa.restore(folder, kinds.backbone())


def whole(folder: Path, part: str) -> object:
    """A whole model whose part lies in another folder."""
    for name, content in kinds.whole().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    data = json.loads((folder / "model.json").read_text())
    data["parts"][0]["folder"] = part
    (folder / "model.json").write_text(json.dumps(data))
    return kinds.read_whole(folder)


def text_of(name: str, text: str, read: Callable[[Path], object]) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_text(text) and read(folder / name)


def config(text: str) -> Callable[[Path], object]:
    return text_of("one.yaml", text, aa.assemble)


def index(content: Any) -> Callable[[Path], object]:
    return text_of("model.safetensors.index.json", json.dumps(content), kinds.transferred)


def linked(folder: Path) -> object:
    """A whole model, one of whose parts is a link that leads out of it."""
    for name, content in kinds.whole().items():
        (folder / "model" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "model" / name).write_bytes(content)
    (folder / "model/parts/0").rename(folder / "elsewhere")
    (folder / "model/parts/0").symlink_to(folder / "elsewhere")
    return kinds.read_whole(folder / "model")


def nested(folder: Path, layout: torch.layout) -> object:
    """Weights in a tensor of tensors, of which torch tells no sizes, and nothing else."""
    torch.save({"0.weight": torch.nested.nested_tensor([torch.zeros(3, 2)], layout=layout)}, folder / "one.pth")
    return aa.transfer(folder / "one.pth", kinds.linear())


def bomb(folder: Path) -> object:
    """A picture of 60,000 x 60,000 pixels in a hundred bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 60_000, 60_000, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")
    (folder / "a.png").write_bytes(content)
    return list(read_images(folder, Preprocessing(8, 8), count=1))


def put(*path: Any) -> Callable[[Any], object]:
    *above, last, value = path

    def change(data: Any) -> None:
        for key in above:
            data = data[key]
        data[last] = value

    return change


LONG = "a" * 5000
RAW: dict[str, Callable[[Path], object]] = {
    "deep JSON in a signature": text_of("one.json", "[" * 100_000, Signature.load),
    "deep objects in a signature": text_of("one.json", '{"a":' * 100_000, Signature.load),
    "an integer of 5,000 digits in a signature": text_of("one.json", '{"a": ' + "1" * 5000 + "}", Signature.load),
    "a deep tree in a signature": text_of(
        "one.json", '{"outputs": {"tree": ' + '{"tree":"container","children":[' * 3000, Signature.load
    ),
    "no text in a signature": lambda f: (f / "one.json").write_bytes(b"\xff\xfe\0") and Signature.load(f / "one.json"),
    "a number for a signature": text_of("one.json", "3", Signature.load),
    "leaves that do not match slots": lambda f: signature(f, put("outputs", "leaves", [])),
    "keys that do not match children": lambda f: signature(f, put("inputs", "tree", "keys", ["x", "y"])),
    "negative channels": lambda f: signature(f, put("outputs", "leaves", 0, "dims", ["B", "0 - 5"])),
    "a dim that is divided by zero": lambda f: signature(f, put("outputs", "leaves", 0, "dims", ["floor(H/0)"])),
    "a coefficient of 40 digits": lambda f: signature(f, put("outputs", "leaves", 0, "dims", ["1" * 40 + "*H", None])),
    "`__debug__` as an argument": lambda f: signature(f, put("inputs", "tree", "keys", ["__debug__"])),
    "a keyword as an argument": lambda f: signature(f, put("inputs", "tree", "keys", ["lambda"])),
    "an output that is another one which is not there": lambda f: adapt(f, put("outputs", "leaves", 0, "same_as", "3")),
    "axes without sizes": lambda f: signature(f, put("axes", {})),
    "a range of values beyond 64 bits": lambda f: signature(f, put("value_ranges", {"input": [0, 1 << 70]})),
    "NUL in a name of a signature": lambda f: signature(f, put("name", "a\0b")),
    "an axis without an example": lambda f: signature(f, put("axes", {"H": {}})),
    "versions that are a list": lambda f: saved(f, put("versions", [1])),
    "a version that is a number": lambda f: saved(f, put("versions", {"autoadapt": 3})),
    "facts that are a list": lambda f: saved(f, put("facts", [])),
    "a fact under the name of a method": lambda f: saved(f, put("facts", {"forward": {"value": {"tree": "constant"}}})),
    "routes that are left out": lambda f: saved(f, put("plan", "routes", [])),
    "samples that are left out": lambda f: saved(f, put("witness", "leaves", {})),
    "a projection from nothing": lambda f: saved(f, put("plan", "routes", 0, "steps", 0, "source", 0)),
    "a projection of negative channels": lambda f: saved(f, put("plan", "routes", 0, "steps", 0, "source", -3)),
    "a base with NUL": text_of("one.py", "_base_ = 'a\\0.py'\n", aa.assemble),
    "a part that is not there": lambda f: whole(f, "parts/7"),
    "a part that lies elsewhere": lambda f: whole(f, "../elsewhere"),
    "a config that is a list": text_of("config.json", "[]", lambda path: aa.restore(path.parent)),
    "deep JSON in a folder": text_of("config.json", "[" * 100_000, lambda path: aa.restore(path.parent)),
    "a part that is a link out of the folder": linked,
    "a nested tensor": lambda f: nested(f, torch.strided),
    "a jagged tensor": lambda f: nested(f, torch.jagged),
    "weights by number in an index": index({"weight_map": {"a": 3}}),
    "an index that is a list": index(["a"]),
    "an index of NUL": index({"weight_map": {"a": "b\0"}}),
    "an index of too long names": index({"weight_map": {"a": LONG}}),
    "deep JSON in an index": text_of("model.safetensors.index.json", "[" * 100_000, kinds.transferred),
    "NUL in YAML": config("a: 2\nb: \0"),
    "an integer of 5,000 digits in YAML": config("a: 2\nb: " + "1" * 5000),
    "a surrogate in YAML": config('a: 2\nb: "\\ud800"\n'),
    "a date that there is not in YAML": config("a: 2\nb: 2020-13-45\n"),
    "a key that is a mapping in YAML": config("? {a: b}\n: 2\n"),
    "an unknown group in YAML": config(json.dumps(kinds.PARTS | {"\x9b": 3})),
    "a name of 5,000 letters": lambda f: Signature.load(f / LONG),
    "a folder of 5,000 letters": lambda f: aa.restore(f / LONG),
    "a checkpoint of 5,000 letters": lambda f: aa.transfer(f / LONG, kinds.linear()),
    "a checkpoint named with NUL": lambda f: aa.transfer(f / "a\0b", kinds.linear()),
    "a config of 5,000 letters": lambda f: aa.assemble(f / LONG),
    "pictures in a folder of 5,000 letters": lambda f: read_images(f / LONG, Preprocessing(8, 8), count=1),
    "a picture that unpacks to gigabytes": bomb,
    "a page of 5,000 letters": lambda f: aa.write_html(f / LONG, kinds.adapted().plan),
    "a source of 5,000 letters": lambda f: aa.load(f"{LONG}.py:build", allow=[f"{LONG}.py"]),
    "a source with NUL": lambda f: aa.load("a\0.py:build", allow=["a\0.py"]),
}


@pytest.mark.sampled(1)
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", RAW)
def test_it_is_an_error_of_ours(name, tmp_path):
    with pytest.raises(AdaptError) as caught:
        RAW[name](tmp_path)
    assert all(line.isprintable() for line in str(caught.value).split("\n"))
