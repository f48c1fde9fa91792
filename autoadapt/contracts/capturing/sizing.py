"""Sizing: names for the input axes, which sizes of them are legal, and which to probe."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import torch

from autoadapt.contracts.capturing.graph_axes import ENDS, ONE, InputAxes, graph_axes
from autoadapt.contracts.capturing.graph_sizes import graph_sizes
from autoadapt.contracts.capturing.likely_masks import is_binary, is_of_pairs, may_be_lengths, may_hide
from autoadapt.contracts.capturing.probing import Observation, Shape

Run: TypeAlias = Callable[[Mapping[str, int]], Observation | None]
"""Runs the module at sizes of the input axes; None where it raises."""

Steps: TypeAlias = dict[str, int]
"""Axes that may vary, each with its step, the distance between legal sizes."""

Names: TypeAlias = tuple[tuple[str, ...], ...]
"""For each input the names of the axes along which to follow cells, empty for others."""

LONG_STEP = 6720  # 2^6 * 3 * 5 * 7: a multiple of nearly every stride, window and patch in use
_LETTERS = {1: "B", 2: "BN", 3: "BNC", 4: "BCHW", 5: "BCTHW"}


def name_axes(tensors: Sequence[torch.Tensor], samples: int = 0) -> InputAxes:
    """Name the axes by the usual layouts: `B,C,H,W` for four axes, `B,N,C` for three, `B,H,W` for integers.

    `[B, N]` beside a mask of the same shape, such as a waveform, has tokens or samples and no channels. For graphs,
    whose `edge_index` is `[2, E]`, first axes of that size are `N` or `E`. Axes of several inputs get one name where
    letter and size agree, or where another input has an axis of that size but for batch and channels.

    Args:
        tensors: The inputs.
        samples: The number of samples, where it is known to be on the second axis: `N,B,C`, `T,B,C,H,W`.
    """
    if graph := graph_sizes(tensors):
        return graph_axes(tensors, graph)
    example: dict[str, int] = {}
    names = dict[int, tuple[str, ...]]()
    pairs = set[int]()
    for i, tensor in reversed([*enumerate(tensors)]):
        if is_of_pairs(tensor, [one for j, one in enumerate(tensors) if j != i and j not in pairs]):
            pairs.add(i)
    for position in sorted(range(len(tensors)), key=lambda i: (i in pairs, _is_vague(tensors[i]))):
        tensor, taken = tensors[position], list[str]()
        if position in pairs:
            *lead, read, size = tensor.shape
            tokens = _name("N", size, example, ())
            batch = [_name("B", one, example, ()) for one in lead[:1]]
            example |= dict(zip([*batch, ONE], [*lead[:1], 1], strict=False))
            names[position] = (*batch, *[ONE] * (len(lead) - 1), tokens if read == size else ONE, tokens)
            continue
        letters = "BN" if _is_beside_mask(position, tensors) else _letters(tensor)
        if samples and is_sequence(position, tensors) and tensor.shape[1] == samples:
            letters = f"TB{letters[2:]}" if len(letters) == 5 else "NBC"[: len(letters)]
        for letter, size in zip(letters, tensor.shape, strict=True):
            taken.append(_name(letter, size, example, taken))
            example[taken[-1]] = size
        names[position] = tuple(taken)
    return InputAxes(tuple(names[position] for position in range(len(tensors))), example)


def _is_beside_mask(position: int, tensors: Sequence[torch.Tensor]) -> bool:
    """Whether a tensor of two axes may be a mask of another input, or have such a mask."""
    tensor = tensors[position]
    if tensor.dim() != 2:
        return False
    others = [other for i, other in enumerate(tensors) if i != position]
    masks = any(other.shape == tensor.shape and is_binary(other) for other in others)
    masks = masks or any(may_be_lengths(one, tensor.shape[1]) and one.max() in (1.0, tensor.shape[1]) for one in others)
    beside = any(other.dim() in (2, 3) and other.shape[:2] == tensor.shape for other in others)
    return masks or (beside and is_binary(tensor))


def is_sequence(position: int, tensors: Sequence[torch.Tensor]) -> bool:
    """Whether an input may be a batch of sequences or clips, batch first or second, and no mask."""
    tensor = tensors[position]
    if tensor.dim() == 5:
        return _letters(tensor)[:2] == "BT"
    hides = len(tensors) > 1 and may_hide(tensor)
    return tensor.dim() == (3 if tensor.is_floating_point() else 2) and not hides


def _is_vague(tensor: torch.Tensor) -> bool:
    """Whether either of two axes may list channels; the axes of such inputs are named last, after the others'."""
    axes = tensor.shape[1:]
    return tensor.dim() == 3 and tensor.is_floating_point() and not (_few(axes[0], axes[1:]) or _few(axes[1], axes[:1]))


