"""Files are written whole or not at all; what a killed process leaves is removed at the next run."""

import contextlib
import os
import stat
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

import autoadapt as aa
from autoadapt.errors import SavingError
from autoadapt.files import writing as files
from autoadapt.files.writing import check_place, write_all, write_file


def listed(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_file_is_written_into_a_folder_that_is_made(tmp_path):
    write_file(tmp_path / "a" / "b.txt", "text")
    assert listed(tmp_path / "a") == {"b.txt": b"text"}


@pytest.mark.parametrize("raised", [OSError(28, "No space left on device"), KeyboardInterrupt(), SystemExit()])
def test_whatever_comes_between_the_old_file_is_whole_and_nothing_stays_beside_it(tmp_path, raised):
    write_file(tmp_path / "a.txt", "old")

    def fail(path):
        path.write_text("half")
        raise raised

    with pytest.raises((SavingError, KeyboardInterrupt, SystemExit)):
        write_file(tmp_path / "a.txt", fail)
    assert listed(tmp_path) == {"a.txt": b"old"}


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_permissions_are_as_the_umask_says_whatever_the_writer_makes(tmp_path, mask):
    def private(path):
        path.unlink()
        with open(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600), "w") as file:
            file.write("x")

    before = os.umask(mask)
    try:
        write_all(tmp_path, {"a": private, "b": "x"})
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {0o666 & ~mask}


def test_a_file_keeps_the_permissions_that_somebody_gave_it(tmp_path):
    (tmp_path / "a").write_text("x")
    (tmp_path / "a").chmod(0o640)
    write_file(tmp_path / "a", "y")
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640


def test_a_link_stays_a_link_and_a_device_is_written_to(tmp_path):
    (tmp_path / "real").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_file(tmp_path / "link", "y")
    write_file("/dev/null", "y")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "y"
    assert not Path("/dev/null").is_file()


