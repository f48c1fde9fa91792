"""The plugin of pytest: the fixture `signature_lock` and the option `--update-signatures`.

Found by pytest itself (entry point `pytest11`); `-p no:autoadapt` switches it off. It imports nothing but pytest until
the fixture is used, so that suites without it pay nothing.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import nn

UPDATING = {"signatures": False}
"""Whether locked signatures are to be written anew."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--update-signatures`."""
    group = parser.getgroup("autoadapt")
    group.addoption("--update-signatures", action="store_true", help="write the locked signatures of models anew")


def pytest_configure(config: pytest.Config) -> None:
    """Note whether locked signatures are to be written anew."""
    UPDATING["signatures"] = bool(config.getoption("--update-signatures", default=False))


def pytest_unconfigure() -> None:
    """Forget it again."""
    UPDATING["signatures"] = False


@pytest.fixture
def signature_lock(request: pytest.FixtureRequest) -> Callable[..., None]:
    """`signature_lock(model, inputs)` locks to `signatures/<file>.<test>.json`; a third argument names it."""
    from autoadapt.testing import assert_signature_locked

    folder, locked_names = request.path.parent / "signatures", set[str]()

    def locked(model: nn.Module, inputs: object = None, name: object = "") -> None:
        __tracebackhide__ = True
        if isinstance(inputs, str):  # in the order of `assert_signature_locked`
            inputs, name = (None if name == "" else name), inputs
        chosen = str(name) or _name_of(request)
        if chosen in locked_names:
            raise AssertionError(
                f"one test locks two signatures under the name {chosen!r}: signature_lock(model, inputs, name)"
            )
        locked_names.add(chosen)
        assert_signature_locked(model, folder / f"{_in_a_path(chosen)}.json", inputs)

    return locked


def _name_of(request: pytest.FixtureRequest) -> str:
    """File, class and name of a test, so that no two tests of a folder have one file."""
    return ".".join([request.path.stem, *request.node.nodeid.split("::")[1:]])


def _in_a_path(name: str) -> str:
    """A name with what no file system takes, such as colons of `test[timm:resnet18]`, as %3A."""
    return re.sub(r"[^\w.,=+\[\] -]", lambda found: f"%{ord(found[0]):02X}", name)
