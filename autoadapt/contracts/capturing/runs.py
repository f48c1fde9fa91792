"""Runs: a module run at chosen sizes of its input axes, each size once, and what is learned from their shapes."""

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
from autoadapt.contracts.capturing.point_axes import PointAxes
from autoadapt.contracts.capturing.probing import InnerKey, Observation, Probe, ProbeError, Shape
from autoadapt.contracts.capturing.sizing import (
    LONG_STEP,
    InputAxes,
    Names,
    Steps,
    find_regular_steps,
    find_steps,
    held_out_sizes,
    probing_sizes,
)
from autoadapt.contracts.capturing.solving import Solution, UnexplainedError, solve
from autoadapt.contracts.instances import parameters_of_parts, parts_of
from autoadapt.contracts.signature import AxisSizes

__all__ = ["Runs", "ValuesNeededError"]


_Sizes: TypeAlias = tuple[tuple[str, int], ...]


class ValuesNeededError(Exception):
    """The module runs on the meta device at the given size alone, as with anchors that it keeps from its last call."""


class Runs:
    """The runs of one capture.

    Args:
        module: The module; never run itself.
        probe: Runs a copy of it.
        axes: The axes of its inputs.
        first: What came out at the example.
        followed: Which axes were followed in that run.
        shrinks: Go from a small part of the example and stay near it, as runs that need values take time and memory.
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
        self._cache: dict[_Sizes, Observation | None] = {_full(axes, {}): first}
        self._grids: dict[tuple[_Sizes, Names], Observation | None] = {(_full(axes, {}), followed): first}

    def run(self, sizes: Mapping[str, int]) -> Observation | None:
        """What comes out at sizes of the input axes, the example's where left out; None where the module raises."""
        full = _full(self.axes, sizes)
        if dict(full).get("N", 0) < self.probe.graphs:  # as many graphs need as many nodes
            return None
        if full not in self._cache:
            try:
                self._cache[full] = self.probe.run(self.axes.shapes(sizes))
            except ProbeError as error:
                self._refuse_for_want_of_values(error)
                self._cache[full] = None
        return self._cache[full]

    def _run_followed(self, sizes: Mapping[str, int], names: Names) -> Observation | None:
        """As `run`, noting where cells lie: the same run serves both. None where the module raises under that."""
        full = _full(self.axes, sizes)
        if (full, names) not in self._grids:
            self._grids[full, names] = None
            with contextlib.suppress(ProbeError):
                found = self._grids[full, names] = self.probe.run(self.axes.shapes(sizes), follow=names)
                self._cache.setdefault(full, found)
        return self._grids[full, names]

    def runs_at(self, shapes: list[Shape] | Any) -> bool:
        """Whether the module runs at shapes of its inputs."""
        try:
            self.probe.run(shapes)
        except ProbeError as error:
            self._refuse_for_want_of_values(error)
            return False
        return True

    def _refuse_for_want_of_values(self, error: ProbeError) -> None:
        """Raise where the meta device is to blame, and the module could run for real."""
        without_values = any(parameter.is_meta for parameter in parameters_of_parts(self._module))
        if not (without_values or self.probe.real) and "meta" in str(error):
            raise ValuesNeededError from error

    def where_to_probe(self) -> tuple[dict[str, int], Steps]:
        """Sizes to probe beside, and which axes may vary there, by how much at least.

        Those are the given sizes; but where values are needed the smallest part of them that still runs, and of tokens
        of which there may be no more, as where there are no more positions.
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
        """Which sizes of each axis that may vary are legal, or the only one.

        Args:
            varying: These axes, and by how much at least.
            solution: What was found.
            base: Sizes that were probed beside.
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
        """The largest number of tokens, by halving; None where many more run, or where that was not in question.

        Where values are needed, which may take long, of words alone.
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
        """Which axes may vary, and by how much at least.

        Where sizes in a row run and only one further on is refused, that may also be an upper limit: what then has no
        regular step keeps the one it had.
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
        """The sizes next above the base that are whole steps from the given ones; those where they do not run."""
        example = self.axes.example
        sizes = {name: size + (example[name] - size) % steps.get(name, 1) for name, size in base.items()}
        return sizes if self.run(sizes) is not None else example

    def schedule(self, base: Mapping[str, int], steps: Steps) -> list[dict[str, int]]:
        """Sizes to probe, legal ones if the steps are right."""
        return probing_sizes(base, steps, long_step=self._far)

    def _far_steps(self) -> tuple[int, ...]:
        """Long steps to probe with, the best first; of tokens there may be few more than are given."""
        if any(len(names) > 3 for names in self.axes.names):
            return (64 if self._shrinks else LONG_STEP,)
        return (64 if self._shrinks else LONG_STEP // 16, 16, 5)

    def _runs_far(self, base: Mapping[str, int], steps: Steps, far: int) -> bool:
        """Whether all sizes to probe with a long step run, which is kept then."""
        chosen = probing_sizes(base, steps, long_step=far)
        self._far = far if (run := all(self.run(sizes) is not None for sizes in chosen)) else self._far
        return run

    def solved(self, base: dict[str, int], steps: Steps) -> tuple[Steps, Solution]:
        """Which axes may vary, and dims that hold at every size seen.

        Axes of which longer ones would give more samples, as `reshape(-1, K)` of a module of one size lets them, do
        not count among those that may vary.
        """
        try:
            return steps, self.solution(base, steps)
        except UnexplainedError:
            kept = {name: step for name, step in steps.items() if name == "B" or not self._regroups(base, name)}
            if kept == steps:
                raise
            return kept, self.solution(base, kept)

    def _regroups(self, base: Mapping[str, int], name: str) -> bool:
        """Whether outputs of as many samples as there are have others where an axis is twice as long."""
        first, longer = self.run(base), self.run({**base, name: 2 * base[name]})
        samples = base.get("B")
        if first is None or longer is None or any(shape[:1] != (samples,) for shape in first.shapes):
            return False
        return any(shape[:1] != (samples,) for shape in longer.shapes)

    def solution(self, base: dict[str, int], steps: Steps) -> Solution:
        """Dims that hold at every size seen."""
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
        """Runs at two sizes, odd and even where both are legal, in which it is noted where cells lie.

        What runs for real, which may take long, runs once more only.
        """
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
        """What was found of a module of one length in terms of its frames, which are told from channels from then on.

        None where it is none, or nothing tells frames from channels.

        Args:
            steps: Which axes may vary.
            solution: What was found so far.
            arguments: A call to run it for real with, where numbers do not tell; None where that is not wanted.
        """

        def told(
            axes: InputAxes, keys: Sequence[InnerKey | int], *, alone: bool = False
        ) -> Mapping[InnerKey | int, int]:
            """Which axis of each of some tensors lists frames, where the input is read so."""
            found = PointAxes(self._module, arguments, axes, self.probe.work, is_fixed=True) if arguments else None
            return found.frames(keys, alone=alone) if found is not None else {}

        readings = with_frames(self.axes, self._module) if {*steps} == {"B"} and not self._shrinks else []
        if len(readings) > 1:  # those are frames that are answered one by one
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
        """Height and width, with a step of 0, where the module takes one size only; time as well, if it is fixed.

        Or the frames of a module of one length.
        """
        images = [names for names in self.axes.names if {"H", "W"} <= set(names)]
        if not images or "H" in steps or "W" in steps:
            return {FRAMES: 0} if self.of_one_length and FRAMES not in steps else {}
        return {name: 0 for name in ("T", "H", "W") if name in images[0] and name not in steps}


def _patches(module: nn.Module) -> list[int]:
    """Sides of the patches that layers cut their input into, the largest first, and one of all of them in a row."""
    layers = [part for part in parts_of(module) if isinstance(part, (nn.Conv1d, nn.Conv2d, nn.Conv3d))]
    found = [one.stride[-1] for one in layers if one.stride[-1] > 1 and one.stride == one.kernel_size]
    return [*sorted({*found}, reverse=True), math.prod(found)]


_REACH_FOR_REAL = 1024
"""How far above the base a module is run for real, since images of ten times that take all the memory."""
_SMALL = 2**16
"""What sizes may come to in such a run, multiplied, where four times the example is less."""


def _full(axes: InputAxes, sizes: Mapping[str, int]) -> _Sizes:
    return tuple((axes.example | dict(sizes)).items())


def _shrunk(name: str, size: int, part: int) -> int:
    if name == "B":
        return min(size, 2)
    return size if name[0] == "C" else max(size // part, min(size, 4))
