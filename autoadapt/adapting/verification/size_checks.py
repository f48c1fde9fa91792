"""The check `sizes`: real runs at small and odd sizes, shapes at the usual ones, and orientation at squares."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import nn

from autoadapt.adapting.planning import Plan
from autoadapt.adapting.verification.comparing import Leaves, differing, no_numbers, not_excused
from autoadapt.adapting.verification.findings import Findings
from autoadapt.adapting.verification.given_values import as_given, written_inputs
from autoadapt.adapting.verification.more_sizes import REMAINDERS, other_remainders
from autoadapt.adapting.verification.sessions import Session, said
from autoadapt.contracts import clocks
from autoadapt.contracts.capturing import Arguments
from autoadapt.contracts.capturing.probing import Probe, ProbeError
from autoadapt.contracts.signature import TensorSpec
from autoadapt.contracts.trees import flatten
from autoadapt.errors import Mismatch

_IN_USE = ((224, 224), (256, 256), (384, 384), (512, 512), (640, 640), (480, 640), (299, 299))
USUAL = tuple({"H": height, "W": width} for height, width in _IN_USE)
"""Common heights and widths: squares, multiples of 32, both, and neither."""
_AFFORDABLE = 1 << 16
"""Pixels of the largest image that is run with values where the module does not run on the meta device."""
_MOST_SECONDS = 1.0
"""Largest estimated time of a run with values at a usual size that is not the example's."""
_SQUARE = 128
"""Largest side of the square images of `_turned_squares`."""
_CLEAR = 0.08
"""Distance from the middle of an axis, as a part of its length, from which a change counts as at one end."""


def sizes_and_batches(session: Session) -> Findings:
    """Run at the session's sizes and batch sizes, and check shapes at the usual ones and orientation at squares."""
    if not session.has_values:
        return Findings(_shapes_alone(session), f"{_spread(session)}, shapes alone")
    copied, faults = session.copy(), list[Mismatch]()
    noted, started = _watch_backbone(copied, session.plan), clocks.start()
    cheapest_first = sorted(session.sizes, key=lambda sizes: math.prod(sizes.values()))
    for sizes in itertools.chain(cheapest_first, _usual_image(session, started)):
        seen = list[Leaves]()
        for batch in session.batches:
            full = session.at(**sizes, B=batch)
            noted.clear()
            found, leaves = _run(session, copied, full)
            faults += found + _other_sources(session.plan, noted, full)
            seen += [leaves] if leaves else []
        faults = faults or _own_values(session, seen, session.at(**sizes))
    if not faults and session.is_image:
        faults = _usual_sizes(session, copied) or _turned_squares(session, copied)
    if session.plan is not None:  # shapes at all sizes follow from the plan's algebra
        return Findings(faults, _spread(session))
    return Findings(
        faults or other_remainders(session),
        f"{_spread(session)}, {REMAINDERS} more, and the smallest, for shapes alone",
    )


def _usual_image(session: Session, started: clocks.Start) -> Iterator[dict[str, int]]:
    """The smallest usual size, if no usual size was run with values yet and a run takes less than a second.

    Args:
        session: The verification.
        started: When the runs at the session's sizes began; the generator is advanced as they end, and estimates the
            time of a run from theirs.
    """
    size, done = USUAL[0], [{name: session.at(**one).get(name, 0) for name in "HW"} for one in session.sizes]
    if not session.is_image or any(one in USUAL for one in done) or not size.items() <= session.at(**size).items():
        return
    pixels = sum(math.prod(one.values()) for one in done)
    seconds = clocks.since(started) / max(pixels, 1)
    if seconds * size["H"] * size["W"] < _MOST_SECONDS:
        yield size


def _own_values(session: Session, seen: Sequence[Leaves], full: Mapping[str, int]) -> list[Mismatch]:
    """The faults in values at one size that the bare backbone's do not have."""
    faults = _wrong_values(session, seen, full)
    bare = session.backbone() if faults else None
    return faults if bare is None else not_excused(session, faults, lambda: _bare_values(bare, session.batches, full))


def _bare_values(bare: Session, batches: Sequence[int], full: Mapping[str, int]) -> list[Mismatch]:
    runs = [_run(bare, bare.shared, {**bare.at(**full), "B": batch})[1] for batch in batches]
    return _wrong_values(bare, [leaves for leaves in runs if leaves], full)


