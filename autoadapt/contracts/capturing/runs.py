"""Runs: a module run at chosen sizes of its input axes, and what their shapes show: legal sizes, and dims."""

from __future__ import annotations

import bisect
import contextlib
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.capturing.cells import Run
from autoadapt.contracts.capturing.fixed_sequences import FRAMES, in_frames, unread_frames, with_frames
from autoadapt.contracts.capturing.graph_axes import InputAxes
from autoadapt.contracts.capturing.inner_leaves import InnerKey
from autoadapt.contracts.capturing.legal_steps import find_regular_steps, find_steps
from autoadapt.contracts.capturing.point_axes import PointAxes
from autoadapt.contracts.capturing.probing import Observation, Probe, ProbeError, Shape
from autoadapt.contracts.capturing.sizing import (
    LONG_STEP,
    Names,
    Steps,
    held_out_sizes,
    probing_sizes,
)
from autoadapt.contracts.capturing.solving import Solution, UnexplainedError, solve
from autoadapt.contracts.instances import parameters_of_parts, parts_of
from autoadapt.contracts.layer_kinds import CONVOLUTIONS
from autoadapt.contracts.signature import AxisSizes

_Sizes: TypeAlias = tuple[tuple[str, int], ...]


class ValuesNeededError(Exception):
    """The module fails on the meta device at other sizes than the example's, though it may run for real."""


class OneSizeError(Exception):
    """The module raises on larger images than the example, which only a run with values shows."""


