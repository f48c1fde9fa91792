"""More sizes: output shapes at many sizes and batch sizes, and the smallest size at which a contract is broken.

For modules that were not built from a plan, whose sizes are not proven: an adapter written by hand may be wrong at
every fifth size, or from eight samples on. All runs are on the meta device, without values.
"""

from __future__ import annotations

import itertools
import math
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence

from torch import nn

from autoadapt.adapting.verification.sessions import Session
from autoadapt.contracts.capturing.probing import Probe, ProbeError
from autoadapt.contracts.signature import first_legal
from autoadapt.errors import Mismatch

REMAINDERS = 32
"""How many consecutive legal sizes of each axis are run: all remainders of any stride up to this."""
_SMALLEST = 8
"""How many of the smallest legal sizes of an image are run."""
_BATCHES = 9
"""The largest batch size."""
_SMALL = (1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 31, 32, 33, 64, 65)
_MOST_SMALL = 256
_DOUBLINGS = 5
"""How often the example's size is doubled in search of one at which the contract is broken."""


def other_remainders(session: Session) -> list[Mismatch]:
    """Faults in shapes at the smallest legal sizes and at `REMAINDERS` further ones, with one to nine samples.

    Only those at the first size that has any; none where the module does not run on the meta device. Sizes at which it
    raises are skipped, since the caller did not ask for them.
    """
    return _first_broken(session, _asked(session))


def refused_by_one(session: Session, reference: nn.Module) -> list[Mismatch]:
    """The first of the sizes of `other_remainders` at which one of two modules raises and the other runs."""
    arguments, inputs = session.arguments(session.at()), session.signature.inputs.leaves
    probes = [Probe(one, arguments, real=False, inner=False) for one in (reference, session.net)]
    if any(_raised(probe, None) for probe in probes):
        return []
    for sizes in _asked(session):
        expected, found = (_raised(probe, [spec.shape(sizes) for spec in inputs]) for probe in probes)
        if bool(expected) != bool(found):
            return [Mismatch("at " + "x".join(map(str, sizes.values())), expected or "outputs", found or "outputs")]
    return []


def _raised(probe: Probe, shapes: Sequence[tuple[int, ...]] | None) -> str:
    """The message of the error that a run on the meta device raises; empty if it runs.

    Args:
        probe: Runs the module.
        shapes: Of the inputs; those of the example where None.
    """
    try:
        probe.run() if shapes is None else probe.run(shapes)
    except ProbeError as error:
        return str(error) or "an error"
    return ""


def _asked(session: Session) -> Iterator[dict[str, int]]:
    return itertools.chain(_smallest(session), _remainders(session))


def smallest_counterexample(session: Session) -> list[Mismatch]:
    """The faults at the smallest size at which the contract is broken; none where no such size is found."""
    return _first_broken(session, itertools.chain(_small(session), _remainders(session))) or _beyond(session)


def _beyond(session: Session) -> list[Mismatch]:
    """The faults at the smallest size above the example's from which the contract is broken along one axis."""
    for name in (name for name, axis in session.signature.axes.items() if name != "B" and axis.step != 0):

        def faults_at(size: int, name: str = name) -> list[Mismatch]:
            return _first_broken(session, iter([session.at(**{name: session.signature.axes[name].near(size), "B": 1})]))

        for size in (session.at()[name] << i for i in range(_DOUBLINGS)):
            if faults_at(2 * size):
                return faults_at(size + bisect_left(range(size, 2 * size), True, key=lambda one: bool(faults_at(one))))
    return []


def _first_broken(session: Session, rows: Iterator[Mapping[str, int]]) -> list[Mismatch]:
    """The faults at the first of several sizes that has any."""
    probe = Probe(session.net, session.arguments(session.at()), real=False, inner=False)
    try:
        probe.run()
    except ProbeError:
        return []
    return next((faults for row in rows if (faults := _broken(session, probe, row))), [])


def _broken(session: Session, probe: Probe, sizes: Mapping[str, int]) -> list[Mismatch]:
    if any(dim.evaluate(sizes) < 1 for spec in session.signature.outputs.leaves for dim in spec.dims):
        return []  # an output would be empty: what the old module does there is not known
    try:
        seen = probe.run([spec.shape(sizes) for spec in session.signature.inputs.leaves])
    except ProbeError:
        return []
    return session.compare_shapes(seen.tree, seen.shapes, sizes)


def _remainders(session: Session) -> Iterator[dict[str, int]]:
    """Sizes from the example's on, so that each axis goes through all remainders, in different orders."""
    axes, example = session.signature.axes, session.at()
    varying = [name for name in axes if name != "B"]
    for i in range(REMAINDERS):
        steps = {name: (i * (2 * k + 1) + 5 * k) % REMAINDERS for k, name in enumerate(varying)}
        sizes = {name: axes[name].near(example[name] + step * max(axes[name].step, 1)) for name, step in steps.items()}
        yield session.at(**sizes, B=1 + i % _BATCHES)


def _smallest(session: Session) -> Iterator[dict[str, int]]:
    """The smallest legal sizes of an image, with one sample; nothing where no input axis is H or W."""
    axes, dims = session.signature.axes, [dim for spec in session.signature.outputs.leaves for dim in spec.dims]
    first = {name: first_legal(name, axes, dims) for name in axes if name != "B"}
    for i in range(_SMALLEST if first.keys() & {"H", "W"} else 0):
        yield session.at(**{name: size + i * axes[name].step for name, size in first.items()}, B=1)


def _small(session: Session) -> Iterator[dict[str, int]]:
    """Combinations of small sizes with one sample, the smallest first; then the example's sizes with more samples."""
    axes = session.signature.axes
    varying = [name for name in axes if name != "B" and axes[name].step != 0]
    rows = {tuple(map(lambda name, size: axes[name].near(size), varying, one)) for one in _small_products(len(varying))}
    for row in sorted(rows, key=lambda one: (math.prod(one), one))[:_MOST_SMALL]:
        yield session.at(**dict(zip(varying, row, strict=True)), B=1)
    for batch in range(2, _BATCHES + 1):
        yield session.at(B=batch)


def _small_products(count: int) -> Iterator[tuple[int, ...]]:
    """All combinations of small sizes; for more than two axes, equal sizes alone, since there would be too many."""
    if count <= 2:
        yield from itertools.product(_SMALL, repeat=count)
    else:
        yield from (tuple(size for _ in range(count)) for size in _SMALL)
