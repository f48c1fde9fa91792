"""Starting: the first run of a capture, which decides whether the others are on the meta device or real."""

from __future__ import annotations

import contextlib
import time
from dataclasses import dataclass

from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.capturing.devices import on_meta_device, takes_long
from autoadapt.contracts.capturing.in_place import raised
from autoadapt.contracts.capturing.probing import Observation, Probe, ProbeError
from autoadapt.contracts.capturing.sizing import Names, name_axes
from autoadapt.contracts.trees import flatten

PATIENCE = 1.0
"""Seconds that a run on the meta device may take before a real one is tried: a capture makes some thirty."""
WARM = 4.0
"""Seconds above which a slow first run is not explained by what PyTorch loads in it, and is not repeated."""
GAIN = 2.0
"""How many times faster real runs must be to be used."""


@dataclass(frozen=True)
class Start:
    """The result of the first run."""

    probe: Probe
    """The probe for all further runs."""
    first: Observation
    """The run at the example."""
    followed: Names
    """The axes along which cells were followed in that run."""
    needs_values: bool
    """Whether the module runs for real only. Else the capture goes on in the same way with either probe, so that the
    signature does not depend on which was faster."""


def start(module: nn.Module, arguments: Arguments, *, inner: bool, real: bool, patience: float = PATIENCE) -> Start:
    """A probe with its first run: on the meta device where the module runs there, else a real one.

    A loop of many small operations, as in farthest point sampling, is slower on the meta device than with values, since
    Python computes the shapes of each. Where the first run is slow, the faster of the two is taken.

    Args:
        module: The module; only copies of it run.
        arguments: The example call.
        inner: Note inner outputs.
        real: Use real runs in any case.
        patience: Seconds that a run on the meta device may take before a real one is tried.

    Raises:
        CaptureError: The module raises in both.
    """
    if not real:
        probe = Probe(module, arguments, real=False, inner=inner)
        for follow in dict.fromkeys((_likely_to_vary(arguments), ())):
            with contextlib.suppress(ProbeError):
                first, seconds = _timed(probe, follow)
                if seconds <= patience or not _may_run(module, arguments, probe):
                    return Start(probe, first, follow, needs_values=False)
                return _cheaper(probe, first, seconds, Probe(module, arguments, real=True, inner=inner))
    probe = Probe(module, arguments, real=True, inner=inner)
    try:
        return Start(probe, probe.run(), (), needs_values=True)
    except ProbeError as error:
        raise raised(module, error.__cause__, str(error), flatten(arguments.values)[1]) from error


def _likely_to_vary(arguments: Arguments) -> Names:
    """The names of all axes but channels, where an input is an image, to follow cells in the first run already."""
    names = name_axes(flatten(arguments.values)[1]).names
    if not any({"H", "W"} <= set(one) for one in names):
        return ()
    return tuple(tuple("" if name[0] == "C" else name for name in one) for one in names)


def _timed(probe: Probe, follow: Names = ()) -> tuple[Observation, float]:
    began = time.perf_counter()
    return probe.run(follow=follow), time.perf_counter() - began


def _may_run(module: nn.Module, arguments: Arguments, probe: Probe) -> bool:
    """Whether real runs may replace those on the meta device; not for images, whose probes are too large for memory."""
    _, tensors = flatten(arguments.values)
    if on_meta_device(module) or any(tensor.is_meta or tensor.dim() > 3 for tensor in tensors):
        return False
    return not takes_long(probe.device, probe.work.multiply_adds)


def _cheaper(meta: Probe, first: Observation, seconds: float, real: Probe) -> Start:
    """The real probe if it is faster and observes the same, else that on the meta device."""
    try:
        other, real_seconds = _timed(real)
        if real_seconds * GAIN < seconds < WARM:
            _, seconds = _timed(meta)
    except ProbeError:
        return Start(meta, first, (), needs_values=False)
    if _compared(other) == _compared(first) and real_seconds * GAIN < seconds:
        return Start(real, other, (), needs_values=False)
    return Start(meta, first, (), needs_values=False)


def _compared(seen: Observation) -> object:
    """What a signature takes from a first run, as one value."""
    inner = [
        (key, leaf.shape, leaf.dtype, leaf.contiguous, leaf.same_as, leaf.reads) for key, leaf in seen.inner.items()
    ]
    outer = (seen.tree, seen.shapes, seen.dtypes, seen.same_as, seen.filled, seen.written, seen.contiguous, seen.kinds)
    return *outer, seen.made_by, inner
