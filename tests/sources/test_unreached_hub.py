"""Where the hub cannot be reached, every verb that loads weights by name says so at once, with what it can do."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from command_runs import model_folder, run  # noqa: F401 (a fixture)

import autoadapt as aa
from autoadapt.errors import SourceError
from autoadapt.sources import load
from autoadapt.sources.reach import offline_if_unreached

pytest.importorskip("timm", reason="timm is not installed; it is in the zoo extra")
constants = pytest.importorskip("huggingface_hub.constants")
FOUND = "no network: 127.0.0.1 cannot be reached (Connection refused)"


@pytest.fixture(autouse=True)
def _no_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub at a port where nobody listens, and nothing cached."""
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))


def _of_calibrate() -> None:
    net = aa.adapt("timm:test_resnet", like="timm:test_resnet", inputs=torch.zeros(1, 3, 64, 64))
    aa.calibrate(net, like="timm:test_resnet.r160_in1k", data=[torch.zeros(2, 3, 64, 64)])


@pytest.mark.parametrize(
    ("verb", "expected"),
    [
        (
            lambda: load("timm:test_resnet", pretrained=True),
            "try       pretrained=False, then aa.transfer(file, model)",
        ),
        (lambda: load("hf:microsoft/resnet-50", pretrained=True), "the weights of hf:microsoft/resnet-50 cannot"),
        (lambda: load("hf:nobody/nothing-resnet"), "the config of hf:nobody/nothing-resnet cannot be loaded"),
        (
            _of_calibrate,
            'try       like=model  # of aa.load("timm:test_resnet.r160_in1k"), then aa.transfer(file, model)',
        ),
    ],
)
def test_weights_by_name_fail_at_once_without_the_retries_of_the_hub(
    verb: Callable[[], object], expected: str, capfd: pytest.CaptureFixture[str]
) -> None:
    started = time.monotonic()
    with pytest.raises(SourceError) as caught:
        verb()
    assert expected in str(caught.value)
    assert f"found     {FOUND}" in str(caught.value)
    assert time.monotonic() - started < 8
    assert "Retry" not in capfd.readouterr().err
    assert not constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    ("command", "front"),
    [
        (("calibrate", "timm:test_vit", "--like", "timm:test_resnet", "--images", "x.npy"), ""),
        (("adapt", "timm:test_vit", "--like", "timm:test_resnet", "--pretrained"), "autoadapt calibrate ... "),
    ],
)
def test_commands_name_their_own_options_for_files_of_weights(
    command: tuple[str, ...], front: str, folder: Path
) -> None:
    (folder / "x.npy").touch()
    result = run(*command)
    assert result.exit_code == 2
    assert "cannot be reached (Connection refused)" in " ".join(result.stderr.split())
    asked = f"  try  --random\n       {front}--new-weights FILE --like-weights FILE  # with files that you have"
    assert asked in result.stderr


def test_a_hub_that_answers_a_folder_and_a_hub_that_is_off_are_not_cut_off(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import socket

    with offline_if_unreached(str(tmp_path)) as said:
        assert (said, constants.HF_HUB_OFFLINE) == ("", False)
    with socket.create_server(("127.0.0.1", 0)) as server:
        monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.getsockname()[1]}")
        with offline_if_unreached("timm/x") as said:
            assert (said, constants.HF_HUB_OFFLINE) == ("", False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with offline_if_unreached("timm/x") as said:
        assert (said, constants.HF_HUB_OFFLINE) == ("", True)
    assert constants.HF_HUB_OFFLINE


def test_the_proxy_is_asked_in_place_of_the_hub(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://hub.invalid")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    with offline_if_unreached("timm/x") as said:
        assert said == FOUND