def _wrong_values(session: Session, seen: Sequence[Leaves], full: Mapping[str, int]) -> list[Mismatch]:
    """NaN, zeros, and values of the first item that depend on the batch size."""
    at = " at " + _by(full, without="B")
    faults = [fault for leaves in seen[:1] for fault in no_numbers(session, leaves, at) + _zeros(session, leaves, at)]
    first, *others = [_first_items(session, leaves) for leaves in seen] or [{}]
    words = f"of the first item{at}", "the values it has in another batch", "other values"
    return faults or [fault for other in others for fault in differing(session, first, other, *words)]


def _zeros(session: Session, leaves: Leaves, at: str) -> list[Mismatch]:
    """Feature outputs that are zero everywhere, and are not at a small size."""
    specs = dict(session.signature.outputs.items())
    empty = [path for path, tensor in leaves.items() if specs[path].role == "feature" and not bool(tensor.any())]
    small = session.small_call[2] if empty else {}
    return [Mismatch(path + at, "values", "zeros") for path in empty if bool(small[path].any())]


def _first_items(session: Session, leaves: Leaves) -> Leaves:
    """The outputs of the first item of a batch."""
    axes = {path: [str(dim) for dim in spec.dims] for path, spec in session.signature.outputs.items()}
    return {path: leaves[path].select(dims.index("B"), 0) for path, dims in axes.items() if "B" in dims}


def _by(sizes: Mapping[str, int], without: str = "") -> str:
    return "x".join(str(size) for name, size in sizes.items() if name != without)


def _spread(session: Session) -> str:
    """The sizes and batch sizes of the session, for the report."""
    shown = [" x ".join(str(size) for name, size in one.items() if name != "B") for one in session.sizes]
    spread = f"{shown[0]} .. {shown[-1]}" if shown and shown[0] else "the one legal size"
    return f"{len(session.sizes)} sizes ({spread}) x batch {', '.join(map(str, session.batches))}"


def _run(session: Session, module: nn.Module, full: Mapping[str, int]) -> tuple[list[Mismatch], Leaves]:
    """The faults of a call, and its outputs; these are empty if there are faults."""
    arguments = _arguments(session, full)
    given = flatten(arguments.values)[1]
    before = as_given(given)
    try:
        returned = arguments.call(module)
        written = written_inputs(session.signature, before, given, f" at {_by(full)}")
        faults = session.compare(arguments, returned, full) + written
        return faults, {} if faults else session.leaves(returned)
    except Exception as error:
        return [Mismatch(_by(full), "outputs", said(error))], {}


def _arguments(session: Session, full: Mapping[str, int]) -> Arguments:
    """Inputs at given sizes, whose first item is the same for each batch size."""
    most = max(session.batches, default=0)
    if full.get("B", most) >= most:
        return session.arguments(full)
    wide = flatten(session.arguments({**full, "B": most}).values)[1]
    rows = zip(wide, session.signature.inputs.leaves, strict=True)
    return session.rebuilt([_fewer(tensor, list(map(str, spec.dims)), full["B"]) for tensor, spec in rows])


def _fewer(tensor: torch.Tensor, dims: list[str], count: int) -> torch.Tensor:
    return tensor.narrow(dims.index("B"), 0, count).clone() if "B" in dims else tensor


def _watch_backbone(net: nn.Module, plan: Plan | None) -> dict[str, tuple[int, ...]]:
    """A dict that each call of a copy fills with the shapes that its backbone returned, by the plan's source names."""
    noted: dict[str, tuple[int, ...]] = {}
    if plan is not None:
        names = tuple(plan.taps) or plan.source.outputs.paths

        def note(module: nn.Module, args: Any, returned: Any) -> None:
            noted.update(zip(names, (tuple(tensor.shape) for tensor in flatten(returned)[1]), strict=False))

        backbone = net.get_submodule("backbone")
        if not isinstance(backbone, torch.jit.ScriptModule):  # scripted modules take no hooks
            backbone.register_forward_hook(note)
    return noted


