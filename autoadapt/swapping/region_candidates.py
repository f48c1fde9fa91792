"""Region candidates: which parts of a model that are no submodule could be its backbone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from torch import nn

from autoadapt.contracts.capturing.regions import Call, Trace, find_region, traces_of
from autoadapt.contracts.views import uncompiled
from autoadapt.errors import AdaptError
from autoadapt.swapping.watching import Example, as_example


def regions(model: nn.Module, inputs: object = None) -> list[str]:
    """The parts of a model that look like its backbone, as spans for `swap`, the longest first.

    A span begins at the first module with weights and goes on while the maps that its modules return get no larger;
    weights are left behind it. Shorter ones end where the next container of layers begins. What is a submodule is none.

    Args:
        model: The model; a copy runs once.
        inputs: An example call, as for `swap`.

    Returns:
        Texts such as `conv1:layer4`; an empty list where there is none.

    Raises:
        AdaptError: The model raises at the given input.

    Example:
        >>> import torch
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 2, 2), nn.Conv2d(8, 16, 2, 2), nn.ConvTranspose2d(16, 2, 4, 4))
        >>> regions(model, torch.zeros(1, 3, 16, 16))
        ['0:1']
    """
    model = uncompiled(model)
    example = as_example(model, inputs)
    trace = traces_of(model, example.run, grad=example.is_step)[0]
    found = []
    for within, row in _rows(trace):
        calls = _from_weights(model, row)
        ends = _ends(model, trace, calls, is_whole=len(within) == 1)
        found += [f"{calls[0].path}:{end.path}" for end in ends if _is_region(model, trace, calls[0].path, end.path)]
    return list(dict.fromkeys(found))


def span_to(model: nn.Module, example: Example, path: str) -> str:
    """The span from the first module with weights beside a module to that one; empty where that is no region."""
    trace = traces_of(model, example.run, grad=example.is_step)[0]
    for _, row in _rows(trace):
        calls = _from_weights(model, row)
        if path in [call.path for call in calls[1:]] and _is_region(model, trace, calls[0].path, path):
            return f"{calls[0].path}:{path}"
    return ""


def chain_of(model: nn.Module, example: Example, paths: Sequence[str]) -> str:
    """The span of some modules where each runs on what comes of the one before; empty where that is no region."""
    try:
        region = find_region(model, traces_of(model, example.run, grad=example.is_step), paths)
    except AdaptError:
        return ""
    is_chain = len(region.members) > 1 and all(one.follows for one in region.order[1:])
    return f"{region.first}:{region.order[-1].path}" if is_chain else ""


def _rows(trace: Trace) -> Iterator[tuple[tuple[int, ...], list[Call]]]:
    """Calls side by side within one call, and the numbers of those around; the outermost rows first."""
    for holder in sorted(range(len(trace.calls)), key=lambda number: len(trace.calls[number].within)):
        within = (*trace.calls[holder].within, holder)
        row = [call for call in trace.calls if call.within == within]
        if len(row) > 1:
            yield within, row


def _from_weights(model: nn.Module, row: Sequence[Call]) -> Sequence[Call]:
    """A row from the first module that has weights."""
    return row[next((i for i, call in enumerate(row) if _has_weights(model, call)), len(row)) :]


def _has_weights(model: nn.Module, call: Call) -> bool:
    return any(True for _ in model.get_submodule(call.path).parameters())


def _ends(model: nn.Module, trace: Trace, row: Sequence[Call], *, is_whole: bool) -> list[Call]:
    """Where a span that begins a row may end, the longest first.

    All of a row is the submodule around it, or leaves nothing of the whole model.
    """
    sizes = [_area(call) for call in row]
    count = 0
    while count < len(row) and sizes[count] > 1 and (count == 0 or sizes[count] <= sizes[count - 1]):
        count += 1
    within = [call.path.rpartition(".")[0] for call in row]
    count = next((i for i in range(1, count) if _is_head(trace, row, i)), count)
    cuts = [i for i in range(1, count) if within[i] != within[i - 1]]
    if count < len(row):
        cuts.append(count)
    elif is_whole:
        cuts.append(max(i for i, call in enumerate(row) if _has_weights(model, call)))
    return [row[cut - 1] for cut in sorted(set(cuts), reverse=True) if cut > 1 and sizes[cut - 1] < sizes[0]]


def _is_head(trace: Trace, row: Sequence[Call], number: int) -> bool:
    """Whether others of a row run after a call, and nothing that comes of it goes into them."""
    made = set(row[number].returned)
    for step in trace.steps[row[number].left :]:
        if made.intersection(step.reads):
            made.update(step.makes)
    later = row[number + 1 :]
    return bool(later) and not any(made.intersection(call.given) for call in later)


def _area(call: Call) -> int:
    """Cells of the first map that a call returns; 0 where it returns none."""
    maps = [shape for shape in call.shapes if len(shape) == 4]
    return maps[0][2] * maps[0][3] if maps else 0


def _is_region(model: nn.Module, trace: Trace, first: str, last: str) -> bool:
    try:
        return bool(find_region(model, [trace], f"{first}:{last}").read)
    except AdaptError:
        return False