def settle_letters(axes: InputAxes, run: Run, run_shapes: Callable[[Sequence[Shape]], bool]) -> InputAxes:
    """Exchange the names of points and channels where runs show that they are the other way round.

    The number of points may vary and that of channels may not; where both may, outputs depend on the points. The same
    holds for the frames of clips.

    Args:
        axes: Axes as `name_axes` named them.
        run: Runs the module.
        run_shapes: Whether the module runs at these shapes of its inputs.
    """
    for position, names in enumerate(axes.names):
        channels, points = (next((name for name in names if name[0] in letters), "") for letters in ("C", "NT"))
        if len(names) not in (3, 5) or not channels or not points or _shared(axes, position, channels):
            continue
        if _shared(axes, position, points):
            axes = _settled_beside(axes, position, channels, points, run_shapes)
        elif _stand_exchanged(axes, channels, points, run):
            axes = _exchanged(axes, channels, points)
    return axes


def _stand_exchanged(axes: InputAxes, channels: str, points: str, run: Run) -> bool:
    """Whether the axis called channels lists points or frames, where no other input has one of the two axes."""
    rows = [run({**axes.example, name: axes.example[name] + 1}) for name in (channels, points)]
    if rows == [None, None]:
        rows = [run({**axes.example, name: 2 * axes.example[name]}) for name in (channels, points)]
    first = run(axes.example)
    if rows[0] is None or first is None:
        return False
    follows = [row is not None and row.shapes != first.shapes for row in rows]
    return rows[1] is None or follows == [True, False]


def _settled_beside(
    axes: InputAxes, position: int, channels: str, points: str, run_shapes: Callable[[Sequence[Shape]], bool]
) -> InputAxes:
    """The names that allow more points, where there are as many channels, and another input has the points too."""
    grown = {points: axes.example[points] + 1}
    if axes.example[channels] != axes.example[points] or run_shapes(axes.shapes(grown)):
        return axes
    row = _exchanged(axes, channels, points).names[position]
    other = replace(axes, names=(*axes.names[:position], row, *axes.names[position + 1 :]))
    return other if run_shapes(other.shapes(grown)) else axes


def _shared(axes: InputAxes, position: int, name: str) -> bool:
    return any(name in row for i, row in enumerate(axes.names) if i != position)


def _exchanged(axes: InputAxes, left: str, right: str) -> InputAxes:
    """The same axes, with two names exchanged."""
    other = {left: right, right: left}
    names = tuple(tuple(other.get(name, name) for name in row) for row in axes.names)
    return InputAxes(names, {other.get(name, name): size for name, size in axes.example.items()})


def _letters(tensor: torch.Tensor) -> str:
    """Names for the axes of an input tensor, guessed from its shape and dtype."""
    if tensor.dim() == 3 and not tensor.is_floating_point():
        return "BHW"
    if tensor.dim() == 4 and tensor.is_floating_point() and _few(tensor.shape[3], tensor.shape[1:3]):
        return "BHWC"
    if tensor.dim() == 5 and tensor.is_floating_point():
        return _clip_letters(tensor.shape)
    if tensor.dim() == 3 and _few(tensor.shape[1], tensor.shape[2:]):
        return "BCN"
    if tensor.dim() == 2 and tensor.is_floating_point():
        return "BC"
    return _LETTERS.get(tensor.dim(), "BCDEFGHIJK"[: tensor.dim()])


def _clip_letters(shape: Sequence[int]) -> str:
    """Axes of a clip or volume: channels first, unless an axis of few channels is behind the frames or at the end."""
    if shape[1] == RGB:
        return "BCTHW"
    if _few(shape[4], shape[1:4]) or (shape[4] == RGB and _few(RGB, shape[2:4])):
        return "BTHWC"
    return "BTCHW" if shape[2] == RGB else "BCTHW"


RGB = 3
COLOURS = (1, 3, 4, 6)
"""Channels of images and of clouds of points: grey, RGB or xyz, with alpha or intensity, with normals."""


def _few(channels: int, cells: Sequence[int]) -> bool:
    """Whether an axis is likely the channels of an input: of a usual number that is far below the other axes."""
    return channels in COLOURS and min(cells) >= 4 * channels


def _name(letter: str, size: int, example: Mapping[str, int], taken: Sequence[str]) -> str:
    """The name of an axis: one with this letter and size, another one of this size, or a new one."""
    fresh = (letter, *(f"{letter}{i}" for i in range(2, 99)))
    same_letter = [name for name in example if name.rstrip("0123456789") == letter]
    others = [name for name in example if letter != "B" and name[0] not in "BC"]
    for name in (*same_letter, *others):
        if example[name] == size and name not in taken:
            return name
    return next(name for name in fresh if name not in example)


