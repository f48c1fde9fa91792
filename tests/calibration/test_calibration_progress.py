"""A bar stands on a terminal while images come in, and nowhere else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CALL = """
import sys
sys.path.insert(0, {folder!r})
from calibration_models import Model, Pyramid, model_with, pictures
from autoadapt.calibration import calibrate
old = Model((4, 6)).eval()
model = model_with(old, Pyramid((3, 5), seed=1))
data = pictures(16).split(4)
if {fails}:
    data = [data[0], data[1] * float("nan")]
print(calibrate(model, at="backbone", like=old, data=data, images=16, refine=4).verdict)
"""


def run(stderr, fails=False):
    """Standard output of a process that calibrates."""
    call = CALL.format(folder=str(Path(__file__).parents[1]), fails=fails)
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
    return subprocess.run(
        [sys.executable, "-c", call], stdout=subprocess.PIPE, stderr=stderr, text=True, check=not fails, env=environment
    )


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="pseudo-terminals are of Unix")
@pytest.mark.parametrize("fails", [False, True])
def test_on_a_terminal_a_bar_counts_images_and_leaves_nothing(fails):
    reader, writer = os.openpty()
    done = run(writer, fails)
    os.close(writer)
    shown = b""
    while chunk := read(reader):
        shown += chunk
    os.close(reader)
    text = shown.decode()
    assert "calibrate" in text
    assert "/16" in text
    assert done.stdout == ("" if fails else "written\n")
    if fails:
        assert "features of `0` are not finite" in text.rpartition("\x1b[2K")[2], "the bar is gone before the error"
    else:
        assert "fitting" in text
        assert text.rpartition("\x1b[2K")[2].strip() == "", "the bar wipes itself out"


def read(reader):
    """The next bytes; none once the other end is closed."""
    try:
        return os.read(reader, 65536)
    except OSError:
        return b""


@pytest.mark.slow
def test_where_standard_error_is_no_terminal_nothing_is_said():
    done = run(subprocess.PIPE)
    assert (done.stdout, done.stderr) == ("written\n", "")
