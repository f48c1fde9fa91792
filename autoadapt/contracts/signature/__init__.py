"""Signature: what goes into a module and what comes out, as a frozen value."""

from autoadapt.contracts.signature.axes import AxisSizes, equal_where_legal, first_legal, range_at, smallest_size
from autoadapt.contracts.signature.casts import in_dtype
from autoadapt.contracts.signature.cell_centres import Centres
from autoadapt.contracts.signature.cell_orders import Cells, cells_in, in_order
from autoadapt.contracts.signature.channel_names import channel_names, met_by_name
from autoadapt.contracts.signature.held_values import Bound, Held
from autoadapt.contracts.signature.masks import Form, Mask, Returned, frames_of, mask_at
from autoadapt.contracts.signature.merged_axes import Merged, Part, is_sequence, listed_along
from autoadapt.contracts.signature.native_sizes import NativeSizes
from autoadapt.contracts.signature.observations import Contradiction, Gathering, InnerOutput, tap_name
from autoadapt.contracts.signature.parameters import Parameter
from autoadapt.contracts.signature.signatures import MOST_VALUES, Signature
from autoadapt.contracts.signature.specs import DTYPES, Role, TensorSpec, dtype_name
from autoadapt.contracts.signature.statistics import ColourOrder, Statistics, agree, conversion, image_of
from autoadapt.contracts.signature.values import Values, describe
from autoadapt.contracts.signature.written_outputs import check_written

__all__ = [
    "DTYPES",
    "MOST_VALUES",
    "AxisSizes",
    "Bound",
    "Cells",
    "Centres",
    "ColourOrder",
    "Contradiction",
    "Form",
    "Gathering",
    "Held",
    "InnerOutput",
    "Mask",
    "Merged",
    "NativeSizes",
    "Parameter",
    "Part",
    "Returned",
    "Role",
    "Signature",
    "Statistics",
    "TensorSpec",
    "Values",
    "agree",
    "cells_in",
    "channel_names",
    "check_written",
    "conversion",
    "describe",
    "dtype_name",
    "equal_where_legal",
    "first_legal",
    "frames_of",
    "image_of",
    "in_dtype",
    "in_order",
    "is_sequence",
    "listed_along",
    "mask_at",
    "met_by_name",
    "range_at",
    "smallest_size",
    "tap_name",
]
