"""Building: a plan made into a torch.fx module."""

from autoadapt.adapting.building.facts import Said
from autoadapt.adapting.building.modules import AdaptedModule, build, own_attributes, param_groups, with_plan

__all__ = ["AdaptedModule", "Said", "build", "own_attributes", "param_groups", "with_plan"]
