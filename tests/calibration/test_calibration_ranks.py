"""Calibration on several processes: uneven shards, ranks that die, another number of ranks, and sharded models."""

import shlex
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import calibration_ranks
import pytest
import torch
from calibration_ranks import FIRST, IMAGES, fitted, images, models
from markdown_pages import ROOT
from rank_children import ended, start

from autoadapt.calibration import calibrate
from autoadapt.calibration.run_states import written_by

pytestmark = pytest.mark.slow
SCRIPT = Path(calibration_ranks.__file__)
IN_ONE_GROUP = (
    "sampled", "uneven", "without_any", "same_for_all", "faulty", "stopped",
    "other_new", "other_old", "other_seed", "other_solver", "other_head", "other_adapters",
    "sharded_pair", "sharded", "sharded_uneven", "sharded_faulty",
)  # fmt: skip


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("ranks")
    assert ended(start(SCRIPT, IN_ONE_GROUP, 2, folder)) == [0, 0]
    return folder


def of_each(folder, name, count=2):
    return [torch.load(folder / f"{name}{rank}.pt", weights_only=True) for rank in range(count)]


def assert_alike(found, expected, within):
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=within, atol=within)


@pytest.fixture(scope="module")
def alone():
    """What one process makes of all images."""
    return fitted(images().split(4))


def test_an_image_that_a_sampler_repeats_counts_once(two_ranks, alone):
    for told, adapters in of_each(two_ranks, "sampled"):
        assert f'"images":{IMAGES},' in told
        assert_alike(adapters, alone[1], 1e-8)


def test_ranks_with_more_and_fewer_images_write_the_same(two_ranks):
    (told, left), (others, right) = of_each(two_ranks, "uneven")
    assert f'"images":{IMAGES},' in told
    assert f'"images":{IMAGES},' in others
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_a_rank_without_any_image_writes_what_the_other_does(two_ranks):
    (told, left), (_, right) = of_each(two_ranks, "without_any")
    assert f'"images":{IMAGES},' in told
    assert "of no use" not in told
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_ranks_that_all_see_the_same_images_are_refused(two_ranks):
    for said in of_each(two_ranks, "same_for_all"):
        assert said.startswith("every process passes over the same images")
        assert "try       DataLoader(dataset, sampler=DistributedSampler(dataset), batch_size=16)" in said


@pytest.mark.parametrize("name", ["other_new", "other_old", "other_seed", "other_solver", "other_head"])
def test_ranks_with_other_weights_or_options_are_refused_on_all(two_ranks, name):
    for said in of_each(two_ranks, name):
        assert said.startswith("the processes do not calibrate the same models")
        assert "others on process 1 than on process 0" in said


def test_ranks_whose_fresh_adapters_differ_write_the_same(two_ranks, alone):
    for _, adapters in of_each(two_ranks, "other_adapters"):
        assert_alike(adapters, alone[1], 1e-8)


def test_where_one_rank_fails_every_rank_does(two_ranks):
    first, second = of_each(two_ranks, "faulty")
    assert first.startswith("another process failed")
    assert second.startswith("features of `0` are not finite")


def test_sharded_models_give_the_adapters_of_whole_ones(two_ranks, alone):
    expected = models()[0]
    expected.backbone.adapters.load_state_dict(alone[1])
    for told, adapters, answer in of_each(two_ranks, "sharded"):
        assert f'"images":{IMAGES},' in told
        assert_alike(adapters, alone[1], 1e-5)
        torch.testing.assert_close(answer, expected.eval()(images(2)), rtol=1e-5, atol=1e-5)


def test_sharded_backbones_by_themselves_give_the_adapters_of_whole_ones(two_ranks):
    model, old = models()
    calibrate(
        model.backbone, like=old.backbone, head=old.head, data=images(24).split(4), tokens_per_image=20, augment=0
    )
    for _, adapters in of_each(two_ranks, "sharded_pair"):
        assert_alike(adapters, model.backbone.adapters.state_dict(), 1e-5)