def _other_sources(plan: Plan | None, noted: Mapping[str, tuple[int, ...]], sizes: Mapping[str, int]) -> list[Mismatch]:
    """Sources whose shapes are not those of the plan.

    Args:
        plan: What the module was built from, if it was.
        noted: Shapes of the sources, by name.
        sizes: Of the input axes.
    """
    faults = []
    for route in plan.routes if plan is not None else ():
        found, expected = noted.get(route.source), route.specs[0].shape(sizes)
        if found is not None and found != expected and not route.same_as:
            faults.append(Mismatch(f"source {route.source}", str(list(expected)), str(list(found)), "plan again"))
    return faults


def _usual_sizes(session: Session, copied: nn.Module) -> list[Mismatch]:
    """Faults in shapes at the usual sizes, on the meta device, or with values at the smaller ones if that fails."""
    rows, done = ([session.at(**one, B=2) for one in sizes] for sizes in (USUAL, session.sizes))
    rows = [dict(row) for row in dict.fromkeys(tuple(row.items()) for row in rows if row not in done)]
    probe = Probe(session.net, session.arguments(session.at()), real=False, inner=False)
    try:
        dtypes = probe.run().dtypes
    except ProbeError:
        small = [row for row in rows if row["H"] * row["W"] <= _AFFORDABLE]
        return [fault for row in small for fault in _run(session, copied, row)[0]]
    return [fault for row in rows for fault in _shapes(session, probe, row, dtypes)]


def _shapes_alone(session: Session) -> list[Mismatch]:
    """Like `sizes_and_batches`, for a module on the meta device."""
    probe = Probe(session.net, session.arguments(session.at()), real=False, inner=False)
    usual = USUAL if session.is_image else ()
    rows = [session.at(**sizes, B=batch) for sizes in (*session.sizes, *usual) for batch in session.batches]
    dtypes = [spec.torch_dtype for spec in session.signature.outputs.leaves]
    return [fault for row in rows for fault in _shapes(session, probe, row, dtypes)]


def _shapes(session: Session, probe: Probe, full: Mapping[str, int], dtypes: Sequence[torch.dtype]) -> list[Mismatch]:
    """The faults of a run on the meta device."""
    try:
        seen = probe.run([spec.shape(full) for spec in session.signature.inputs.leaves])
    except ProbeError as error:
        found = Mismatch("x".join(map(str, full.values())), "outputs", str(error))
        bare = session.backbone()
        return [] if bare is not None and _raises_alone(bare, full) else [found]
    written = [name for name, hit in zip(session.signature.inputs.paths, seen.written, strict=False) if hit]
    faults = session.compare_shapes(seen.tree, seen.shapes, full)
    rows = zip(session.signature.outputs.paths, dtypes, seen.dtypes, strict=True) if not faults else ()
    faults += [Mismatch(f"{path} at {_by(full)}", str(old), str(new)) for path, old, new in rows if new != old]
    return faults + [
        Mismatch(f"inputs.{name} at {_by(full)}", "the values that it had", "written to by the call", "clone it first")
        for name in written
        if name not in session.signature.written
    ]


def _raises_alone(bare: Session, full: Mapping[str, int]) -> bool:
    """Whether the bare backbone raises at these sizes too."""
    sizes = bare.at(**full)
    try:
        Probe(bare.net, bare.arguments(bare.at()), real=False, inner=False).run(
            [spec.shape(sizes) for spec in bare.signature.inputs.leaves]
        )
    except ProbeError:
        return True
    return False


