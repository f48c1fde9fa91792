"""What the tests of calibration need."""

import pytest

from autoadapt.calibration import making


@pytest.fixture(autouse=True)
def no_made_images(monkeypatch):
    """None are made where they are not what is tested: they cost passes and decompositions."""
    monkeypatch.setattr(making, "MADE", 0)
