"""Operations: everything that an adapter may do, one class for each, as listed in `closed_set`."""

from autoadapt.adapting.operations.axes import Flip, Rearrange
from autoadapt.adapting.operations.channels import (
    FEATURE_CHANNELS,
    Channels,
    Native,
    Ones,
    Project,
    Projecting,
    Renormalize,
)
from autoadapt.adapting.operations.closed_set import Operation
from autoadapt.adapting.operations.counted import Counted
from autoadapt.adapting.operations.masking import Hide, Remask
from autoadapt.adapting.operations.operation import Conversion, shown_sizes, specs_along
from autoadapt.adapting.operations.patterns import axis_groups
from autoadapt.adapting.operations.points import Recover, Thin, Thinning
from autoadapt.adapting.operations.spatial import Averaging, Mean, Pad, Pool, Resample, Resize
from autoadapt.adapting.operations.tokens import DropPrefix, Lead, ResizeTokens, Take
from autoadapt.adapting.operations.values import Cast, Copy, Restore

__all__ = [
    "FEATURE_CHANNELS",
    "Averaging",
    "Cast",
    "Channels",
    "Conversion",
    "Copy",
    "Counted",
    "DropPrefix",
    "Flip",
    "Hide",
    "Lead",
    "Mean",
    "Native",
    "Ones",
    "Operation",
    "Pad",
    "Pool",
    "Project",
    "Projecting",
    "Rearrange",
    "Recover",
    "Remask",
    "Renormalize",
    "Resample",
    "Resize",
    "ResizeTokens",
    "Restore",
    "Take",
    "Thin",
    "Thinning",
    "axis_groups",
    "shown_sizes",
    "specs_along",
]
