"""Capture: run a module at a few sizes, write down its signature."""

from autoadapt.capturing.arguments import Arguments, bind, told_inputs
from autoadapt.capturing.attempts import capture_source
from autoadapt.capturing.captures import capture

__all__ = ["Arguments", "bind", "capture", "capture_source", "told_inputs"]
