"""First calls: whether a module's first call decides a size of its output for all later ones."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence

from autoadapt.contracts.capturing.confirming import Contract, said
from autoadapt.contracts.capturing.probing import Probe, ProbeError
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import Contradiction


def confirm_first_call(probe: Probe, contract: Contract) -> list[Contradiction]:
    """Contradictions in the shapes of a new copy whose first call is at a larger size than the example.

    All other runs come after one at the example, whose size an output may keep from then on. None where every output
    depends on all axes of the input, or where the copy refuses that size.
    """
    example = contract.axes.example
    steps = {name: step for name, step in contract.steps.items() if step}
    larger = {
        **example,
        **{name: example[name] + (example["B"] if name == "B" else step) for name, step in steps.items()},
    }
    if all(_follows(dims, example, larger, steps) for dims in contract.dims):
        return []
    with contextlib.suppress(ProbeError):
        found = probe.fresh().run(contract.axes.shapes(larger))
        rows = zip(contract.first.paths, contract.dims, found.shapes, strict=False)
        expected = [(path, [int(dim.evaluate(larger)) for dim in dims], [*shape]) for path, dims, shape in rows]
        return [
            Contradiction(path=path, at=said(larger), expected=str(by_dims), found=f"{shape} in a first call")
            for path, by_dims, shape in expected
            if by_dims != shape
        ]
    return []


def _follows(
    dims: Sequence[Dim], example: Mapping[str, int], larger: Mapping[str, int], steps: Mapping[str, int]
) -> bool:
    """Whether an output doubles with the samples, and depends on every axis that varies."""
    doubled = {**example, "B": larger["B"]} if "B" in steps else example
    count, counted = (math.prod(int(dim.evaluate(sizes)) for dim in dims) for sizes in (example, doubled))
    named = frozenset[str]().union(*(dim.axes for dim in dims))
    return named >= steps.keys() and counted == count * (2 if "B" in steps else 1)
