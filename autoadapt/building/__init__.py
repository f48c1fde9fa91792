"""Building: a plan made into a torch.fx module."""

from autoadapt.building.modules import AdaptedModule, build, param_groups

__all__ = ["AdaptedModule", "build", "param_groups"]
