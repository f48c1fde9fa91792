"""First calls: what a module that keeps a size of its first call returns when that is another one."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Mapping, Sequence

from autoadapt.contracts.capturing.confirming import Contract, said
from autoadapt.contracts.capturing.probing import Probe, ProbeError
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import Contradiction

__all__ = ["confirm_first_call"]


def confirm_first_call(probe: Probe, contract: Contract) -> list[Contradiction]:
    """What is wrong with the shapes of a copy that is run for the first time, at a larger size than the example.

    The other runs follow one at the example, whose size an output may have ever after. Nothing where all outputs follow
    every axis of the input, or where the copy refuses that size.

    Args:
        probe: What the module was probed with.
        contract: What it should return.
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
    """Whether an output has twice as many values for twice as many samples, and a part in every other axis."""
    doubled = {**example, "B": larger["B"]} if "B" in steps else example
    count, counted = (math.prod(int(dim.evaluate(sizes)) for dim in dims) for sizes in (example, doubled))
    named = frozenset[str]().union(*(dim.axes for dim in dims))
    return named >= steps.keys() and counted == count * (2 if "B" in steps else 1)
