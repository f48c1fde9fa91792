"""What all tests need."""

import collections
import gc
import multiprocessing.util
import os
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

# Whoever starts the tests in the background may have SIGINT ignored, and so would every process started from here.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Of tests that run side by side each has a core, and so have the processes that it starts; read when torch is imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.update(OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")

# What is compiled is kept, also by the processes that tests start: each would compile the package anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
sys.dont_write_bytecode = False


def pytest_configure(config: pytest.Config) -> None:
    """Explain assertions of tests only: as the package brings a plugin, pytest would rewrite its 500 files as well."""
    getattr(config.pluginmanager.rewrite_hook, "_must_rewrite", set()).discard("autoadapt")


def pytest_collection_finish() -> None:
    """Search for garbage seldom, and never in what is imported and collected, a million objects."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)


def pytest_addoption(parser: pytest.Parser) -> None:
    """`pytest --fuzz 100000 -m slow tests/test_fuzzed_files.py` tries as many spoilt files."""
    parser.addoption("--fuzz", type=int, default=2_200, help="how many spoilt files are read, over all kinds")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Make slow ones of the cases that `make test` leaves out, where a test is marked `sampled(n)` or `sampled`."""
    ran: dict[str, list[set[tuple[str, int]]]] = collections.defaultdict(list)
    for item in items:
        left_out = any(map(item.get_closest_marker, ("slow", "guest")))
        if (mark := item.get_closest_marker("sampled")) is not None and not left_out:
            earlier = ran[item.nodeid.partition("[")[0]]
            values = {(name, id(value)) for name, value in item.callspec.params.items()}  # type: ignore[attr-defined]
            if len(earlier) < mark.args[0] if mark.args else not values <= set().union(*earlier):
                earlier.append(values)
            else:
                item.add_marker(pytest.mark.slow)


@pytest.fixture(autouse=True, scope="session")
def nothing_left_behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Remove at the end what was written beside `tmp_path`, as compiled code and logs of ranks, also by processes."""
    tmp_path_factory.getbasetemp()  # stays where it is
    multiprocessing.util.get_temp_dir()  # removes its own, at exit
    kept = tempfile.TemporaryDirectory(prefix="aa-", ignore_cleanup_errors=True)
    with kept as folder, pytest.MonkeyPatch.context() as patch:
        patch.setenv("TMPDIR", folder)
        patch.setattr(tempfile, "tempdir", folder)
        yield


@pytest.fixture(autouse=True)
def compiles_anew() -> Iterator[None]:
    """What one test compiled counts as no recompilation of another, of which torch allows eight."""
    yield
    if (dynamo := sys.modules.get("torch._dynamo")) is not None:
        dynamo.reset()


@pytest.fixture(autouse=True)
def no_made_images(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Calibration makes no images where they are not what is tested; pages show what users see."""
    if request.path.name != "test_docs.py":
        monkeypatch.setattr("autoadapt.calibration.made_images.MADE", 0)


@pytest.fixture
def folder(made: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder that `made` of the test's file has filled, as the working folder."""
    monkeypatch.chdir(made)
    monkeypatch.setenv("XDG_CACHE_HOME", str(made / "cache"))
    return made
