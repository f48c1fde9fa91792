"""Building: a plan made into a torch.fx module."""

from autoadapt.adapting.building.asked_builds import build
from autoadapt.adapting.building.facts import Said
from autoadapt.adapting.building.modules import AdaptedModule, built, is_edited, own_attributes, with_plan
from autoadapt.adapting.building.parameter_groups import mark_calibrated, mark_rebuilt, param_groups

__all__ = [
    "AdaptedModule",
    "Said",
    "build",
    "built",
    "is_edited",
    "mark_calibrated",
    "mark_rebuilt",
    "own_attributes",
    "param_groups",
    "with_plan",
]
