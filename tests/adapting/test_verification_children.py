"""Compiling and exporting happen in a process of its own: what goes wrong there costs one check."""

import contextlib
import os
import subprocess
import sys
import time

import pytest
import torch
from bad_exports import Chatty, Endless, Greedy, Killed, Leaves, Stuck, Unloaded
from command_runs import run
from torch import nn

import autoadapt as aa
from autoadapt.adapting.verification import children
from autoadapt.adapting.verification.children import UnstartedError, in_children

LAYER = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())


def image():
    return torch.randn(2, 3, 32, 32)


def asked(net):
    return {"net": net, "signature": aa.capture(LAYER, image()), "inputs": image(), "sizes": [{}]}


def rows(net, *names, seconds=60, memory=1 << 30, tell=lambda text: None):
    return list(in_children(asked(net), names or ["export"], seconds=seconds, memory=memory, tell=tell))


@pytest.mark.slow
def test_a_crash_while_a_module_is_exported_is_one_failed_check():
    report = aa.verify(Killed(LAYER), aa.capture(LAYER, image()), inputs=image(), sizes=[{}], thorough=True)
    assert [check.name for check in report.checks if check.outcome == "failed"] == ["export"]
    assert [(one.expected, one.found) for one in report["export"].faults] == [
        ("a process that goes on", "killed by SIGSEGV")
    ]
    assert (report["compile"].outcome, report["compile"].detail) == ("passed", "fullgraph, dynamic, backend eager")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Endless, Stuck])
def test_an_export_that_never_ends_is_stopped_and_the_next_check_runs(kind):
    began = time.monotonic()
    stopped, passed = rows(kind(LAYER), "export", "compile", seconds=10)
    assert (stopped.outcome, stopped.detail) == ("not run", "stopped after 10 s; verify(..., seconds=)")
    assert (passed.name, passed.outcome) == ("compile", "passed")
    assert time.monotonic() - began < 120


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems count no allocations")
def test_an_export_that_takes_all_memory_is_stopped_and_the_next_check_runs():
    stopped, passed = rows(Greedy(LAYER), "export", "compile")
    assert (stopped.outcome, stopped.detail) == ("not run", "stopped at 1 GiB of memory; verify(..., memory=)")
    assert (passed.name, passed.outcome) == ("compile", "passed")


@pytest.mark.slow
def test_an_export_that_ends_its_process_is_a_failed_check():
    (left,) = rows(Leaves(LAYER))
    assert [fault.found for fault in left.faults] == ["ended with exit code 3"]


@pytest.mark.slow
def test_what_a_module_writes_while_it_is_exported_is_taken_for_no_result():
    (row,) = rows(Chatty(LAYER))
    assert (row.name, row.outcome) == ("export", "passed"), row


@pytest.mark.slow
def test_a_child_is_told_of_and_ends_with_the_call(monkeypatch):
    told, ended = [], []
    real = children._end
    monkeypatch.setattr(children, "_TELL_EVERY", 0.5)
    monkeypatch.setattr(children, "_end", lambda process: (real(process), process.wait(), ended.append(process)))

    def tell(text):
        told.append(text)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rows(Endless(LAYER), tell=tell)
    assert told == ["export in a process of their own, 0 s"] or told == ["export in a process of their own, 1 s"]
    assert ended[-1].returncode == -9
    with contextlib.suppress(ProcessLookupError):
        os.killpg(ended[-1].pid, 0)
        pytest.fail("something of it is still there")


@pytest.mark.slow
def test_a_module_that_another_process_does_not_load_says_why():
    with pytest.raises(
        UnstartedError, match="another process does not load it: ValueError: only in the process that made it"
    ):
        rows(Unloaded(LAYER))


SCRIPT = """
import torch, autoadapt as aa
print("the script runs")
class Mine(torch.nn.Conv2d):
    pass
mine, x = Mine(3, 4, 3), torch.randn(2, 3, 32, 32)
print(aa.verify(mine, aa.capture(mine, x), inputs=x, thorough=True))
"""


@pytest.mark.slow
def test_a_script_with_a_class_of_its_own_is_not_run_again(tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    done = subprocess.run([sys.executable, "script.py"], cwd=tmp_path, stdout=subprocess.PIPE, text=True, check=True)
    assert done.stdout.count("the script runs") == 1
    assert "without a limit of memory: Mine is defined in the script that runs" in done.stdout
    assert "DOES NOT" not in done.stdout


FILE = """
import os, signal, torch
class Deadly(torch.nn.Conv2d):
    def forward(self, x):
        if torch.compiler.is_exporting():
            os.kill(os.getpid(), signal.SIGSEGV)
        return super().forward(x)
def deadly():
    return Deadly(3, 8, 4, stride=4)
"""


@pytest.mark.slow
def test_on_the_command_line_a_crash_of_a_model_named_by_its_file_is_a_failed_check(tmp_path, monkeypatch):
    (tmp_path / "crashing.py").write_text(FILE)
    monkeypatch.chdir(tmp_path)
    contract = ("--like", "f32[B, 8, ceil(H/4), ceil(W/4)]", "--input", "f32[1, 3, 64, 64]")
    done = run("verify", "crashing.py:deadly", *contract, "--allow", "crashing.py", "--thorough")
    assert done.exit_code == 1, done.output
    assert "killed by SIGSEGV" in done.stdout
    assert "this process" not in done.stdout
