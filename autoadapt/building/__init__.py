"""Building: a plan made into a torch.fx module."""

from autoadapt.building.facts import Said
from autoadapt.building.modules import AdaptedModule, build, own_attributes, param_groups

__all__ = ["AdaptedModule", "Said", "build", "own_attributes", "param_groups"]
