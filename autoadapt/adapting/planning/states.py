"""States: remarks on recurrent states, `[layers*directions, B, C]`, which are matched by their number alone."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from autoadapt.adapting.layouts import is_state
from autoadapt.adapting.planning.plans import Route
from autoadapt.contracts.signature import Signature, TensorSpec


def state_remarks(source: Signature, target: Signature, routes: Iterable[Route]) -> list[str]:
    """Remarks on states that share a source, are made from other tensors, or are of other layers and directions.

    An output with the name of an argument is taken for a state that is passed to the next call.
    """
    served, said = dict[str, list[str]](), _made_up(source, target, routes := list(routes))
    own = dict(source.outputs.items())
    for route in routes:
        wanted = target.outputs[route.target]
        if not is_state(wanted) or route.same_as:
            continue
        served.setdefault(route.source, []).append(route.target)
        held = own.get(route.source)
        if held is not None and is_state(held):
            pair = _described(held, source), _described(wanted, target)
            if pair[0] != pair[1]:
                last = " the last of" if held.dims[0] != wanted.dims[0] else ""
                said.append(f"{route.target} of {target.name} was of {pair[1]}: served by{last} {pair[0]}")
    return said + [
        f"{path} of {source.name} serves {' and '.join(paths)} alike, which were states of their own in {target.name}"
        for path, paths in served.items()
        if len(paths) > 1
    ]


def _made_up(source: Signature, target: Signature, routes: Sequence[Route]) -> list[str]:
    """Remarks on states that the old module takes as an argument, and the new one does not."""
    back = {one.name for one in target.parameters} - {one.name for one in source.parameters}
    made = dict[str, list[str]]()
    for route in routes:
        name = route.target.partition(".")[0]
        if name in back and route.source.partition(".")[0] != name:
            made.setdefault(name, []).append(route.source)
    return [
        f"{name} of {target.name}, which it takes back at the next call, is no state of {source.name}, which takes"
        f" none: it is made of {', '.join(dict.fromkeys(sources))}"
        for name, sources in made.items()
    ]


def _described(state: TensorSpec, signature: Signature) -> str:
    """The layers and directions of a state as text; the width of the module's tokens shows the number of directions."""
    count, width = state.dims[0].constant or 1, state.dims[2].constant or 1
    tokens = [
        one.dims[-1].constant or 0 for one in signature.outputs.leaves if len(one.dims) == 3 and not is_state(one)
    ]
    directions = next((wide // width for wide in tokens if wide in (width, 2 * width)), 0)
    if not directions or count % directions:
        return f"{count} layers and directions"
    layers = count // directions
    return f"{layers} layer{'s' * (layers > 1)}{' in both directions' * (directions == 2)}"
