"""Signature: what goes into a module and what comes out, as a frozen value."""

from autoadapt.contracts.signature.axes import AxisSizes, equal_where_legal, smallest_size
from autoadapt.contracts.signature.observations import Contradiction, Gathering, InnerOutput, tap_name
from autoadapt.contracts.signature.signatures import MOST_VALUES, Signature
from autoadapt.contracts.signature.specs import DTYPES, Cells, Centres, Role, TensorSpec, dtype_name
from autoadapt.contracts.signature.values import Values, describe
from autoadapt.contracts.signature.written_outputs import check_written

__all__ = [
    "DTYPES",
    "MOST_VALUES",
    "AxisSizes",
    "Cells",
    "Centres",
    "Contradiction",
    "Gathering",
    "InnerOutput",
    "Role",
    "Signature",
    "TensorSpec",
    "Values",
    "check_written",
    "describe",
    "dtype_name",
    "equal_where_legal",
    "smallest_size",
    "tap_name",
]
