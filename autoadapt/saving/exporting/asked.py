"""Asked: what a caller of `export` wants besides a file, checked before anything runs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

from autoadapt.contracts.instances import is_whole
from autoadapt.errors import ExportError, Mismatch


def check_asked(ranges: object, opset_version: object, tolerance: object) -> None:
    """Refuse sizes, versions and tolerances that are none.

    Args:
        ranges: Sizes by axis: one, or the smallest and the largest (None: any).
        opset_version: Of ONNX.
        tolerance: How far outputs may be apart.

    Raises:
        ExportError: All that is wrong, at once.

    Example:
        >>> check_asked({"H": (32, None)}, 18, 1e-4)
    """
    faults = list(_of_ranges(ranges))
    if opset_version is not None and not is_whole(opset_version, 1):
        fault = Mismatch("`opset_version`", "a whole number", repr(opset_version)[:60], "opset_version=18")
        faults.append(fault)
    if isinstance(tolerance, bool) or not isinstance(tolerance, (int, float)) or not 0 <= tolerance < math.inf:
        faults.append(Mismatch("`tolerance`", "a finite number from 0", repr(tolerance)[:60], "tolerance=1e-4"))
    if faults:
        raise ExportError("export does not take these arguments", faults)


def _of_ranges(ranges: Any) -> Iterator[Mismatch]:
    if ranges is None:
        return
    if not isinstance(ranges, Mapping):
        yield Mismatch("`ranges`", "sizes by axis", repr(ranges)[:60], 'ranges={"H": (64, 1024)}')
        return
    for axis, sizes in ranges.items():
        if not (is_whole(sizes, 1) or _is_pair(sizes)):
            expected = "one size, or the smallest and the largest"
            remedy = f"ranges={{{axis!r}: {_in_order(sizes)}}}"
            yield Mismatch(f"ranges[{axis!r}]", expected, repr(sizes)[:60], remedy)


def _is_pair(value: Any) -> bool:
    if not isinstance(value, (tuple, list)) or len(value) != 2 or not is_whole(value[0], 1):
        return False
    return value[1] is None or is_whole(value[1], value[0])


def _in_order(value: Any) -> tuple[int, int]:
    """The sizes that were given, smallest first; some, where these are none."""
    sizes = sorted(one for one in value if is_whole(one, 1)) if isinstance(value, (tuple, list)) else []
    return (sizes[0], sizes[-1]) if len(sizes) > 1 else (64, 1024)
