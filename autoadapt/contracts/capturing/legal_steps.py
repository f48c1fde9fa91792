"""Legal steps: the distances between sizes that a module takes, of each axis of its inputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from autoadapt.contracts.capturing.graph_axes import ENDS, ONE, InputAxes
from autoadapt.contracts.capturing.sizing import LONG_STEP, Run, Steps, probing_sizes


def find_steps(
    run: Run, axes: InputAxes, *, long_steps: Sequence[int] = (LONG_STEP,), likely_steps: Sequence[int] = ()
) -> Steps:
    """The axes that may vary, with their steps.

    First all axes but channels vary by single cells together, which is enough for most models, for images at sizes that
    are probed anyway; then by whole patches, and then each alone. For an axis that refuses one cell, longer steps are
    tried, and the first that runs is divided by primes while it still runs.

    Args:
        run: Runs the module.
        axes: Its input axes.
        long_steps: Steps to try last.
        likely_steps: Steps to try before, such as sizes of patches.
    """
    example = axes.example
    likely = [name for name in example if name[0] != "C" and name not in (ENDS, ONE)]
    steps: Steps = {}
    longer = {**example, **{name: example[name] + 1 for name in likely}}
    if likely and run(_probed_anyway(example, likely, 1) or longer) is not None:
        steps = dict.fromkeys(likely, 1)
    patches = [step for step in dict.fromkeys((*likely_steps[:1], *likely_steps[-1:])) if step > 1 and not steps]
    together = {step: _probed_anyway(example, likely, step) for step in patches}
    whole = next((step for step, sizes in together.items() if sizes and run(sizes) is not None), None)
    if whole is not None:
        steps["B"] = 1
    for name in example:
        if name not in (*steps, ENDS, ONE) and run({**example, name: example[name] + 1}) is not None:
            steps[name] = 1
    for name in likely:
        if name not in steps:
            guesses = [*dict.fromkeys((*steps.values(), *likely_steps)), *long_steps]
            step = _find_step(run, name, example, guesses, known=whole)
            if step is not None:
                steps[name] = step
    return {name: steps[name] for name in example if name in steps}


def _probed_anyway(example: Mapping[str, int], likely: Sequence[str], step: int) -> Mapping[str, int] | None:
    """Sizes of images that are probed where all axes but that of samples have a step, and vary; None for others."""
    steps = {name: 1 if name == "B" else step for name in likely}
    sizes = probing_sizes(example, steps, long_step=0)[1]
    moved = {name: sizes[name] - example[name] for name in likely}
    is_whole = all(far and far % steps[name] == 0 for name, far in moved.items())
    return sizes if is_whole and {"B", "H", "W"} <= moved.keys() else None


def _find_step(
    run: Run, name: str, example: Mapping[str, int], guesses: Sequence[int], *, known: int | None = None
) -> int | None:
    """The step of an axis that refuses to grow by one; None where no guess runs.

    Args:
        run: Runs the module.
        name: The axis.
        example: Sizes that run.
        guesses: Steps to try.
        known: A step that is legal, if one is known.
    """

    def legal(step: int) -> bool:
        return run({**example, name: example[name] + step}) is not None

    found = known or next((guess for guess in guesses if guess > 1 and legal(guess)), None)
    if found is None:
        return None
    for prime in (2, 3, 5, 7):
        while found % prime == 0 and found > prime and legal(found // prime):
            found //= prime
    return found


STEP_GUESSES = (1, 2, 4, 7, 8, 14, 16, 28, 32, 48, 56, 64, 96, 112, 128, 192, 224, 256, 384, 448)


def find_regular_steps(run: Run, axes: InputAxes, steps: Steps) -> Steps:
    """As `find_steps`, for modules that take some consecutive sizes and refuse larger ones.

    A step counts only if several multiples of it run; an axis without such a step may not vary.

    Args:
        run: Runs the module.
        axes: Its input axes.
        steps: The result of `find_steps`, with which some sizes did not run.
    """
    example = axes.example
    found: Steps = {}

    def legal(name: str, step: int) -> bool:
        return all(run({**example, name: example[name] + step * units}) is not None for units in (1, 3, 9, 16, 37))

    for name in steps:
        usual = sorted({*STEP_GUESSES, steps[name]})
        guesses = dict.fromkeys([*(step for step in found.values() if step > 1), *usual])
        step = next((guess for guess in guesses if legal(name, guess)), None)
        if step is not None:
            found[name] = step
    return found
