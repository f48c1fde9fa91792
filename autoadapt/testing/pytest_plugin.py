"""The plugin of pytest: the fixture `signature_lock` and the option `--update-signatures`.

Found by pytest itself (entry point `pytest11`); `-p no:autoadapt` switches it off. It imports nothing but pytest until
the fixture is used, so that suites without it pay nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from torch import nn

__all__ = ["UPDATING", "signature_lock"]

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
    """`signature_lock(model, inputs)` locks to `signatures/<test>.json` beside the test; a third argument names it."""
    from autoadapt.testing import assert_signature_locked

    folder = request.path.parent / "signatures"

    def locked(model: nn.Module, inputs: object = None, name: str = "") -> None:
        __tracebackhide__ = True
        assert_signature_locked(model, folder / f"{name or request.node.name}.json", inputs)

    return locked