def test_a_pipe_is_written_to(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    got = []
    reader = threading.Thread(target=lambda: got.append((tmp_path / "pipe").read_text()))
    reader.start()
    write_file(tmp_path / "pipe", "y")
    reader.join(5)
    assert got == ["y"]


@pytest.mark.parametrize("name", ["a" * 300, "nul\0l"])
def test_a_name_that_no_file_can_have_is_an_error_of_ours(tmp_path, name):
    with pytest.raises(SavingError, match="could not be written"):
        write_file(tmp_path / name, "x")
    with pytest.raises(SavingError, match="nothing was done"):
        check_place(tmp_path / name, "path")


def test_a_place_is_checked_before_any_work_and_nothing_is_left_of_it(tmp_path):
    check_place(tmp_path / "new" / "a.txt", "path")
    assert not (tmp_path / "new").exists()
    (tmp_path / "new").mkdir()
    with pytest.raises(SavingError) as caught:
        check_place(tmp_path / "new", "path")
    assert str(caught.value).splitlines()[:3] == [
        "path cannot be written, and nothing was done",
        "  expected  a file that can be written",
        f"  found     {tmp_path}/new: a folder",
    ]


def test_what_a_dead_process_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    host = files._host()
    (tmp_path / f".a.txt.{host}-{dead.pid}-12345678.new").write_text("half")
    (tmp_path / f".a.txt.{host}-{dead.pid}-12345678.export").mkdir()
    (tmp_path / f".a.txt.{host}-{os.getppid()}-12345678.new").write_text("living")
    (tmp_path / ".a.txt.abcdef-1-12345678.new").write_text("of another machine")
    (tmp_path / ".a.txt.swp").write_text("an editor's")
    write_file(tmp_path / "a.txt", "x")
    kept = {name.rpartition(".")[0].partition("-")[0] for name in listed(tmp_path)}
    assert kept == {"a", f".a.txt.{host}", ".a.txt.abcdef", ".a.txt"}


# Full disk: a limit on the size of files, since no disk can be mounted here

FULL = """
import json, resource, sys
from pathlib import Path
import torch
from torch import nn
import autoadapt as aa
old, new = nn.Conv2d(3, 40, 2, stride=2), nn.Conv2d(3, 30, 2, stride=2)
net = aa.adapt(new, like=old, inputs=torch.zeros(1, 3, 8, 8))
whole = aa.swap(nn.Sequential(nn.Identity(), old), "1", new, inputs=torch.zeros(1, 3, 8, 8))
folder = Path(sys.argv[1])
def images():
    return [torch.randn(8, 3, 8, 8) for _ in range(3)]
writers = {
    "save": lambda: aa.save(net, folder / "saved", check=False),
    "whole": lambda: aa.save(whole, folder / "model", check=False),
    "signature": lambda: aa.capture(new, torch.zeros(1, 3, 8, 8)).save(folder / "one.json"),
    "html": lambda: aa.write_html(folder / "one.html", net.plan),
    "source": lambda: aa.to_source(net, folder / "one.py"),
    "pt2": lambda: aa.export(net, folder / "one.pt2"),
    "pt": lambda: aa.export(net, folder / "one.pt"),
    "onnx": lambda: aa.export(net, folder / "one.onnx"),
    "state": lambda: aa.calibrate(net, like=old, data=images(), state=folder / "one.safetensors"),
    "rank": lambda: aa.rank({"one": new}, old, inputs=torch.zeros(1, 3, 8, 8), state=folder / "one.jsonl"),
}
writer = writers[sys.argv[2]]
if sys.argv[3] != "0":
    resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
try:
    writer()
except aa.AdaptError as error:
    print(type(error).__name__, error.summary)
else:
    print("written")
"""

KINDS = ["save", "whole", "signature", "html", "source", "pt2", "pt", "onnx", "state", "rank"]


def run_writer(folder, kind, limit):
    command = [sys.executable, "-W", "ignore", "-c", FULL, str(folder), kind, str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def all_files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow  # two processes of torch for each kind
@pytest.mark.parametrize("kind", KINDS)
def test_on_a_full_disk_each_writer_says_so_and_the_old_file_is_whole(tmp_path, kind):
    assert run_writer(tmp_path, kind, 0) == "written"
    before = all_files(tmp_path)
    if kind == "rank":  # the journal knows the candidate already; it is asked to add to a file that is at its end
        lines = before["one.jsonl"].splitlines(keepends=True)
        (tmp_path / "one.jsonl").write_bytes(lines[0])
        before = all_files(tmp_path)
    if kind == "state":
        for path in tmp_path.iterdir():
            path.unlink()
        before = {}
    said = run_writer(tmp_path, kind, len(before.get("one.jsonl", b"")) + 60)
    assert said.split()[0] in ("SavingError", "ExportError", "RankingError"), said
    assert all_files(tmp_path) == before


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 48 MB, where the system lets one be mounted."""
    made = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=48m", "tmpfs", tmp_path], check=False, capture_output=True
    )
    if made.returncode:
        pytest.skip("no disk can be mounted here")
    yield tmp_path
    subprocess.run(["umount", tmp_path], check=True)


@pytest.mark.slow  # two processes of torch for each kind
@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "rank"])  # a line fits into what its file has
def test_on_a_disk_that_is_really_full_each_writer_says_so_and_the_old_file_is_whole(small_disk, kind):
    folder = small_disk / "folder"
    folder.mkdir()
    assert run_writer(folder, kind, 0) == "written"
    if kind == "state":  # of other images
        (folder / "one.safetensors").unlink()
    before = all_files(folder)
    with (small_disk / "filler").open("wb", buffering=0) as filler, contextlib.suppress(OSError):
        while True:
            filler.write(bytes(4096))
    said = run_writer(folder, kind, 0)
    assert said.split()[0] in ("SavingError", "ExportError", "RankingError"), said
    assert all_files(folder) == before


# Killed

KILLS = (
    FULL.split("writer = writers")[0]
    + """
import os, random, threading, time, tqdm
tqdm.tqdm.set_lock(threading.RLock())  # its own (torch.export draws with it) is shared with the killed and stays locked
writer, chance = writers[sys.argv[2]], random.Random(0)
def check():
    if sys.argv[2] == "save":
        aa.restore(folder / "saved", new=nn.Conv2d(3, 30, 2, stride=2))
    elif sys.argv[2] == "whole":
        model = nn.Sequential(nn.Identity(), nn.Conv2d(3, 40, 2, stride=2))
        aa.restore(folder / "model", model=model, new=nn.Conv2d(3, 30, 2, stride=2))
    elif sys.argv[2] == "signature":
        aa.Signature.load(folder / "one.json")
    elif sys.argv[2] == "html":
        assert (folder / "one.html").read_text().rstrip().endswith("</html>")
    elif sys.argv[2] == "pt2":
        torch.export.load(folder / "one.pt2")
writer()
first = time.perf_counter()
writer()
names, took = {path.name for path in folder.rglob("*")}, time.perf_counter() - first
for _ in range(20):
    child = os.fork()
    if not child:
        while True:
            writer()
    time.sleep(chance.random() * 2 * took)
    os.kill(child, 9)
    assert os.waitpid(child, 0)[1] == 9, "it ended by itself"
    check()
writer()
check()
left = {path.name for path in folder.rglob("*") if not path.name.isdecimal()} - names
assert not left, left
assert len([*folder.glob("model/parts/*")]) == (sys.argv[2] == "whole")
print("whole")
"""
)


@pytest.mark.slow  # kills twenty processes for each kind
@pytest.mark.parametrize("kind", ["save", "whole", "html", "signature", "state", "rank", "pt2"])
def test_killed_at_any_moment_the_old_or_the_new_result_is_whole_and_nothing_else_stays(tmp_path, kind):
    command = [sys.executable, "-W", "ignore", "-c", KILLS, str(tmp_path), kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert done.stdout.split()[-1:] == ["whole"], done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("step", ["weights", "config"])
def test_a_folder_whose_saving_was_killed_between_its_renames_is_restored(tmp_path, step):
    """The kill is a rename after which the process ends without any clean-up."""
    code = FULL.split("writer = writers")[0] + textwrap.dedent(f"""
        import os, pathlib
        aa.save(net, folder, check=False)
        with torch.no_grad():
            next(net.parameters()).add_(1)
        real = pathlib.Path.replace
        def last(path, target):
            if target.name.startswith("."):  # not in its place yet
                return real(path, target)
            if "{step}" == "config" or "model" in str(target):
                real(path, target)
            if "model" in str(target) or "config" in str(target) and "{step}" == "config":
                os._exit(9) if "{step}" == "weights" or "config" in str(target) else None
            return target
        pathlib.Path.replace = last
        aa.save(net, folder, check=False)
    """)
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code, str(tmp_path)], check=False, timeout=120)
    assert done.returncode == 9
    assert len(listed(tmp_path)) > 2
    from torch import nn

    net = aa.restore(tmp_path, new=nn.Conv2d(3, 30, 2, stride=2))
    aa.save(net, tmp_path)
    assert set(listed(tmp_path)) == {"config.json", "model.safetensors"}


def test_what_a_killed_check_of_a_place_has_left_goes_with_the_next_and_older_versions_stay(tmp_path):
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    mine = files.temporary_name("a", "new")
    left = mine.replace(str(os.getpid()), str(ended.pid))
    kept = f"{left.removesuffix('.new')}.old"
    for name in (mine, left, kept):
        (tmp_path / name).touch()
    check_place(tmp_path / "a", "path")
    assert set(listed(tmp_path)) == {mine, kept}
