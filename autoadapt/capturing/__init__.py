"""Capture: run a module at a few sizes, write down its signature."""

from autoadapt.capturing.arguments import Arguments, bind, told_inputs
from autoadapt.capturing.attempts import capture_source
from autoadapt.capturing.captures import capture
from autoadapt.capturing.refusals import check_names, check_taps

__all__ = ["Arguments", "bind", "capture", "capture_source", "check_names", "check_taps", "told_inputs"]
