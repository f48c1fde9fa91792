"""`python -m autoadapt`."""

from autoadapt.cli import app

app()
