"""Regions: consecutive modules of a model that are captured and replaced together, found by tracing a run."""

from autoadapt.contracts.capturing.regions.boundaries import find_region
from autoadapt.contracts.capturing.regions.forms import Form, form_of, form_text, is_like, loosened
from autoadapt.contracts.capturing.regions.hooks import HOOKS, callers_hooks, leave_before
from autoadapt.contracts.capturing.regions.members import RegionPath, region_text
from autoadapt.contracts.capturing.regions.modules import RegionModule
from autoadapt.contracts.capturing.regions.numbers import with_numbers
from autoadapt.contracts.capturing.regions.passages import Region, Returned
from autoadapt.contracts.capturing.regions.traces import Call, Run, Trace, trace, traces_of

__all__ = [
    "HOOKS",
    "Call",
    "Form",
    "Region",
    "RegionModule",
    "RegionPath",
    "Returned",
    "Run",
    "Trace",
    "callers_hooks",
    "find_region",
    "form_of",
    "form_text",
    "is_like",
    "leave_before",
    "loosened",
    "region_text",
    "trace",
    "traces_of",
    "with_numbers",
]
