"""Files of every kind, spoilt at random: what is read of them is right, or the error is an `AdaptError`."""

from __future__ import annotations

import ast
import io
import json
import math
import pickle
import random
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import file_kinds as kinds
import pytest
import torch
from hypothesis import HealthCheck, given, settings, strategies as st
from safetensors.torch import load, save

from autoadapt.calibration import run_states
from autoadapt.errors import AdaptError
from autoadapt.saving.folder_configs import checksum

STRANGE: tuple[Any, ...] = (
    *(None, True, 0, -1, 1, 3, 10**4, 10**9, 2**63, 10**30, -(10**9), 1.5, -0.0, 1e308, math.nan, math.inf),
    *("", "x", "\0", "\u202e", "\x1b[31m", "\ud800", "a" * 2000, "1" * 5000, "../../etc/passwd", "__class__"),
    *(
        "__debug__",
        "B",
        "H",
        "f32[B]",
        "f32[B, 3, H, W]",
        "floor(H/0)",
        "H*H*H",
        "0 - 5",
        "torch:Conv2d",
        "builtins:eval",
    ),
    *([], {}, [[]], {"a": 1}, [0] * 1000, {str(i): i for i in range(100)}),
)


def deep(levels: int) -> Any:
    found: Any = 1
    for i in range(levels):
        found = [found] if i % 2 else {"a": found}
    return found


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Where something stands in plain data."""
    below = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, child in below for place in places(child, (*path, key)))]


def changed(chance: random.Random, value: Any) -> Any:
    """Plain data with one place changed, left out, doubled or moved."""
    *above, last = chance.choice(places(value)[1:] or [(None,)])
    if last is None:
        return chance.choice(STRANGE)
    holder = value
    for key in above:
        holder = holder[key]
    match chance.randrange(6):
        case 0:
            del holder[last]
        case 1 if isinstance(holder, dict):
            holder[chance.choice(["", "x", "a\nb", "\x9b", *map(str, STRANGE[:8])])] = holder[last]
        case 2 if isinstance(holder, list):
            holder.insert(last, holder[last])
        case 3:
            holder[last] = deep(chance.choice([2, 60, 2000]))
        case 4:
            other: Any = value
            for key in chance.choice(places(value)):
                other = other[key]
            holder[last] = json.loads(json.dumps(other))
        case _:
            holder[last] = chance.choice(STRANGE)
    return value


def cut_bytes(chance: random.Random, content: bytes) -> bytes:
    """Bytes with some flipped, left out, doubled or added."""
    made = bytearray(content)
    for _ in range(chance.choice([1, 1, 2, 5])):
        at, size = chance.randrange(len(made) + 1), chance.choice([1, 1, 4, 30])
        match chance.randrange(5):
            case 0:
                del made[at : at + size]
            case 1:
                made[at:at] = chance.randbytes(size)
            case 2:
                made[at:at] = made[at : at + size]
            case 3:
                del made[at:]
            case _:
                made[at : at + 1] = bytes([chance.randrange(256)])
    return bytes(made)


def changed_json(chance: random.Random, content: bytes) -> bytes:
    return dumped(changed(chance, json.loads(content))).encode(errors="surrogatepass")


def dumped(value: Any) -> str:
    try:
        return json.dumps(value)
    except RecursionError:
        return "[" * 100_000


def changed_folder(chance: random.Random, content: bytes) -> bytes:
    """A config that was changed with its checksum."""
    data = json.loads(content)
    data.pop("checksum")
    data = changed(chance, data)
    return json.dumps(data | {"checksum": checksum(data)} if isinstance(data, dict) else data).encode()


def changed_plan(chance: random.Random, content: bytes) -> bytes:
    """A config whose plan alone was changed, in a step or in what it says of the modules, with its checksum."""
    data = json.loads(content)
    data.pop("checksum")
    part = chance.choice(["routes", "inputs", "source", "target", ""])
    holder, key = (data["plan"], part) if part else (data, "plan")
    holder[key] = changed(chance, holder[key])
    return json.dumps(data | {"checksum": checksum(data)}).encode()


def changed_table(chance: random.Random, content: bytes) -> bytes:
    """A table of contents of torch.distributed with other sizes or places."""
    told = pickle.loads(content)
    entry = told.state_dict_metadata[chance.choice(["0.weight", "0.bias", "1.running_mean"])]
    number = chance.choice([0, 1, 2, 3, -1, 7, 10**6, 10**12])
    match chance.randrange(4):
        case 0:
            entry.size = torch.Size([number, *entry.size[1:]])
        case 1:
            entry.chunks[0].sizes = torch.Size([number, *entry.size[1:]])
        case 2:
            entry.chunks[0].offsets = torch.Size([number, *entry.size[1:]])
        case _:
            place = chance.choice(list(told.storage_data.values()))
            setattr(place, chance.choice(["offset", "length", "relative_path"]), chance.choice([number, "x", "../x"]))
    return pickle.dumps(told)


def changed_python(chance: random.Random, content: bytes) -> bytes:
    tree = ast.parse(content)
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Constant)]
    chance.choice(nodes).value = chance.choice([s for s in STRANGE if not isinstance(s, (list, dict))])
    return ast.unparse(tree).encode(errors="surrogatepass")


def changed_journal(chance: random.Random, content: bytes) -> bytes:
    lines = [json.loads(line) for line in content.splitlines()]
    for line in lines:
        line.pop("sha256")
    lines = changed(chance, lines)
    return "".join(map(kinds.line_of, lines)).encode() if isinstance(lines, list) else b""


def changed_state(chance: random.Random, content: bytes) -> bytes:
    tensors, noted = load(content), json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    said = json.dumps(changed(chance, json.loads(noted["__metadata__"]["autoadapt"])))
    if chance.random() < 0.2:
        tensors.pop(chance.choice(list(tensors)))
    return save(tensors, {"autoadapt": said, "sha256": run_states._checksum(said, tensors)})


def changed_header(chance: random.Random, content: bytes) -> bytes:
    """Safetensors whose header says something else."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = changed_json(chance, content[8:end])
    return len(header).to_bytes(8, "little") + header + content[end:]


