"""Confirming: a few real runs of a module that was captured on the meta device, compared with its signature."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import nn

from autoadapt.contracts import clocks
from autoadapt.contracts.allocations import MOST_INVENTED, in_words
from autoadapt.contracts.capturing.devices import on_meta_device, takes_long
from autoadapt.contracts.capturing.graph_axes import InputAxes
from autoadapt.contracts.capturing.ordering import ImagePass
from autoadapt.contracts.capturing.probing import Observation, Probe, ProbeError, Work
from autoadapt.contracts.capturing.run_values import are_equal, is_finite
from autoadapt.contracts.capturing.sizing import Steps
from autoadapt.contracts.capturing.usual_sizes import cells_of, usual_sizes
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.other_threads import in_another_thread
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.signature import Contradiction

MOST_PASSES = 3
"""Real passes of one capture, and one more where the first was made on small images."""
MOST_SECONDS = 1.0
"""For all passes but the first together."""
OTHER_SEED = 1
THIRD_SEED = 2
MOST_DRAWS = 12
"""Runs of a module that draws random numbers, to see whether its output shapes depend on them."""


@dataclass(frozen=True)
class Contract:
    """What real runs are compared with: containers, dtypes, and every axis as a function of the input."""

    axes: InputAxes
    steps: Steps
    dims: tuple[tuple[Dim, ...], ...]
    first: Observation


@dataclass(frozen=True)
class Confirmation:
    """What the runs showed."""

    contradictions: tuple[Contradiction, ...] = ()
    observed: Observation | None = None
    """The first run."""
    not_finite: tuple[str, ...] = ()
    """Outputs that held NaN or infinity in it, though the inputs did not."""
    drawn: tuple[str, ...] = ()
    """Outputs that changed when other random numbers were drawn."""
    unconfirmed: str = ""
    """Why there was no run, in a few words."""
    raised: str = ""
    """The message of the exception, where the module raised at the example."""
    differs: bool = False
    """Whether containers or dtypes differ from those on the meta device."""
    one_size: bool = False
    """Whether it raises on larger images of a usual size, though not on the meta device."""


def confirm(
    module: nn.Module,
    probe: Probe,
    contract: Contract,
    *,
    batch: int,
    work: Work,
    ordered: ImagePass | None = None,
    passes: int = MOST_PASSES,
) -> Confirmation:
    """Run a module for real, at most three times: at the example, at a usual size, and at the example again.

    The last two runs share a second copy, which shows state that is kept between calls, or from the first call on.
    Where the first copy holds a tensor of its first call, the two runs at the example both use that copy. The two runs
    at the example must return the same values; where the module draws random numbers, the last one draws others, and
    the outputs that change are noted. If a run that measured the order of cells was made, it replaces the one at a
    usual size where that was a larger one, and is compared with the contract too.

    Args:
        module: The original, for its device.
        probe: Runs a copy of it for real.
        contract: What it should return.
        batch: Samples in a batch, where their number may vary.
        work: Work of one pass at the example, as far as it is known.
        ordered: The real run that measured the order of cells, if there was one.
        passes: How many real passes this capture may still make.
    """
    if on_meta_device(module):
        return Confirmation(unconfirmed="its weights are on the meta device")
    runs = _Runs(probe, contract, batch, work)
    sizes = next((sizes for sizes in _options(contract) if not runs.hindrance(sizes)), None)
    if sizes is None:
        least = min(_options(contract), key=runs.multiply_adds)
        return Confirmation(unconfirmed=f"a pass takes {runs.hindrance(least)}")
    try:
        first = runs.first(sizes)
    except ProbeError as error:
        if sizes != dict(contract.axes.example):  # a smaller image may rightly be refused
            return Confirmation(unconfirmed=f"a pass takes {runs.hindrance(contract.axes.example)}")
        return Confirmation(raised=str(error))
    if (first.tree, first.dtypes) != (contract.first.tree, contract.first.dtypes):
        return Confirmation(observed=first, differs=True)
    found = [*runs.wrong_shapes(sizes, first)]
    if ordered is not None and "B" in contract.steps:
        found += runs.wrong_in(ordered)
    drew, in_a_row = probe.drew, passes > 1 and probe.keeps_a_call(first) and runs.affords(sizes)
    values = runs.values_again(sizes, first, drew=drew) if in_a_row else []
    example, other = contract.axes.example, runs.elsewhere(sizes)
    if passes >= MOST_PASSES or (other and ordered and all(ordered.sizes[name] <= example[name] for name in "HW")):
        found += (elsewhere := runs.in_a_copy(other))
        if other and other["H"] > example["H"] and any(one.expected == _OUTPUTS for one in elsewhere):
            return Confirmation(observed=first, one_size=True)
    if passes > 1 and not in_a_row and runs.affords(sizes):
        values = runs.values_again(sizes, first, drew=drew)
    return _confirmation(contract, first, found, values, drew=drew)


def confirm_again(probe: Probe, sizes: Mapping[str, int], contract: Contract, before: Observation) -> Confirmation:
    """Two more runs of a module that is captured by real runs, at an earlier size: of a new copy and of the old one.

    Args:
        probe: The probe of the capture.
        sizes: The smallest size of an earlier run.
        contract: What the module should return.
        before: What it returned there.
    """
    runs = _Runs(probe.fresh(), contract, sizes.get("B", 1), Work())
    found = runs.slightly_smaller() if dict(sizes) == contract.axes.example else []
    found += runs.again(sizes, like=before)
    runs.probe = probe
    values = runs.values_again(sizes, before, drew=probe.drew) if runs.spent <= MOST_SECONDS else []
    return _confirmation(contract, before, found, values, drew=probe.drew)


def _confirmation(
    contract: Contract, first: Observation, found: list[Contradiction], again: list[Contradiction], *, drew: bool
) -> Confirmation:
    """What the runs showed; values that changed with the random numbers are no contradictions.

    Args:
        contract: What the module should return.
        first: The first run.
        found: Contradictions in other runs.
        again: Contradictions in the run that repeated the first one, with other random numbers if it draws any.
        drew: Whether it draws any.
    """
    drawn = tuple(one.path for one in again if drew and one.expected == _EQUAL_VALUES)
    kept = _by_place([*found, *(one for one in again if one.path not in drawn)])
    return Confirmation(tuple(kept), first, _not_finite(contract, first), drawn)


def confirm_drawing(probe: Probe, sizes: Mapping[str, int], contract: Contract) -> list[Contradiction]:
    """Contradictions in the shapes of a module that draws random numbers, over several runs with different ones.

    None where it draws none. Where it chooses between two shapes with equal chances, 1 in 4,000 captures misses that.

    Args:
        probe: The probe of the capture; on the meta device a run takes milliseconds.
        sizes: The size of an earlier run.
        contract: What the module should return.
    """
    if not probe.draws:
        return []
    runs = _Runs(probe, contract, sizes.get("B", contract.axes.example.get("B", 1)), Work())
    with undisturbed():
        for seed in range(MOST_DRAWS):
            if (found := runs.again(sizes, seed=seed, draw_on=True)) or runs.spent > MOST_SECONDS:
                return found
    return []


def _not_finite(contract: Contract, observed: Observation) -> tuple[str, ...]:
    """Outputs that hold NaN or infinity, though the inputs do not."""
    if not all(map(is_finite, observed.inputs)):
        return ()
    named = zip(contract.first.paths, observed.tensors, strict=True)
    return tuple(path for path, tensor in named if not is_finite(tensor))


def _options(contract: Contract) -> Iterator[dict[str, int]]:
    """The example, then smaller images, the largest first."""
    example = contract.axes.example
    yield dict(example)
    most = math.prod(cells_of(example))
    yield from reversed([one for one in _others(contract) if math.prod(cells_of(one)) < most])


def _others(contract: Contract) -> list[dict[str, int]]:
    """The example with images of usual sizes, where these are legal."""
    return usual_sizes(contract.axes, contract.steps)


def _less(contract: Contract, graphs: int) -> dict[str, int]:
    """The example, one legal step smaller along all axes but the batch, with no fewer nodes than graphs."""
    steps = {name: step for name, step in contract.steps.items() if name != "B"}
    less = {name: size - steps.get(name, 0) for name, size in contract.axes.example.items()}
    return less | {"N": max(less["N"], graphs)} if graphs else less


@dataclass
class _Runs:
    """Real runs of one copy, with their time."""

    probe: Probe
    contract: Contract
    batch: int
    work: Work
    seconds: float = 0.0
    """Of the first run, for one cell of the input."""
    spent: float = 0.0
    """Seconds of all later runs."""

    def multiply_adds(self, sizes: Mapping[str, int]) -> float:
        return self.work.multiply_adds * self._share(sizes)

    def hindrance(self, sizes: Mapping[str, int]) -> str:
        """Why a run is too expensive, in multiply-adds, or in memory where inputs are invented; empty if it is not."""
        count, memory = self.multiply_adds(sizes), self._bytes(sizes) if self.probe.invents else 0
        if takes_long(self.probe.device, count):
            return f"{count / 1e9:.0f} billion multiply-adds"
        return f"{in_words(memory)} of memory" if memory > MOST_INVENTED else ""

    def _share(self, sizes: Mapping[str, int]) -> float:
        """The number of input cells relative to the example."""
        return math.prod(cells_of(self._batched(sizes))) / max(math.prod(cells_of(self.contract.axes.example)), 1)

    def _bytes(self, sizes: Mapping[str, int]) -> int:
        """Bytes of inputs, outputs, and the largest tensor in between."""
        full, contract = self._batched(sizes), self.contract
        taken = zip(contract.axes.shapes(full), self.probe.dtypes, strict=True)
        made = [[max(int(dim.evaluate(full)), 0) for dim in dims] for dims in contract.dims]
        rows = [*taken, *zip(made, contract.first.dtypes, strict=True)]
        return sum(math.prod(shape) * dtype.itemsize for shape, dtype in rows) + int(
            4 * self.work.widest * self._share(sizes)
        )

    def affords(self, sizes: Mapping[str, int]) -> bool:
        """Whether there is time for a run, going by what the first one took, and memory."""
        seconds = self.spent + self.seconds * math.prod(cells_of(self._batched(sizes)))
        return seconds <= MOST_SECONDS and not self.hindrance(sizes)

    def first(self, sizes: Mapping[str, int]) -> Observation:
        """Run with as few samples as the module accepts.

        Raises:
            ProbeError: It raises with any number of them; the message is that at the example's number.
        """
        given = self.contract.axes.example.get("B", 1)
        self.batch = min(self.batch, given) if self.contract.steps.get("B") == 1 else given
        for batch in sorted({self.batch, min(max(self.batch, 2), given), given}):
            self.batch = batch
            start = clocks.start()
            try:
                found = self.probe.run(self._shapes(sizes))
            except ProbeError:
                if batch == given:
                    raise
                continue
            self.seconds = clocks.since(start) / max(math.prod(cells_of(self._batched(sizes))), 1)
            return found
        raise AssertionError("the example's batch is the last that is tried")

    def elsewhere(self, example: Mapping[str, int]) -> dict[str, int]:
        """Another usual size at which there is time for a run; empty if there is none."""
        return next((other for other in _others(self.contract) if other != example and self.affords(other)), {})

    def in_a_copy(self, other: Mapping[str, int]) -> list[Contradiction]:
        """Contradictions in a run of a new copy at another size, if there is time for one; later runs use that copy."""
        if not self.affords(other or self.contract.axes.example):
            return []
        self.probe = self.probe.fresh()
        return self.again(other, seed=OTHER_SEED) if other else self.slightly_smaller()

    def slightly_smaller(self) -> list[Contradiction]:
        """Contradictions in the shapes of a run at a slightly smaller size, which the module may also refuse."""
        less = _less(self.contract, self.probe.graphs)
        found = self.again(less, seed=OTHER_SEED) if min(less.values(), default=0) > 0 else []
        return [one for one in found if one.path]

    def again(
        self,
        sizes: Mapping[str, int],
        *,
        seed: int | None = None,
        draw_on: bool = False,
        like: Observation | None = None,
    ) -> list[Contradiction]:
        """Contradictions in another run: in its shapes, and in its values where it should equal `like`."""
        start = clocks.start()
        try:
            found = self.probe.run(self._shapes(sizes), seed=seed, draw_on=draw_on)
        except ProbeError as error:
            return [Contradiction(at=said(sizes), expected=_OUTPUTS, found=str(error))]
        finally:
            self.spent += clocks.since(start)
        if (found.tree, found.dtypes) != (self.contract.first.tree, self.contract.first.dtypes):
            return [Contradiction(at=said(sizes), expected="the same containers and dtypes", found="others")]
        wrong = self.wrong_shapes(sizes, found)
        return wrong if wrong or like is None else self._wrong_values(sizes, like.tensors, found)

    def values_again(self, sizes: Mapping[str, int], first: Observation, *, drew: bool) -> list[Contradiction]:
        """Contradictions in another run at the size of the first.

        It draws other random numbers if the first drew any. Else it is made in another thread; where it raises only
        there, or does not end there, that is no contradiction.
        """
        if drew:
            with undisturbed():
                random.random()
                np.random.random()
                return self.again(sizes, seed=THIRD_SEED, like=first)
        run = partial(self.again, sizes, like=first)
        found = in_another_thread(run) or []
        return run() if any(one.expected == _OUTPUTS for one in found) else found

    def wrong_in(self, ran: ImagePass) -> list[Contradiction]:
        """Contradictions in a run that was made for another purpose."""
        if ran.tree != self.contract.first.tree:
            return [Contradiction(at=said(ran.sizes), expected="the same containers and dtypes", found="others")]
        return self._wrong(ran.sizes, ran.shapes)

    def wrong_shapes(self, sizes: Mapping[str, int], found: Observation) -> list[Contradiction]:
        return self._wrong(self._batched(sizes), found.shapes)

    def _wrong(self, full: Mapping[str, int], shapes: Sequence[tuple[int, ...]]) -> list[Contradiction]:
        rows = zip(self.contract.first.paths, self.contract.dims, shapes, strict=True)
        expected = [(path, tuple(int(dim.evaluate(full)) for dim in dims), shape) for path, dims, shape in rows]
        return [
            Contradiction(path=path, at=said(full), expected=str([*by_dims]), found=f"{[*shape]} in a real run")
            for path, by_dims, shape in expected
            if by_dims != shape
        ]

    def _wrong_values(
        self, sizes: Mapping[str, int], before: Sequence[torch.Tensor], found: Observation
    ) -> list[Contradiction]:
        """Outputs whose values differ from those of the run before."""
        rows = zip(self.contract.first.paths, before, found.tensors, strict=True)
        return [
            Contradiction(path=path, at=said(sizes), expected=_EQUAL_VALUES, found="other values")
            for path, left, right in rows
            if not are_equal(left, right)
        ]

    def _batched(self, sizes: Mapping[str, int]) -> dict[str, int]:
        full = self.contract.axes.example | dict(sizes)
        return full | {"B": self.batch} if "B" in self.contract.steps else full

    def _shapes(self, sizes: Mapping[str, int]) -> list[tuple[int, ...]]:
        return self.contract.axes.shapes(self._batched(sizes))


_OUTPUTS = "outputs, as in the probes"
_EQUAL_VALUES = "equal values in two runs on one input"


def said(sizes: Mapping[str, int]) -> str:
    """The size of the input as text, without samples and channels: `224 x 224`."""
    return " x ".join(str(size) for name, size in sizes.items() if name[0] not in "BC") or "the example"


def _by_place(found: Sequence[Contradiction]) -> list[Contradiction]:
    """The first contradiction of each output."""
    return list({one.path: one for one in reversed(found)}.values())[::-1]


def contiguous_in_both(first: Observation, confirmed: Observation | None) -> tuple[str, ...]:
    """The outputs whose memory is contiguous, also with values: convolutions on meta forget that channels come last."""
    real = dict(zip(confirmed.paths, confirmed.contiguous, strict=True)) if confirmed else {}
    rows = zip(first.paths, first.contiguous, strict=True)
    return tuple(name for name, dense in rows if dense and real.get(name, True))
