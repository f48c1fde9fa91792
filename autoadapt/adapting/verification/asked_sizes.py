"""Asked sizes: checks of the arguments `sizes` and `batches` of `verify`, and the sizes where none are asked."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from autoadapt.contracts.instances import is_whole
from autoadapt.contracts.signature import AxisSizes, Signature
from autoadapt.errors import Mismatch, VerificationError, nearest


def checked_sizes(signature: Signature, sizes: object) -> list[dict[str, int]]:
    """The argument `sizes`: sizes of input axes by name, one mapping for each run.

    Raises:
        VerificationError: They are no mappings, or have unknown axes or illegal sizes.

    Example:
        >>> from autoadapt.contracts.signature import Values
        >>> written = Signature(name="M", inputs=Values.parse("f32[B, 3, W]"), outputs=Values.parse("f32[B, W]"))
        >>> checked_sizes(written.model_copy(update={"axes": {"W": AxisSizes(example=64)}}), [{"W": 65}])
        [{'W': 65}]
    """
    axes = {name: axis for name, axis in signature.axes.items() if name != "B"}
    if not isinstance(sizes, Sequence) or not sizes or not all(isinstance(one, Mapping) for one in sizes):
        example = ", ".join(f'"{name}": {axis.example}' for name, axis in axes.items())
        fault = Mismatch("`sizes`", "sizes by axis, one mapping for each run", repr(sizes), f"sizes=[{{{example}}}]")
        raise VerificationError("`sizes` cannot be run", [fault])
    faults = [fault for one in sizes for name, size in one.items() for fault in _faults(axes, name, size)]
    if faults:
        raise VerificationError("`sizes` cannot be run", faults)
    return [dict(one) for one in sizes]


def _faults(axes: Mapping[str, AxisSizes], name: object, size: object) -> Iterator[Mismatch]:
    where = f"`sizes`, {name}"
    if name == "B":
        yield Mismatch(where, "sizes of batches by themselves", f"B={size}", f"batches=({size},)")
    elif name not in axes:
        close = nearest(str(name).upper(), axes)
        remedy = f'sizes=[{{"{close[0]}": {size}}}]' if close else ""
        yield Mismatch("`sizes`", f"an axis of the input: {', '.join(axes) or 'none varies'}", str(name), remedy)
    elif not _is_legal(axes[str(name)], size):
        yield Mismatch(where, str(axes[str(name)]), repr(size), f'sizes=[{{"{name}": {axes[str(name)].example}}}]')


def _is_legal(axis: AxisSizes, size: Any) -> bool:
    """Whether a size is legal; it may be below the smallest that was seen to run."""
    return is_whole(size, 1) and (size == axis.example if axis.step == 0 else size % axis.step == axis.offset)


def checked_batches(batches: object) -> list[int]:
    """The argument `batches`: batch sizes.

    Raises:
        VerificationError: They are no positive integers, or there are none.
    """
    numbers: list[Any] = list(batches) if isinstance(batches, Sequence) else [batches]
    positive = [str(one) for one in numbers if is_whole(one, 1)] or ["1", "3"]
    if not isinstance(batches, Sequence) or not numbers or not all(is_whole(one, 1) for one in numbers):
        remedy = f"batches=({', '.join(positive)}{',' if len(positive) == 1 else ''})"
        fault = Mismatch("`batches`", "positive integers, at least one", repr(batches), remedy)
        raise VerificationError("`batches` cannot be run", [fault])
    return numbers


def chosen_sizes(axes: Mapping[str, AxisSizes], example: Mapping[str, int], seed: int) -> list[dict[str, int]]:
    """Up to six rows of legal sizes, different for each axis: the example's, small ones, some near it, a random one."""
    generator = random.Random(seed)
    varying = [name for name in axes if name != "B"]

    def row(change: Callable[[int, int], int]) -> dict[str, int]:
        return {name: axes[name].near(max(change(example[name], i), 1)) for i, name in enumerate(varying)}

    rows = [
        row(lambda size, _: size),
        row(lambda size, i: size // 7 + 1 + 16 * i),
        row(lambda size, i: size * 3 // 7 + 1 + 34 * i),
        row(lambda size, i: size + (1 if i % 2 == 0 else -1)),
        row(lambda size, i: size - 3 - 21 * (i % 2)),
        row(lambda size, _: generator.randint(size // 3 + 1, size + size // 8 + 1)),
    ]
    return [dict(items) for items in dict.fromkeys(tuple(one.items()) for one in rows)]
