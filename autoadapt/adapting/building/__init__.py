"""Building: from a plan to a torch.fx module.

`graphs` writes a plan as a torch.fx graph, `modules` puts it around a view of the backbone and the generated layers,
`cutting` and `stems` change the view, and `printing` gives the code of a graph as a person would write it.
"""

from autoadapt.adapting.building.asked_builds import build
from autoadapt.adapting.building.edits import edits, other_parts
from autoadapt.adapting.building.kept_attributes import Said
from autoadapt.adapting.building.modules import AdaptedModule, built, own_attributes, with_plan
from autoadapt.adapting.building.parameter_groups import (
    calibrated_adapters,
    mark_calibrated,
    mark_rebuilt,
    param_groups,
)

__all__ = [
    "AdaptedModule",
    "Said",
    "build",
    "built",
    "calibrated_adapters",
    "edits",
    "mark_calibrated",
    "mark_rebuilt",
    "other_parts",
    "own_attributes",
    "param_groups",
    "with_plan",
]