class Runs:
    """The runs of one capture, each size once.

    Args:
        module: The module; only a copy of it runs.
        probe: Runs a copy of it.
        axes: The axes of its inputs.
        first: The run at the example.
        followed: The axes along which cells were followed in that run.
        shrinks: Use sizes well below the example and near each other, since real runs take time and memory.
    """

    def __init__(
        self,
        module: nn.Module,
        probe: Probe,
        axes: InputAxes,
        first: Observation,
        *,
        followed: Names = (),
        shrinks: bool,
    ) -> None:
        self._module = module
        self._shrinks = shrinks
        self.probe = probe
        self.axes = axes
        self.of_one_length = False
        self._far = self._far_steps()[0]
        self._known = first.inner
        self._cache: dict[_Sizes, Observation | None] = {_full(axes, {}): first}
        self._grids: dict[tuple[_Sizes, Names], Observation | None] = {(_full(axes, {}), followed): first}

    def run(self, sizes: Mapping[str, int]) -> Observation | None:
        """The run at some sizes, with those of the example for axes left out; None where the module raises."""
        full = _full(self.axes, sizes)
        if dict(full).get("N", 0) < self.probe.graphs:  # as many graphs need as many nodes
            return None
        if full not in self._cache:
            try:
                self._cache[full] = self.probe.run(self.axes.shapes(sizes), known=self._known)
            except ProbeError as error:
                self._refuse_for_want_of_values(error)
                self._cache[full] = None
        return self._cache[full]

    def _run_followed(self, sizes: Mapping[str, int], names: Names) -> Observation | None:
        """As `run`, following where cells lie; the run is cached for both. None where the module raises."""
        full = _full(self.axes, sizes)
        if (full, names) not in self._grids:
            self._grids[full, names] = None
            with contextlib.suppress(ProbeError):
                found = self._grids[full, names] = self.probe.run(
                    self.axes.shapes(sizes), follow=names, known=self._known
                )
                self._cache.setdefault(full, found)
        return self._grids[full, names]

    def runs_at(self, shapes: list[Shape] | Any) -> bool:
        """Whether the module runs at these shapes of its inputs."""
        try:
            self.probe.run(shapes, known=self._known)
        except ProbeError as error:
            self._refuse_for_want_of_values(error)
            return False
        return True

    def _refuse_for_want_of_values(self, error: ProbeError) -> None:
        """Raise `ValuesNeededError` where the meta device caused an error and the module could run for real."""
        without_values = any(parameter.is_meta for parameter in parameters_of_parts(self._module))
        if not (without_values or self.probe.real) and "meta" in str(error):
            raise ValuesNeededError from error

    def where_to_probe(self) -> tuple[dict[str, int], Steps]:
        """The base, the sizes around which to probe, and the axes that may vary from there, with their steps.

        The base is the example; where values are needed, the smallest fraction of it that still runs. So it is for
        tokens of which the module takes no more than the example has, for lack of positions.
        """
        example = self.axes.example
        steps = {} if self._shrinks else self.steps(example)
        shrinking = [name for name in example if self._shrinks or (name[0] == "N" and name not in steps)]
        for part in (8, 4, 2) if shrinking and "E" not in steps else ():
            sizes = {name: _shrunk(name, size, part) if name in shrinking else size for name, size in example.items()}
            sizes |= {name: max(sizes[name], min(self.probe.graphs + 1, example[name])) for name in {"N"} & {*sizes}}
            if self.run(sizes) is not None:
                return sizes, self.steps(sizes)
        return example, steps or self.steps(example)

    def legal(self, varying: Mapping[str, int], solution: Solution, base: Mapping[str, int]) -> dict[str, AxisSizes]:
        """The legal sizes of each axis in `varying`.

        Args:
            varying: The axes with their steps; 0 for an axis of one size.
            solution: The dims that were found.
            base: The base of the probes.
        """
        return {
            name: AxisSizes(
                step=varying[name],
                offset=example % varying[name] if varying[name] else 0,
                smallest=max(solution.smallest.get(name, example), self.probe.graphs if name == "N" else 1),
                example=example,
                bounded=solution.bounded and name in ("H", "W") and varying[name] > 0,
                largest=self._largest(name, base, varying[name]),
            )
            for name, example in self.axes.example.items()
            if name in varying
        }

    def _largest(self, name: str, base: Mapping[str, int], step: int) -> int | None:
        """The largest number of tokens, by bisection; None where many more run, or the axis lists no tokens.

        Where real runs are needed, it is searched for token ids only, since other inputs may take long.
        """
        given, far = self.axes.example[name], self._far_steps()[0]
        rows = zip(self.axes.names, self.probe.dtypes, strict=True)
        is_costly = self._shrinks and any(name in row and dtype.is_floating_point for row, dtype in rows)
        if name[0] != "N" or not step or (self._far == far and (is_costly or base[name] == given)):
            return None
        more = range(1, far // step + 1)
        refused = bisect.bisect_left(more, True, key=lambda i: self.run({**base, name: given + i * step}) is None)
        return None if refused == len(more) else given + refused * step

    def steps(self, base: Mapping[str, int]) -> Steps:
        """The axes that may vary, with their steps.

        Where consecutive sizes run and only a larger one is refused, the reason may be an upper limit: an axis for
        which no regular step is found then keeps its step.
        """
        around = InputAxes(self.axes.names, dict(base))
        long_steps = (96, 70) if self._shrinks else (LONG_STEP,)
        steps = find_steps(self.run, around, long_steps=long_steps, likely_steps=_patches(self._module))
        self.followed(base, steps)
        near = any(self._runs_far(base, steps, far) for far in self._far_steps())
        if near and self.run(held_out_sizes(base, steps)[1][0]) is not None:
            return steps
        return (steps if near else {}) | find_regular_steps(self.run, around, steps)

    def at_step(self, base: dict[str, int], steps: Steps) -> dict[str, int]:
        """The next sizes from the base on that are whole steps from the example; the example where they do not run."""
        example = self.axes.example
        sizes = {name: size + (example[name] - size) % steps.get(name, 1) for name, size in base.items()}
        return sizes if self.run(sizes) is not None else example

    def schedule(self, base: Mapping[str, int], steps: Steps) -> list[dict[str, int]]:
        """The sizes to probe; all of them are legal if the steps are right."""
        return probing_sizes(base, steps, long_step=self._far)

    def _far_steps(self) -> tuple[int, ...]:
        """Long steps to probe with, the best first; short ones follow for tokens, which may have an upper limit."""
        if any(len(names) > 3 for names in self.axes.names):
            return (64 if self._shrinks else LONG_STEP,)
        return (64 if self._shrinks else LONG_STEP // 16, 16, 5)

    def _runs_far(self, base: Mapping[str, int], steps: Steps, far: int) -> bool:
        """Whether all sizes to probe with a long step run; if so, that step is kept."""
        chosen = probing_sizes(base, steps, long_step=far)
        self._far = far if (run := all(self.run(sizes) is not None for sizes in chosen)) else self._far
        return run

    def solved(self, base: dict[str, int], steps: Steps) -> tuple[Steps, Solution]:
        """The axes that may vary, and dims that agree with every run.

        Where there are none, axes are left out that change the number of samples when they are twice as long, as
        `reshape(-1, K)` in a module of one size does.
        """
        try:
            return steps, self.solution(base, steps)
        except UnexplainedError:
            kept = {name: step for name, step in steps.items() if name == "B" or not self._regroups(base, name)}
            if kept == steps:
                raise
            return kept, self.solution(base, kept)

    def _regroups(self, base: Mapping[str, int], name: str) -> bool:
        """Whether the number of samples of the outputs changes where an axis is twice as long."""
        first, longer = self.run(base), self.run({**base, name: 2 * base[name]})
        samples = base.get("B")
        if first is None or longer is None or any(shape[:1] != (samples,) for shape in first.shapes):
            return False
        return any(shape[:1] != (samples,) for shape in longer.shapes)

    def solution(self, base: dict[str, int], steps: Steps) -> Solution:
        """Dims that agree with every run."""
        first = self.run(base)
        assert first is not None, "the base ran before"
        seen = [(base, first)]
        for sizes in self.schedule(base, steps):
            observation = self.run(sizes)
            if observation is not None:
                seen.append((sizes, observation))
        example = self.run(self.axes.example)
        if self._shrinks and example is not None:
            seen.append((self.axes.example, example))
        if not self._shrinks:
            return solve(self.run, base, steps, seen, reach=LONG_STEP)
        most = max(4 * math.prod(self.axes.example.values()), _SMALL)
        return solve(self.run, base, steps, seen, reach=_REACH_FOR_REAL, most=most)

    def followed(self, base: Mapping[str, int], steps: Steps) -> list[Run]:
        """Runs at two sizes, odd and even where both are legal, in which cells are followed; one if runs are real."""
        first = dict(base) if self._shrinks else self.axes.example
        varying = steps | self.fixed_image(steps)
        names = tuple(tuple(name if name in varying else "" for name in one) for one in self.axes.names)
        runs = [(first, self._run_followed(first, names))]
        others = [first | sizes for sizes in self.schedule(base, steps)]
        others.sort(key=lambda sizes: -sum((sizes[name] - size) % 2 for name, size in first.items() if name[0] != "B"))
        for sizes in () if self._shrinks else others:
            if (found := self._run_followed(sizes, names)) is not None:
                runs.append((sizes, found))
                break
        return [(sizes, found) for sizes, found in runs if found is not None]

    def in_frames(self, steps: Steps, solution: Solution, arguments: Arguments | None) -> Solution | None:
        """The dims of a module of one sequence length as functions of it; `axes` name its frames from then on.

        None where it is no such module, or nothing distinguishes frames from channels.

        Args:
            steps: The axes that may vary.
            solution: What was found so far.
            arguments: The example call for a real run, where sizes do not tell; None to do without.
        """

        def told(
            axes: InputAxes, keys: Sequence[InnerKey | int], *, alone: bool = False
        ) -> Mapping[InnerKey | int, int]:
            """The axis that lists frames, of each of some tensors, if the inputs have these axes."""
            found = PointAxes(self._module, arguments, axes, self.probe.work, is_fixed=True) if arguments else None
            return found.frames(keys, alone=alone) if found is not None else {}

        readings = with_frames(self.axes, self._module) if {*steps} == {"B"} and not self._shrinks else []
        if len(readings) > 1:  # the right one has outputs whose entries respond to frames one by one
            readings = [one for one in readings if told(one, range(len(solution.outputs)), alone=True)]
        if len(readings) != 1:
            return None
        self.axes, self.of_one_length = readings[0], True
        size = self.axes.example[FRAMES]
        for _, seen in self.followed(self.axes.example, steps)[:1]:
            unread = unread_frames(solution, seen, size)
            return in_frames(solution, seen, size, told(self.axes, unread) if unread else {})
        return solution

    def fixed_image(self, steps: Steps) -> Steps:
        """The axes of one size with a step of 0: height, width and time of an image, or the frames of a sequence."""
        images = [names for names in self.axes.names if {"H", "W"} <= set(names)]
        if not images or "H" in steps or "W" in steps:
            return {FRAMES: 0} if self.of_one_length and FRAMES not in steps else {}
        return {name: 0 for name in ("T", "H", "W") if name in images[0] and name not in steps}


def _patches(module: nn.Module) -> list[int]:
    """The sizes of non-overlapping patches that convolutions cut, the largest first, and the product of all of them."""
    layers = [part for part in parts_of(module) if isinstance(part, CONVOLUTIONS)]
    found = [one.stride[-1] for one in layers if one.stride[-1] > 1 and one.stride == one.kernel_size]
    return [*sorted({*found}, reverse=True), math.prod(found)]


_REACH_FOR_REAL = 1024
"""How far above the base a module is run for real, since larger images may take all the memory."""
_SMALL = 2**16
"""The least limit of the product of all sizes in a real run; the limit is four times that of the example."""


def _full(axes: InputAxes, sizes: Mapping[str, int]) -> _Sizes:
    return tuple((axes.example | dict(sizes)).items())


def _shrunk(name: str, size: int, part: int) -> int:
    if name == "B":
        return min(size, 2)
    return size if name[0] == "C" else max(size // part, min(size, 4))
