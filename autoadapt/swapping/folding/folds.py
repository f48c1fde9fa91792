"""Folds: an adapter's projections merged into the layers that read them, so that they cost nothing at run time."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import nn

from autoadapt.adapting.building import AdaptedModule, edits
from autoadapt.adapting.planning import Plan
from autoadapt.contracts.capturing.arguments import bind, told_example
from autoadapt.contracts.capturing.regions import RegionPath
from autoadapt.contracts.costs import multiply_adds_by_part
from autoadapt.contracts.instances import check_module
from autoadapt.contracts.randomness import quiet
from autoadapt.contracts.views import eval_copy, within_wrapper
from autoadapt.errors import BuildError, Mismatch
from autoadapt.files.reading import first_line
from autoadapt.swapping.folding.foldings import Stay
from autoadapt.swapping.folding.linear_functions import LIKE, SHAPES
from autoadapt.swapping.folding.other_runs import Run, runs_of, uncompiled_parts
from autoadapt.swapping.folding.reading_layers import FOLDED
from autoadapt.swapping.folding.rerouting import UNSEEN
from autoadapt.swapping.folding.settling import Settled, Settling, projected
from autoadapt.swapping.stand_ins import first_path

_TOLERANCE = 1e-5
_HEAVIER = "the model would be heavier"
_SHAPE = "what reads its shape"
"""The reader of an output none of whose values is read."""


def fold(
    model: nn.Module, *, at: RegionPath | None = None, inputs: object = None, outputs: Sequence[str] | None = None
) -> nn.Module:
    """Merge projections into the convolutions and linear layers that read them, whatever is linear in between.

    Outputs are followed through concatenation, addition, splitting, interpolation, average pooling, reordering of axes
    and whatever else treats all channels alike, to the layers that read them: weights multiply. Where such a layer
    pads with zeros and the projection has an offset, a channel of ones carries it, so that borders come out as before.
    An addition becomes a concatenation, and a part of the channels becomes all of them, while the model runs. What one
    module alone reads and cannot be merged into, such as a normalisation, gets the projection in front of it.

    Args:
        model: A model with an adapted module in it; it is not changed.
        at: Path of the adapted module, or the region in whose place it stands; may be left out where there is but one.
        inputs: An example call of the model, to see what reads each output. May be left out where the model tells its
            input size.
        outputs: Fold just these, whatever it costs; if left out, all that can be and that do not make the model heavier
            at the example, and the others stay as they are.

    Returns:
        A model over the same weights with fewer layers and the same answers to 1e-5 of their size. Its backbone no
        longer has the old signature. What was done, and what stays and why, stands at it:
        `print(folded.get_submodule(at).folded)`.

    Raises:
        BuildError: Nothing can be folded, or not all of `outputs`; for each the error says why.

    Example:
        >>> from autoadapt.adapting import adapt
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 2, stride=2), nn.Conv2d(8, 4, 3))
        >>> x = torch.randn(1, 3, 16, 16)
        >>> model[0] = adapt(nn.Conv2d(3, 5, 2, stride=2), like=model[0], inputs=x)
        >>> folded = fold(model, at="0", inputs=x)
        >>> folded[1].in_channels, torch.allclose(folded(x), model(x), atol=1e-5)
        (5, True)
        >>> print(folded[0].folded)
        folded: output output; 1 reads 5
    """
    check_module(model, "model", BuildError)
    model, at = within_wrapper(model, at)
    path = _place(model, first_path(model, at))
    net = model.get_submodule(path)
    assert isinstance(net, AdaptedModule), "found as one"
    if faults := edits(net):
        raise BuildError("the module is no longer what its plan says, which alone is folded", faults)
    wanted = _wanted(net.plan, outputs)
    with quiet(), uncompiled_parts():
        call = bind(model, told_example(model) if inputs is None else inputs)
        work = Settling(model, path, net, call, runs_of(model, call))
        settled, made = folded_as_far(work, wanted, may_be_heavier=outputs is not None)
        if made is None or (outputs is not None and settled.stays):
            raise _refusal(work, settled, wanted)
    return made


def folded_as_far(work: Settling, wanted: Sequence[str], *, may_be_heavier: bool) -> tuple[Settled, nn.Module | None]:
    """The folded model, in which those outputs keep their projections alone that it would not do well without.

    Returns:
        What was folded into what, and the model; None where nothing can be folded.
    """
    kept: dict[str, Stay] = {}
    wide: dict[str, frozenset[str]] = {}
    while True:
        settled = work.settle(wanted, kept, wide)
        if not settled.levels:
            return settled, None
        fault = work.faults.get((id(settled.found), may_be_heavier), "")
        if not fault:
            made, fault = _made(work, settled, may_be_heavier)
            if not fault:
                return settled, made
        found = {level: _alone(work, level, may_be_heavier) for level in settled.levels}
        before = dict(wide)
        wide |= {level: names for level, (names, why) in found.items() if names and not why}
        if wide != before:
            continue
        faults = {level: why for level, (_, why) in found.items() if why} or dict.fromkeys(settled.levels, fault)
        read = settled.found.read
        kept |= {
            level: Stay(output=level, reader=", ".join(read[level]) or _SHAPE, why=why) for level, why in faults.items()
        }


def _alone(work: Settling, level: str, may_be_heavier: bool) -> tuple[frozenset[str], str]:
    """What is wrong with folding one output alone, and which functions have to see as many channels as before."""
    first, before = "", None
    for names in (frozenset[str](), LIKE, LIKE | SHAPES):
        settled = work.settle([level], wide={level: names})
        if not settled.levels or settled.found.calls == before:
            continue
        before = settled.found.calls
        fault = work.faults.get((id(settled.found), may_be_heavier))
        if fault is None:
            _, fault = _made(work, settled, may_be_heavier)
        if not fault:
            return names, ""
        if fault.startswith(_HEAVIER):
            return names, fault
        first = first or fault
    return frozenset(), first


def _made(work: Settling, settled: Settled, may_be_heavier: bool) -> tuple[nn.Module, str]:
    """The folded model, and what is wrong with it, which is kept: searches meet the same readings again."""
    made = work.made(settled)
    fault = work.faults[id(settled.found), may_be_heavier] = _fault(work, made, may_be_heavier)
    return made, fault


def _fault(work: Settling, made: nn.Module, may_be_heavier: bool) -> str:
    """What is wrong with a folded model, which is told what it costs; empty for one that is right."""
    net: Any = made.get_submodule(work.path)
    readers = {one.paths[0]: one for one in net.folded.readers}
    try:
        before, parts = work.multiply_adds, multiply_adds_by_part(eval_copy(made), work.given, readers)
    except Exception:  # it does not run, which is said below
        before, parts = 0, dict.fromkeys(("", *readers), 0)
    after, of_ones = parts[""], sum(parts[path] * one.ones // one.channels for path, one in readers.items())
    told = {"multiply_adds": (before, after), "multiply_adds_of_ones": of_ones}
    vars(net)["folded"] = net.folded.model_copy(update=told)
    if after > before and not may_be_heavier:
        return f"{_HEAVIER}, {after:,} multiply-adds for {before:,}; name it in outputs= to fold it"
    return next((why for run in work.runs if (why := _unlike(made, run))), "")


def _place(model: nn.Module, at: str | None) -> str:
    found: list[str] = [name for name, module in model.named_modules() if isinstance(module, AdaptedModule)]
    if at and at in found:
        return at
    inside = [name for name in found if name]
    if at is None and len(inside) == 1:
        return inside[0]
    told = ", ".join(name or "the model itself" for name in found) or "none"
    remedy = "\n".join(f'fold(..., at="{name}")' for name in inside[:3]) or _SWAP
    fault = Mismatch("at", "the path of an adapted module inside the model", told, remedy)
    raise BuildError("nothing to fold: what reads the adapter must be in the model", [fault])


_SWAP = "aa.fold(aa.swap(model, path, new, inputs=x), inputs=x)"
"""Where no adapted module stands inside the model."""
_AS_IT_IS = 'aa.export(model, "model.onnx", inputs=x)'
"""Where nothing can be folded: there is nothing to gain."""


def _wanted(plan: Plan, outputs: Sequence[str] | None) -> list[str]:
    found = projected(plan)
    if not found:
        fault = Mismatch("outputs", "outputs with a projection", "none: the adapters have no layers", _AS_IT_IS)
        raise BuildError("there is no projection to fold, and the model is as it would be", [fault])
    if isinstance(outputs, str) or not (outputs is None or isinstance(outputs, Collection)):
        fault = Mismatch("outputs", "a list of names", repr(outputs)[:60], f"outputs={found}")
        raise BuildError("outputs are told by their names", [fault])
    chosen = found if outputs is None else list(outputs)
    wrong = [name for name in chosen if name not in found]
    if wrong or not chosen:
        fault = Mismatch(f"outputs={wrong}", "outputs with a projection", ", ".join(found), f"outputs={found}")
        raise BuildError("there is no such projection to fold", [fault])
    return chosen


def _refusal(work: Settling, settled: Settled, wanted: Sequence[str]) -> BuildError:
    """Why projections cannot be folded, with those that can be."""
    others = list(folded_as_far(work, projected(work.net.plan), may_be_heavier=True)[0].levels)
    remedy = f"fold(..., outputs={others})" if others else _AS_IT_IS
    faults = [stay.mismatch(remedy) for stay in settled.stays.values()]
    said = f"{len(faults)} of {len(wanted)} projections cannot be folded"
    return BuildError(said if others else f"{said}, nor any other of this module", faults)


def _unlike(made: nn.Module, run: Run) -> str:
    """How a folded model answers otherwise; in train mode only that it runs, since dropout draws for each channel."""
    try:
        after = run.of(made)
    except Exception as error:  # whatever code raises that counts on the old channels
        return f"the folded model does not run: {first_line(error).split(FOLDED)[0].split(UNSEEN)[0]}"
    if run.in_training:
        return ""
    for left, right in zip(run.answer, after, strict=True):
        if left.shape != right.shape:
            return f"the folded model answers with a shape of {[*right.shape]}, and of {[*left.shape]} before"
        if not left.is_floating_point() or left.numel() == 0:
            continue
        allowed = max(_TOLERANCE, 32 * torch.finfo(left.dtype).eps) * max(float(left.abs().max()), 1.0)
        found = float((left - right).abs().max())
        if not found <= allowed:
            return f"the folded model answers otherwise: by {found:.1e}, where {allowed:.1e} is rounding"
    return ""