def changed_pickle(chance: random.Random, content: bytes) -> bytes:
    data = torch.load(io.BytesIO(content), weights_only=True)
    data["state_dict"] = dict(data["state_dict"])
    return kinds.pickled(changed(chance, data))


CHANGES: dict[str, Callable[[random.Random, bytes], bytes]] = {
    "signature": changed_json,
    "contract": changed_json,
    "plan": changed_plan,
    "plan alone": changed_json,
    "folder": changed_folder,
    "whole model": changed_folder,
    "weights of a folder": changed_header,
    "yaml": lambda chance, content: changed_json(chance, json.dumps(kinds.PARTS).encode()),
    "json": changed_json,
    "python": changed_python,
    "safetensors": changed_header,
    "pth": changed_pickle,
    "index": changed_json,
    "distributed": changed_table,
    "image": cut_bytes,
    "array": cut_bytes,
    "journal": changed_journal,
    "state": changed_state,
}


def spoilt(kind: str, chance: random.Random, content: bytes) -> bytes:
    if chance.random() < 0.3:
        return cut_bytes(chance, content)
    try:
        return CHANGES[kind](chance, content)
    except (RecursionError, UnicodeError, ValueError, TypeError, AttributeError):
        return cut_bytes(chance, content)  # what was drawn cannot be written in this format


def check(kind: str, folder: Path, cases: int) -> None:
    name, make, read = kinds.READERS[kind]
    files = make()

    @settings(derandomize=True, deadline=None, max_examples=cases, database=None, suppress_health_check=[*HealthCheck])
    @given(st.randoms(use_true_random=True))
    def reads(chance: random.Random) -> None:
        for other, content in files.items():
            (folder / other).parent.mkdir(parents=True, exist_ok=True)
            (folder / other).write_bytes(content)
        (folder / name).write_bytes(spoilt(kind, chance, files[name]))
        began = time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                read(folder / name)
            except AdaptError as error:
                said = str(error)
            else:
                said = ""
        assert time.process_time() - began < 10
        assert all(line.isprintable() for line in said.replace("\t", " ").split("\n"))

    reads()


@pytest.mark.parametrize("kind", kinds.READERS)
def test_a_spoilt_file_is_read_right_or_refused(kind, tmp_path):
    check(kind, tmp_path, 18)


@pytest.mark.slow  # thousands of files
@pytest.mark.parametrize("kind", kinds.READERS)
def test_many_spoilt_files_are_read_right_or_refused(kind, tmp_path, request):
    check(kind, tmp_path, max(request.config.getoption("--fuzz") // len(kinds.READERS), 1))
