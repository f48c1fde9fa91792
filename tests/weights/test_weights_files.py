"""Where weights come from: files of each kind, containers, shards."""

from __future__ import annotations

import contextlib
import io
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from weights_models import equal, prefixed, randomised, snapshot

from autoadapt.errors import AdaptError, SourceError
from autoadapt.weights import transfer


def net() -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))


@pytest.fixture
def source() -> nn.Module:
    return randomised(net(), 1)


def check(path: Path, source: nn.Module, **options: object) -> None:
    model = randomised(net(), 2)
    assert transfer(path, model, **options).share == 1
    assert equal(snapshot(model), snapshot(source))


@pytest.mark.parametrize("ending", [".pth", ".pt", ".bin", ".ckpt"])
def test_pytorch_files_of_every_ending_are_read(ending: str, source: nn.Module, tmp_path: Path) -> None:
    torch.save(source.state_dict(), tmp_path / f"w{ending}")
    check(tmp_path / f"w{ending}", source)
    check(tmp_path / "w", source)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_of_protocol_three_is_read_without_a_warning(zipped: bool, source: nn.Module, tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save(source.state_dict(), path, pickle_protocol=3, _use_new_zipfile_serialization=zipped)
    check(path, source)


def test_the_old_format_is_read(source: nn.Module, tmp_path: Path) -> None:
    torch.save(source.state_dict(), tmp_path / "w.pth", _use_new_zipfile_serialization=False)
    check(tmp_path / "w.pth", source)


def test_safetensors_are_known_by_content(source: nn.Module, tmp_path: Path) -> None:
    save_file(source.state_dict(), tmp_path / "w.bin")
    check(tmp_path / "w.bin", source)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_shards_are_read_through_their_index_or_folder(kind: str, source: nn.Module, tmp_path: Path) -> None:
    state = source.state_dict()
    halves = [dict(list(state.items())[:3]), dict(list(state.items())[3:])]
    stem = "model" if kind == "safetensors" else "pytorch_model"
    weight_map = {}
    for number, half in enumerate(halves):
        name = f"{stem}-{number}.{kind}"
        (save_file if kind == "safetensors" else torch.save)(half, tmp_path / name)
        weight_map |= dict.fromkeys(half, name)
    index = tmp_path / f"{stem}.{kind}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    check(index, source)
    check(tmp_path, source)


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
@pytest.mark.parametrize(
    ("names", "said"),
    [
        ({"0.weight": "one", "0.bias": "one", "nope": "one"}, "nope\n  expected  in one\n  found     not there"),
        ({"0.weight": "one"}, "0.bias\n  expected  a name of the index\n  found     one"),
        ({"0.weight": "one", "0.bias": "two"}, "0.bias\n  expected  a name of the index\n  found     one"),
    ],
)
def test_an_index_and_shards_that_disagree_are_refused_by_name(
    kind: str, names: dict[str, str], said: str, tmp_path: Path
) -> None:
    state = nn.Sequential(nn.Linear(2, 3)).state_dict()
    for path, part in (("one", state), ("two", {"0.bias": torch.ones(3)})):
        save_file(part, tmp_path / path) if kind == "safetensors" else torch.save(part, tmp_path / path)
    index = tmp_path / f"model.{kind}.index.json"
    index.write_text(json.dumps({"weight_map": names}))
    model = nn.Sequential(nn.Linear(2, 3))
    before = snapshot(model)
    with pytest.raises(SourceError, match="and its shards disagree on") as caught:
        transfer(index, model)
    assert said in str(caught.value)
    assert equal(snapshot(model), before)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_tensor_beside_others_is_left_where_it_is(tmp_path: Path) -> None:
    model, scale = nn.Linear(2, 3), nn.Parameter(torch.ones(()))
    model.register_parameter("scale", scale)
    torch.save(
        {**nn.Linear(2, 3).state_dict(), "scale": torch.nested.nested_tensor([torch.zeros(2)])}, tmp_path / "w.pth"
    )
    report = transfer(tmp_path / "w.pth", model)
    assert next(entry for entry in report.sources if entry.name == "scale").bucket == "mismatched"
    assert scale.item() == 1


def test_a_tensor_larger_than_the_buffer_is_read_in_pieces(tmp_path: Path) -> None:
    source, model = nn.Linear(1100, 1000), nn.Linear(1100, 1000)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    assert transfer(tmp_path / "w.safetensors", model).compared == 2
    assert equal(snapshot(model), snapshot(source))
    half = nn.Linear(1100, 1000).bfloat16()
    transfer(tmp_path / "w.safetensors", half)
    assert torch.equal(half.weight, source.weight.bfloat16())


CONTAINERS = ["state_dict", "model", "model_state_dict", "module", "net", "teacher", "ema", "state_dict_ema"]


@pytest.mark.parametrize("container", CONTAINERS)
def test_a_container_is_found_by_what_it_holds(container: str, source: nn.Module, tmp_path: Path) -> None:
    checkpoint = {"epoch": 3, "optimizer": {"state": {0: {"exp_avg": torch.ones(4)}}}, container: source.state_dict()}
    torch.save(checkpoint, tmp_path / "w.pth")
    model = net()
    report = transfer(tmp_path / "w.pth", model)
    assert (report.container, report.share) == (container, 1)
    assert f"w.pth ({container}, 9 tensors) -> Sequential (9)" in str(report)


def test_the_live_weights_are_taken_before_the_averaged_and_it_says_so() -> None:
    report = transfer({"state_dict_ema": net().state_dict(), "state_dict": net().state_dict()}, net())
    assert report.container == "state_dict"
    assert report.remarks == ("not taken: state_dict_ema (9 tensors)",)
    assert transfer({"ema": net().state_dict(), "model": net().state_dict()}, net(), scope="ema").container == "ema"


def test_the_container_that_looks_like_the_model_is_taken() -> None:
    gan = {"discriminator": nn.Conv2d(9, 9, 9).state_dict(), "generator": net().state_dict()}
    assert transfer(gan, net()).container == "generator"


def test_a_scope_is_also_the_front_of_names(source: nn.Module) -> None:
    both = {**prefixed(source.state_dict(), "a."), **prefixed(net().state_dict(), "b.")}
    model = net()
    report = transfer(both, model, scope="a")
    assert equal(snapshot(model), snapshot(source))
    assert report.source_counts == {"loaded": 9, "excluded": 9}


def test_no_code_in_a_file_is_run(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple:
            return os.mkdir, (str(tmp_path / "owned"),)

    torch.save({"state_dict": net().state_dict(), "evil": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(Exception, match="the file needs code to load"):
        transfer(tmp_path / "evil.pth", net())
    assert not (tmp_path / "owned").exists()


def test_classes_that_the_caller_trusts_are_read(source: nn.Module, tmp_path: Path) -> None:
    from argparse import Namespace

    torch.save({"state_dict": source.state_dict(), "args": Namespace(lr=1)}, tmp_path / "w.pth")
    with torch.serialization.safe_globals([Namespace]):
        check(tmp_path / "w.pth", source)


def test_a_torchscript_program_is_refused_before_it_is_opened(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "p.pt")
    with pytest.raises(Exception, match="found     a TorchScript program"):
        transfer(tmp_path / "p.pt", net())


def altered(state: dict[str, torch.Tensor]) -> Iterator[bytes]:
    """Files of a state that were cut, or have other bytes where their readers do not look for any."""
    legacy, made = io.BytesIO(), io.BytesIO()
    torch.save(state, legacy, _use_new_zipfile_serialization=False)
    torch.save(state, made)
    cut, whole = legacy.getvalue(), made.getvalue()
    yield from (cut[:length] for length in range(len(cut) - 60, len(cut)))
    names, disks, text = whole.find(b"torch._utils"), whole.rfind(b"PK\6\7") + 16, whole.find(b"X\6\0\0\0weight") + 5
    renamed = whole[:names] + b"X" + whole[names + 1 :]
    yield from (renamed[:at] + b"\x7f" + renamed[at + 1 :] for at in range(names + 3, names + 100))
    yield whole[:disks] + b"\xff\xff\xff\xff" + whole[disks + 4 :]
    yield from (some[:text] + b"\x80" + some[text + 1 :] for some in (whole, renamed))


def test_a_damaged_file_of_either_layout_is_an_error_of_ours(tmp_path: Path) -> None:
    for content in altered(nn.Linear(2, 3).state_dict()):
        (tmp_path / "w.pth").write_bytes(content)
        with contextlib.suppress(AdaptError):
            transfer(tmp_path / "w.pth", nn.Linear(2, 3))


@pytest.mark.skipif(not os.path.exists("/proc/self/mem"), reason="a file that cannot be read")
def test_a_file_that_cannot_be_read_is_named() -> None:
    with pytest.raises(SourceError, match=r"/proc/self/mem cannot be read(.|\n)*OSError"):
        transfer("/proc/self/mem", nn.Linear(2, 3))
