"""Capture: run a module at a few sizes, write down its signature."""

from autoadapt.contracts.capturing.arguments import Arguments, bind, told_example, told_inputs
from autoadapt.contracts.capturing.attempts import capture_source
from autoadapt.contracts.capturing.captures import capture
from autoadapt.contracts.capturing.masks import counts_by_name
from autoadapt.contracts.capturing.native_captures import Resolution, capture_native
from autoadapt.contracts.capturing.refusals import check_names, check_taps

__all__ = [
    "Arguments",
    "Resolution",
    "bind",
    "capture",
    "capture_native",
    "capture_source",
    "check_names",
    "check_taps",
    "counts_by_name",
    "told_example",
    "told_inputs",
]
