"""Command line: the verbs on models given by name. `autoadapt --help` lists them."""

from autoadapt.cli.apps import app

__all__ = ["app"]
