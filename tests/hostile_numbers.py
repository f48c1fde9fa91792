"""Hostile numbers: files in which a size, a count or a shape asks for more memory than anybody has meant."""

from __future__ import annotations

import json
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import file_kinds as kinds
import hostile_files as files
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

import autoadapt as aa
from autoadapt.assembly import compare
from autoadapt.contracts.signature import Signature
from autoadapt.sources.images import Preprocessing, read_images

BACKBONE = "backbone: {type: 'torch:Conv2d', in_channels: 3, out_channels: 4, kernel_size: 3, stride: 2}\n"
WIDE = "backbone: {type: 'torch:Conv2d', in_channels: 3, out_channels: 1000, kernel_size: 1}\n"


def signature(folder: Path, outputs: str, inputs: str = "f32[B, 3, H, W]", **examples: int) -> Path:
    """A signature of one output, with other sizes as its example."""
    data = json.loads(Signature.parse([outputs], inputs=inputs).model_dump_json())
    for axis, size in examples.items():
        data["axes"][axis]["example"] = size
    (folder / "one.json").write_text(json.dumps(data))
    return folder / "one.json"


def verified(folder: Path, module: nn.Module, *texts: str, **examples: int) -> object:
    return aa.verify(module, Signature.load(signature(folder, *texts, **examples)))


def adapted(folder: Path, *texts: str, **examples: int) -> object:
    return aa.adapt(nn.Conv2d(3, 5, 4, stride=4), like=signature(folder, *texts, **examples))


def assembled(folder: Path, text: str, use: Callable[[Path], Any] = aa.assemble) -> Any:
    (folder / "one.yaml").write_text(text)
    return use(folder / "one.yaml")


def given(size: str, text: str = BACKBONE) -> str:
    return f"input: 'f32[B, 3, {size}]'\n{text}"


def ran(model: Any, side: int, out: tuple[int, ...]) -> None:
    """Hold a model that was taken against what it should return for a small image."""
    returned = model(torch.zeros(1, 3, side, side))
    assert (returned[0] if isinstance(returned, list) else returned).shape == out


def compared(folder: Path, text: str) -> None:
    """Raise what the one row of a comparison says."""
    (row,) = assembled(folder, text, compare).rows
    if row.fault:
        raise aa.AdaptError(row.fault)


def transferred(folder: Path, tensor: torch.Tensor, **options: Any) -> object:
    torch.save({**kinds.linear().state_dict(), "0.weight": tensor}, folder / "one.pth")
    return aa.transfer(folder / "one.pth", kinds.linear(), **options)


def table(folder: Path) -> object:
    """A table of 10^8 positions in 4 bytes, for a model of a hundred."""
    model = nn.Module()
    model.pos_embed = nn.Parameter(torch.zeros(1, 100, 32))
    torch.save({"pos_embed": torch.zeros(1, 1, 1).expand(1, 10**8, 32)}, folder / "one.pth")
    return aa.transfer(folder / "one.pth", model, shapes="resample")


def deltas(folder: Path) -> object:
    state = kinds.linear().state_dict()
    state["0.base_layer.weight"] = state.pop("0.weight")
    state |= {"0.lora_A.default.weight": torch.ones(1, 30_000), "0.lora_B.default.weight": torch.ones(30_000, 1)}
    save_file(state, folder / "one.safetensors")
    return aa.transfer(folder / "one.safetensors", kinds.linear(), merge={"lora": 2.0})


def weight_norm(folder: Path) -> object:
    state = {"weight_v": torch.ones(1, 30_000), "weight_g": torch.ones(30_000, 1)}
    save_file(state, folder / "one.safetensors")
    return aa.transfer(folder / "one.safetensors", nn.Linear(30_000, 1), min_coverage=0.5)


def distributed(folder: Path, size: tuple[int, ...], block: tuple[int, ...] | None = None, **options: Any) -> object:
    """A distributed checkpoint whose table of contents says other sizes."""
    import torch.distributed.checkpoint as dcp

    warnings.simplefilter("ignore")
    dcp.save(kinds.linear().state_dict(), checkpoint_id=folder, no_dist=True)
    told = pickle.loads((folder / ".metadata").read_bytes())
    entry = told.state_dict_metadata["0.weight"]
    entry.size = torch.Size(size)
    if block is not None:
        entry.chunks[0].sizes = torch.Size(block)
    (folder / ".metadata").write_bytes(pickle.dumps(told))
    return aa.transfer(folder, kinds.linear(), **options)


class ByteArray:
    def __reduce__(self) -> Any:
        return bytearray, (10**10,)


def byte_array(folder: Path) -> object:
    (folder / "one.pth").write_bytes(pickle.dumps({"a": ByteArray()}, protocol=2))
    return aa.transfer(folder / "one.pth", kinds.linear())


