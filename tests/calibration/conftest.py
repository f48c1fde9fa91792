"""What the tests of calibration need."""

import pytest

from autoadapt.calibration import making


@pytest.fixture(autouse=True)
def few_made_images(monkeypatch):
    """As many made images as show that they are made; their number is a matter of quality, and of minutes."""
    monkeypatch.setattr(making, "MADE", 8)
