"""Planning: the plan, as data, by which the new module gets the old one's signature."""

from autoadapt.adapting.operations import Conversion
from autoadapt.adapting.planning.deriving import plan
from autoadapt.adapting.planning.hidden_tokens import counted_along, with_masks_told
from autoadapt.adapting.planning.input_channels import ToldChannels, source_as_built, with_channels_told
from autoadapt.adapting.planning.input_routes import CONVERSIONS, Fit
from autoadapt.adapting.planning.input_statistics import ToldStatistics, with_statistics
from autoadapt.adapting.planning.plans import CutCost, InputRoute, Kept, Plan, Route, Tap, one_sample
from autoadapt.adapting.planning.sources import source_axes
from autoadapt.adapting.planning.targets import named_outputs, with_inputs

__all__ = [
    "CONVERSIONS",
    "Conversion",
    "CutCost",
    "Fit",
    "InputRoute",
    "Kept",
    "Plan",
    "Route",
    "Tap",
    "ToldChannels",
    "ToldStatistics",
    "counted_along",
    "named_outputs",
    "one_sample",
    "plan",
    "source_as_built",
    "source_axes",
    "with_channels_told",
    "with_inputs",
    "with_masks_told",
    "with_statistics",
]