def array(folder: Path) -> object:
    """A `.npy` file whose header says 10^10 numbers."""
    from autoadapt.cli.example_inputs import read_inputs

    header = b"{'descr': '<f4', 'fortran_order': False, 'shape': (10000000000,), }"
    header += b" " * (117 - len(header)) + b"\n"
    (folder / "x.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header + bytes(64))
    return read_inputs([str(folder / "x.npy")])


def resized(folder: Path) -> object:
    """A saved folder whose plan ends in a map of 60,000 x 60,000."""
    net = aa.adapt(kinds.backbone(), like=nn.Conv2d(3, 5, 4, stride=4), inputs=torch.zeros(1, 3, 8, 8))
    aa.save(net, folder)
    text = (folder / "config.json").read_text().replace("floor(H/4)", "60000").replace("floor(W/4)", "60000")
    data = json.loads(text)
    del data["checksum"]
    (folder / "config.json").write_text(json.dumps(data | {"checksum": files.checksum(data)}))
    return aa.restore(folder, kinds.backbone())


def picture(folder: Path, size: tuple[int, int]) -> object:
    Image.new("L", size).save(folder / "a.png")
    return list(read_images(folder, Preprocessing(8, 8), count=1))


REFUSED: dict[str, Callable[[Path], object]] = {
    "a contract of 999,999,999 channels": lambda f: adapted(f, "f32[B, 999999999, floor(H/4), floor(W/4)]"),
    "an input of 10^9 pixels a side": lambda f: assembled(f, given("1000000000, 1000000000")),
    "a contract of 10^17 channels": lambda f: adapted(f, f"f32[B, 1{'0' * 17}, floor(H/4), floor(W/4)]"),
    "a contract of 27 million channels": lambda f: adapted(f, "f32[B, 27000000, floor(H/4), floor(W/4)]"),
    "an example of 99,999,999 channels": lambda f: adapted(f, "f32[B, 7, H, W]", "f32[B, 99999999, H, W]", H=1, W=1),
    "a config's contract of 10^8 channels": lambda f: assembled(
        f, given("32, 32", "adapt: {like: {c: 'f32[B, 99999999, ceil(H/4), ceil(W/4)]'}}\n" + BACKBONE)
    ),
    "an input of 10^6 pixels a side": lambda f: assembled(f, given("1000000, 1000000")),
    "a batch of 10^5": lambda f: assembled(f, given("224, 224").replace("[B,", "[100000,")),
    "many layers of 10^8": lambda f: assembled(
        f,
        given("32, 32")
        + "neck: {"
        + ", ".join(
            f"p{i}: {{type: 'torch:Conv2d', in_channels: 4, out_channels: 10000000, kernel_size: 1}}" for i in range(8)
        )
        + "}",
    ),
    "padding to multiples of 10^6 pixels": lambda f: assembled(
        f, given("224, 224", "preprocessor: {type: ImagePreprocessor, pad_size_divisor: 1000000}\n" + BACKBONE)
    ),
    "a comparison at 8,000 pixels a side": lambda f: compared(f, given("8000, 8000")),
    "a comparison of wide maps": lambda f: compared(f, given("2000, 2000", WIDE)),
    "a plan that ends in a map of 60,000 pixels a side": resized,
    "a view of one value, cut": lambda f: transferred(f, torch.zeros(1, 1).expand(10**5, 10**5), shapes="slice"),
    "a table that is a view of one value": table,
    "deltas that are larger than their weight": deltas,
    "lengths that are more than their directions": weight_norm,
    "a distributed tensor of 10^12": lambda f: distributed(f, (10**6, 10**6), shapes="slice"),
    "a distributed tensor of 10^30": lambda f: distributed(f, (10**30, 1)),
    "a block of 10^10": lambda f: distributed(f, (10**5, 10**5), (10**5, 10**5), shapes="slice"),
    "a byte array of 10^10": byte_array,
    "a picture of 10^6 pixels by 1": lambda f: picture(f, (10**6, 1)),
    "a picture of 9,000 pixels a side": lambda f: picture(f, (9000, 9000)),
    "an array of 10^10 in a .npy": array,
}
"""What ends in an `AdaptError`."""

TAKEN: dict[str, Callable[[Path], object]] = {
    "dims of H*H": lambda f: verified(f, nn.Identity(), "f32[B, H*H]", "f32[B, H*H]", B=1, H=16_000),
    "dims of H*H in the outputs": lambda f: verified(f, nn.Flatten(), "f32[B, H*H]", B=1, H=1000, W=1000),
    "a batch of 10^8 as an example": lambda f: verified(f, nn.Identity(), "f32[B, 2]", "f32[B, 2]", B=10**8),
    "an example of 9,000 pixels a side": lambda f: ran(
        adapted(f, "f32[B, 7, floor(H/4), floor(W/4)]", B=1, H=9000, W=9000), 16, (1, 7, 4, 4)
    ),
    "an input of 8,000 pixels a side": lambda f: ran(assembled(f, given("8000, 8000")), 15, (1, 4, 7, 7)),
    "wide maps of 2,000 pixels a side": lambda f: ran(assembled(f, given("2000, 2000", WIDE)), 5, (1, 1000, 5, 5)),
    "maps of 100 times the side": lambda f: ran(
        assembled(f, given("224, 224", "backbone: {type: 'torch:Upsample', scale_factor: 100}")), 2, (1, 3, 200, 200)
    ),
    "a preprocessor at 8,000 pixels a side": lambda f: assembled(
        f, given("8000, 8000", "preprocessor: {type: ImagePreprocessor, mean: [1, 2, 3], std: [1, 2, 3]}\n" + BACKBONE)
    ),
}
"""What nothing large has to be made for: it is done, within the same time and memory."""
