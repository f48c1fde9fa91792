"""A line on a terminal says what a swap is doing; it is gone at the end, and nowhere else is anything said."""

import os
import subprocess
import sys

import pytest

CALL = """
import torch
from torch import nn
from autoadapt.swapping import swap
model = nn.Sequential(nn.Conv2d(3, 8, 4, stride=4), nn.Conv2d(8, 2, 1))
try:
    swap(model, "{path}", nn.Conv2d(3, 5, 2, stride=2), inputs=torch.zeros(1, 3, 16, 16))
except Exception as error:
    print(type(error).__name__)
"""


def run(stderr, path="0"):
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "40"}
    call = [sys.executable, "-c", CALL.format(path=path)]
    return subprocess.run(call, stdout=subprocess.PIPE, stderr=stderr, text=True, check=True, env=environment).stdout


def read(reader):
    """The next bytes; none once the other end is closed."""
    try:
        return os.read(reader, 65536)
    except OSError:
        return b""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are of Unix")
@pytest.mark.parametrize(("path", "said"), [("0", ""), ("9", "SwapError\n")])
def test_on_a_terminal_a_swap_says_what_it_does_and_wipes_it_out(path, said):
    reader, writer = os.openpty()
    assert run(writer, path) == said
    os.close(writer)
    shown = b""
    while chunk := read(reader):
        shown += chunk
    os.close(reader)
    lines = shown.decode().split("\r\x1b[K")
    assert lines[1].startswith("swap: running Sequential to see")
    assert all(len(line) < 40 for line in lines)
    assert lines[-1] == "", "the line wipes itself out"
    assert ("swap: capturing 0 and what takes its pl" in lines) is (path == "0")


@pytest.mark.slow
def test_where_standard_error_is_no_terminal_a_swap_says_nothing():
    made = subprocess.run([sys.executable, "-c", CALL.format(path="0")], capture_output=True, text=True, check=True)
    assert (made.stdout, made.stderr) == ("", "")
