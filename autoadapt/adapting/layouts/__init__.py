"""Layouts: the shortest chain of operations from one tensor to another, from the factors of their axes.

Each axis is a product of atoms: functions of one input axis, or constants. Atoms of the source are assigned to atoms of
the target at least cost; where they differ, they are dropped, rearranged, pooled, projected or resized.
"""

from autoadapt.adapting.layouts.assigning import Refusal
from autoadapt.adapting.layouts.chains import chain, is_state
from autoadapt.adapting.layouts.extra_tokens import class_token_axis
from autoadapt.adapting.layouts.factors import POINTS, Atom, Factored, distance, factored
from autoadapt.adapting.layouts.one_channel import has_one_channel
from autoadapt.adapting.layouts.placing import IN_PLACE, shift

__all__ = [
    "IN_PLACE",
    "POINTS",
    "Atom",
    "Factored",
    "Refusal",
    "chain",
    "class_token_axis",
    "distance",
    "factored",
    "has_one_channel",
    "is_state",
    "shift",
]