def _turned_squares(session: Session, copied: nn.Module) -> list[Mismatch]:
    """Maps whose axes H and W are swapped or mirrored, which the shapes of a square image do not show.

    A change in the upper right corner of an image must appear at the same end of each axis of a map, whether the
    image is square or a little wider.
    """
    height, width = session.at()["H"], session.at()["W"]
    side = max(session.at(H=one, W=one)[name] for one in (min(height, width, _SQUARE),) for name in "HW")
    square = session.at(H=side, W=side, B=2)
    longer = session.at(H=side, W=side + side // 4 + 1, B=2)
    if square["H"] != square["W"] or longer["H"] == longer["W"] or square["B"] != 2:
        return []
    try:
        ends, expected = (_where_a_corner_shows(session, copied, sizes) for sizes in (square, longer))
    except Exception:  # the module need not run at these sizes, which the caller did not choose
        return []
    at = " at " + _by(square)
    turned = {
        place: _NAMES[far] for place, far in expected.items() if place in ends and ends[place] != far
    } or _mirrored(session, ends, expected)
    return [
        Mismatch(path + at, f"the upper right corner at the {name} of axis {axis}", _NAMES[ends[path, axis]])
        for (path, axis), name in turned.items()
    ]


def _mirrored(session: Session, ends: _Ends, expected: _Ends) -> dict[tuple[str, int], str]:
    """Maps that are upside down, or have left and right swapped, where the contract has not, at both sizes.

    Args:
        session: The verification.
        ends: Where the corner appears for the square image.
        expected: Where it appears for the wider one.

    Returns:
        For each output and axis, the end at which the corner should appear.
    """
    specs = dict(session.signature.outputs.items())
    wanted: dict[tuple[str, int], bool] = {}
    for path, axis in ends:
        along, centres = specs[path].dims[axis].axes, specs[path].centres
        for name, right in (("H", False), ("W", True)):
            if along == {name}:
                wanted[path, axis] = right != any(one.reversed for one in centres if one.axis == name)
    return {place: _NAMES[right] for place, right in wanted.items() if expected.get(place) == ends[place] != right}


_Ends: TypeAlias = Mapping[tuple[str, int], bool]
"""For each output and axis, whether a change appears in the second half of the axis."""
_NAMES = {False: "start", True: "end"}


def _where_a_corner_shows(session: Session, copied: nn.Module, sizes: Mapping[str, int]) -> dict[tuple[str, int], bool]:
    """For each output and axis that depends on H or W, whether a change in the corner appears in the second half.

    Axes along which the change is near the middle are left out.
    """
    arguments = session.arguments(sizes)
    images = {id(tensor): spec for tensor, spec in _with_specs(session, arguments) if session.is_map(spec)}
    tensors = [
        _cornered(tensor, images[id(tensor)]) if id(tensor) in images else tensor
        for tensor in flatten(arguments.values)[1]
    ]
    leaves = session.leaves(session.rebuilt(tensors).call(copied))
    found = {}
    for path, spec in session.signature.outputs.items():
        if spec.is_floating and spec.dims and str(spec.dims[0]) == "B":
            changed = (leaves[path][1] - leaves[path][0]).double().square()
            for axis, dim in enumerate(spec.dims[1:]):
                if dim.axes & {"H", "W"} and changed.shape[axis] > 1:
                    middle = (
                        _centre(changed.movedim(axis, 0).flatten(1).sum(1)) if changed.dim() > 1 else _centre(changed)
                    )
                    if abs(middle - 0.5) > _CLEAR:
                        found[path, axis + 1] = middle > 0.5
    return found


def _centre(weights: torch.Tensor) -> float:
    """The weighted mean position along an axis, from 0 to 1; 0.5 where all weights are zero or one is not finite."""
    total = weights.sum()
    if not bool(total.isfinite()) or total == 0:
        return 0.5
    return float(
        (weights * torch.linspace(0, 1, len(weights), dtype=weights.dtype, device=weights.device)).sum() / total
    )


def _with_specs(session: Session, arguments: Arguments) -> list[tuple[torch.Tensor, TensorSpec]]:
    return list(zip(flatten(arguments.values)[1], session.signature.inputs.leaves, strict=True))


def _cornered(images: torch.Tensor, spec: TensorSpec) -> torch.Tensor:
    """A batch of the first image twice, the second time with noise added in its upper right corner, a ninth of it."""
    names = list(map(str, spec.dims))
    pair = images.movedim([names.index("B"), names.index("H"), names.index("W")], [0, -2, -1]).clone()
    pair[1] = pair[0]
    height, width = pair.shape[-2:]
    corner = pair[1, ..., : height // 3 + 1, width - width // 3 - 1 :]
    noise = torch.randn(corner.shape, generator=torch.Generator().manual_seed(1)).to(corner)
    corner += (1 + corner.abs().max()) * noise
    return pair.movedim([0, -2, -1], [names.index("B"), names.index("H"), names.index("W")])
