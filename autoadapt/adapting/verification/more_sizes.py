"""More sizes: shapes alone at many sizes and batches, and the smallest size at which a contract is not kept.

For modules that were not built from a plan, whose sizes no algebra proves: an adapter that somebody wrote may be wrong
at every fifth size, or from eight samples on.
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

__all__ = ["other_remainders", "refused_by_one", "smallest_counterexample"]

REMAINDERS = 32
"""Sizes in a row that every axis goes through: what is left over by any stride up to this."""
_SMALLEST = 8
"""How many of the smallest legal sizes of an image are looked at."""
_BATCHES = 9
_SMALL = (1, 2, 3, 4, 5, 7, 8, 9, 13, 16, 17, 31, 32, 33, 64, 65)
_MOST_SMALL = 256
_DOUBLINGS = 5
"""How often the example's size is doubled in search of one at which a contract is not kept."""


def other_remainders(session: Session) -> list[Mismatch]:
    """Shapes at the smallest legal sizes, and at such as leave every remainder, with one to nine samples.

    Nothing where the module runs with values alone. Sizes at which it raises say nothing: nobody asked for them.
    """
    return _first_broken(session, _asked(session))


def refused_by_one(session: Session, reference: nn.Module) -> list[Mismatch]:
    """The first of these sizes at which one of two modules raises and the other runs."""
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
    """What a run without values raises."""
    try:
        probe.run() if shapes is None else probe.run(shapes)
    except ProbeError as error:
        return str(error) or "an error"
    return ""


def _asked(session: Session) -> Iterator[dict[str, int]]:
    return itertools.chain(_smallest(session), _remainders(session))


def smallest_counterexample(session: Session) -> list[Mismatch]:
    """What is not kept at the smallest size at which anything is not; nothing where that is not found."""
    return _first_broken(session, itertools.chain(_small(session), _remainders(session))) or _beyond(session)


def _beyond(session: Session) -> list[Mismatch]:
    """What is not kept from some size of an axis on that is far above the example's."""
    for name in (name for name, axis in session.signature.axes.items() if name != "B" and axis.step != 0):

        def faults_at(size: int, name: str = name) -> list[Mismatch]:
            return _first_broken(session, iter([session.at(**{name: session.signature.axes[name].near(size), "B": 1})]))

        for size in (session.at()[name] << i for i in range(_DOUBLINGS)):
            if faults_at(2 * size):
                return faults_at(size + bisect_left(range(size, 2 * size), True, key=lambda one: bool(faults_at(one))))
    return []


def _first_broken(session: Session, rows: Iterator[Mapping[str, int]]) -> list[Mismatch]:
    probe = Probe(session.net, session.arguments(session.at()), real=False, inner=False)
    try:
        probe.run()
    except ProbeError:
        return []
    return next((faults for row in rows if (faults := _broken(session, probe, row))), [])


def _broken(session: Session, probe: Probe, sizes: Mapping[str, int]) -> list[Mismatch]:
    if any(dim.evaluate(sizes) < 1 for spec in session.signature.outputs.leaves for dim in spec.dims):
        return []  # where the old module has no cells left, nobody knows what it does
    try:
        seen = probe.run([spec.shape(sizes) for spec in session.signature.inputs.leaves])
    except ProbeError:
        return []
    return session.compare_shapes(seen.tree, seen.shapes, sizes)


def _remainders(session: Session) -> Iterator[dict[str, int]]:
    """From the example on, each axis through all remainders in an order of its own."""
    axes, example = session.signature.axes, session.at()
    varying = [name for name in axes if name != "B"]
    for i in range(REMAINDERS):
        steps = {name: (i * (2 * k + 1) + 5 * k) % REMAINDERS for k, name in enumerate(varying)}
        sizes = {name: axes[name].near(example[name] + step * max(axes[name].step, 1)) for name, step in steps.items()}
        yield session.at(**sizes, B=1 + i % _BATCHES)


def _smallest(session: Session) -> Iterator[dict[str, int]]:
    """One sample of the smallest legal images."""
    axes, dims = session.signature.axes, [dim for spec in session.signature.outputs.leaves for dim in spec.dims]
    first = {name: first_legal(name, axes, dims) for name in axes if name != "B"}
    for i in range(_SMALLEST if first.keys() & {"H", "W"} else 0):
        yield session.at(**{name: size + i * axes[name].step for name, size in first.items()}, B=1)


def _small(session: Session) -> Iterator[dict[str, int]]:
    """One sample, then more, of small sizes, the smallest first."""
    axes = session.signature.axes
    varying = [name for name in axes if name != "B" and axes[name].step != 0]
    rows = {tuple(map(lambda name, size: axes[name].near(size), varying, one)) for one in _small_products(len(varying))}
    for row in sorted(rows, key=lambda one: (math.prod(one), one))[:_MOST_SMALL]:
        yield session.at(**dict(zip(varying, row, strict=True)), B=1)
    for batch in range(2, _BATCHES + 1):
        yield session.at(B=batch)


def _small_products(count: int) -> Iterator[tuple[int, ...]]:
    """Small sizes of every axis; of many axes the same of all, since there are too many products."""
    if count <= 2:
        yield from itertools.product(_SMALL, repeat=count)
    else:
        yield from (tuple(size for _ in range(count)) for size in _SMALL)