def test_a_rank_without_images_runs_sharded_models_for_the_others_sake(two_ranks):
    (told, left), (_, right) = of_each(two_ranks, "sharded_uneven")
    assert f'"images":{IMAGES},' in told
    assert "of no use" not in told
    assert all(torch.equal(left[name], right[name]) for name in left)


def test_where_one_rank_of_a_sharded_model_fails_nothing_is_written_and_it_still_runs(two_ranks):
    first, second = of_each(two_ranks, "sharded_faulty")
    assert first == "another process failed"
    assert second == "features of `0` are not finite"


def test_more_ranks_and_then_one_go_on_where_two_stopped(two_ranks, alone):
    assert all(f'"images":{FIRST},' in told for told, _ in of_each(two_ranks, "stopped"))
    ended(start(SCRIPT, ["in_another_order"], 3, two_ranks))
    for said in of_each(two_ranks, "in_another_order", 3):
        assert "the images do not come as in the run before" in said or "another process failed" in said
    ended(start(SCRIPT, ["going_on"], 3, two_ranks))
    for told, adapters, _ in of_each(two_ranks, "going_on", 3):
        assert f'"images":{IMAGES},' in told
        assert_alike(adapters, alone[1], 1e-8)
    for _ in range(2):  # files of before lie beside the new one, and are not read again
        found, adapters = fitted(images().split(4), state=two_ranks / "fit.safetensors")
        assert found.images == IMAGES
        assert_alike(adapters, alone[1], 1e-8)
    generations = [written_by(one) for one in sorted(two_ranks.glob("fit.*safetensors"))]
    assert generations == [(1, (0, 3)), (1, (1, 3)), (1, (2, 3)), (2, (0, 1))]


@pytest.mark.parametrize(("how", "said"), [("SIGKILL", ""), ("SIGSTOP", "Timed out")])
def test_where_a_rank_dies_or_hangs_the_other_ends_and_one_process_goes_on(how, said, tmp_path, alone, monkeypatch):
    monkeypatch.setenv("HOW_A_RANK_ENDS", how)
    monkeypatch.setenv("SECONDS_TO_WAIT", "15")
    children = start(SCRIPT, ["dying"], 2, tmp_path)
    try:
        assert children[0].wait(timeout=120) == 0, children[0].stderr.read().decode()
        ended_after = time.time() - (tmp_path / "read0").stat().st_mtime
    finally:
        children[1].send_signal(signal.SIGKILL)
        ended(children)
    told = torch.load(tmp_path / "dying0.pt", weights_only=True)
    assert told.startswith("another process is gone")
    assert "expected  an answer of all 2 processes" in told
    assert "try       start all of them again; with state= what was counted stays counted" in told
    assert said in told
    assert ended_after < 40
    assert written_by(tmp_path / "fit.0.safetensors") == (0, (0, 2))
    found, adapters = fitted(images().split(4), state=tmp_path / "fit.safetensors")
    assert found.images == IMAGES
    assert_alike(adapters, alone[1], 1e-8)


def test_the_script_of_the_manual_runs_on_two_processes(tmp_path):
    page = (ROOT / "docs/more-than-one-machine.md").read_text("utf-8").partition("`fit.py`:\n")[2]
    script, _, rest = page.partition("```sh\n")
    (tmp_path / "fit.py").write_text(textwrap.dedent(script), "utf-8")
    command, _, shown = rest.partition("\n```\n\n```text\n")
    module = {"torchrun": [sys.executable, "-m", "torch.distributed.run"]}
    name, *options = shlex.split(command)
    found = subprocess.run(
        [*module[name], *options], capture_output=True, text=True, cwd=tmp_path, check=False, timeout=240
    )
    assert found.returncode == 0, found.stderr
    assert found.stdout == shown.partition("```")[0]
    assert sorted(one.name for one in tmp_path.glob("fit.*tensors")) == ["fit.0.safetensors", "fit.1.safetensors"]