def untie(axes: InputAxes, run_shapes: Callable[[Sequence[Shape]], bool], binary: Collection[int] = ()) -> InputAxes:
    """Give inputs axes of their own where the module runs if these vary alone, or together with other inputs.

    Not masks: they stay as long as the input that they hide, though much code takes any length.

    Args:
        axes: Axes as `name_axes` named them.
        run_shapes: Whether the module runs at these shapes of its inputs.
        binary: Indices of inputs that may be masks.
    """
    for position in (i for i in range(1, len(axes.names)) if i not in binary):
        for name in dict.fromkeys(n for n in axes.names[position] if n[0] not in "BC" and n not in (ENDS, ONE)):
            rows = [i for i, row in enumerate(axes.names) if name in row]
            firm = {*rows} - {*binary}
            if min(firm) == position:
                continue
            beside = sorted((i for i in rows if i != position), key=lambda i: (i < position, abs(i - position)))
            groups = [[position], *([position, i] for i in beside), [i for i in rows if i >= position]]
            for group in groups:
                if firm - {*group} and run_shapes(_longer(axes, name, group)):
                    axes = _renamed(axes, name, group)
                    break
    return axes


def _longer(axes: InputAxes, name: str, group: Collection[int]) -> list[Shape]:
    """The shapes of the inputs, with an axis longer by one in those of a group."""
    rows = enumerate(zip(axes.names, axes.shapes({}), strict=True))
    return [tuple(n + (i in group and one == name) for one, n in zip(*row, strict=True)) for i, row in rows]


def _renamed(axes: InputAxes, old: str, group: Collection[int]) -> InputAxes:
    """The axes, with a new name for one of them in the inputs of a group."""
    letter = old.rstrip("0123456789")
    new = next(f"{letter}{i}" for i in range(2, 99) if f"{letter}{i}" not in axes.example)
    names = tuple(
        tuple(new if i in group and name == old else name for name in row) for i, row in enumerate(axes.names)
    )
    return replace(axes, names=names, example=axes.example | {new: axes.example[old]})


# Offsets from the base in units of the step, one column for each run; "L" is a long step. Each axis has its own row, so
# that axes vary in different ways.
_SCHEDULE = ((1, "L", -1, 2), ("L", -1, 1, 3), (-1, 2, "L", 1), (2, 1, 3, "L"))


def probing_sizes(base: Mapping[str, int], steps: Steps, *, long_step: int) -> list[dict[str, int]]:
    """The sizes to fit on, besides the base itself.

    Args:
        base: The size of every input axis.
        steps: The axes that may vary.
        long_step: Length of the long step; may be negative.
    """
    chosen = []
    varying = list(steps)
    for round_ in range(4):
        sizes = dict(base)
        for position, name in enumerate(varying):
            sizes[name] = (
                _batch(base[name], round_)
                if name == "B"
                else base[name] + _offset(_SCHEDULE[position % len(_SCHEDULE)][round_], steps[name], long_step)
            )
        chosen.append({name: max(size, 1) for name, size in sizes.items()})
    return chosen


def _batch(size: int, round_: int) -> int:
    return (size + 1, size + 3, size - 1 if size > 1 else size + 2, size)[round_]


def _offset(offset: int | str, step: int, long_step: int) -> int:
    units = offset if isinstance(offset, int) else long_step // step
    return units * step


def held_out_sizes(base: Mapping[str, int], steps: Steps, *, attempt: int = 0) -> list[list[dict[str, int]]]:
    """Sizes to check fitted forms on: for each of two checks a list of sizes to try until one is legal.

    A module that joins levels after upsampling them by 2 takes only some sizes, in periodic ranges such as 26 to 33 of
    each 32, at most half of all. Where the sizes next to the base are in such a range, the first large size is chosen
    to lie outside of it, for periods up to 32.

    Args:
        base: The size of every input axis.
        steps: The axes that may vary.
        attempt: Another number gives other sizes.
    """

    def scaled(numerator: int, denominator: int, shift: int) -> dict[str, int]:
        sizes = dict(base)
        for position, (name, step) in enumerate(steps.items()):
            size = base[name] * numerator // denominator + shift * (position + 1) + attempt * (position + 2)
            near = size + (base[name] - size) % step
            sizes[name] = max(near, 1 if step == 1 else near % step or step)
        return sizes

    small = [scaled(1, 7, 1), scaled(2, 7, 5), scaled(3, 7, 3), scaled(4, 7, 1)]
    large = [scaled(15, 7, 3), scaled(11, 7, 1), scaled(9, 7, 2)]
    if attempt == 0:
        large[0] = large[0] | _beside_runs(base, steps, large[0])
    return [small, large]


_RUNS = (16, 32)
"""The periods of ranges of legal sizes that the first large size avoids, in turn for the axes."""


def _beside_runs(base: Mapping[str, int], steps: Steps, sizes: Mapping[str, int]) -> dict[str, int]:
    """The next sizes from the given ones on that are half a period plus one from the base, modulo the period."""
    cells = [name for name, step in steps.items() if step == 1 and name[0] not in "BC"]
    return {
        name: sizes[name] + (base[name] + period // 2 + 1 - sizes[name]) % period
        for name, period in zip(cells, itertools.cycle(_RUNS), strict=False)
    }
