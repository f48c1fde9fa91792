"""Narrowing: what lies behind the outputs of an adapted module made as narrow as they are, as one would by hand.

The rule: a layer whose output has the size of an output of the old module, and as many channels, gets as many as that
output has now, where these are fewer. What is added to an output, or multiplied by it, follows it too. Channels that
are joined by such operations follow together or not at all; what the caller gets, and what is read otherwise, keeps its
width.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import nn

from autoadapt.adapting.building import AdaptedModule
from autoadapt.adapting.planning import Plan
from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.costs import multiply_adds_of
from autoadapt.contracts.randomness import quiet
from autoadapt.contracts.views import aliased, copy_module, eval_copy
from autoadapt.errors import Mismatch, SwapError
from autoadapt.files.reading import one_line
from autoadapt.swapping.folding.attention import attention_of, opened
from autoadapt.swapping.folding.foldings import Folding, Reader, Stay, next_number, put_layers, start_anew
from autoadapt.swapping.folding.other_runs import Run
from autoadapt.swapping.folding.reading_layers import is_reader
from autoadapt.swapping.folding.settling import changing_axes, hand_on, without_projections
from autoadapt.swapping.folding.statements import Statement
from autoadapt.swapping.folding.widths import Widths, widths_of

_ALONE = 'swap(..., refit="readers")  # and nothing behind them'


@dataclass(frozen=True)
class Narrowing:
    """What is narrowed, found on a copy of the model and ready to be done."""

    path: str
    folding: Folding

    def plan(self, net: AdaptedModule) -> Plan:
        """How the new module is adapted then."""
        return without_projections(net, self.folding).plan

    def put_in(self, model: nn.Module) -> None:
        """Narrow the layers of the model itself, in place; they start from new weights."""
        self.put_layers(model)
        start_anew(model, self.folding)

    def put_layers(self, model: nn.Module) -> None:
        """The same with weights that are not filled."""
        put_layers(model, self.folding)
        hand_on(model, self.path, self.folding)


def narrowing(model: nn.Module, path: str, call: Arguments, runs: Collection[Run]) -> Narrowing:
    """Find what follows the outputs of an adapted module, and try it.

    Args:
        model: With the adapted module in it; it is not changed.
        path: Where that stands.
        call: An example call of the model.
        runs: How it is run to try what was found; its answers keep their shapes.

    Raises:
        SwapError: Nothing reads the outputs that can be narrowed, or the narrowed model does not run.
    """
    net = model.get_submodule(path)
    assert isinstance(net, AdaptedModule), "built as one"
    axes = changing_axes(net.plan)
    with quiet():
        whole = opened(model, path, Run(call.call).of)
        levels = {target: axis for target, (axis, _) in axes.items()}
        found = widths_of(whole, path, call.call, levels)
        for run in runs:
            if run.in_training:  # heads that only train
                found = widths_of(whole, path, run.call, levels, found=found, in_training=True)
        new, stays = _new_widths(whole, found, {f"output {target}": width for target, (_, width) in axes.items()})
        outputs = tuple(target for target in axes if f"output {target}" in new)
        if not outputs:
            raise SwapError("no output can be handed on as narrow as it is", [one.mismatch(_ALONE) for one in stays])
        readers = tuple(_readers(whole, found, new))
        drawn = [one.paths[0] for one in readers]
        untrained = tuple(one for one in drawn if hasattr(whole.get_submodule(one), "reset_parameters"))
        folding = Folding(
            number=next_number(model),
            outputs=outputs,
            readers=readers,
            opened=attention_of(model, drawn),
            stays=tuple(stays),
            untrained=untrained,
        )
        made = Narrowing(path, folding)
        trial = copy_module(model, aliased)
        made.put_layers(trial)
        _check_runs(trial, runs)
        sums = [multiply_adds_of(eval_copy(one, aliased), call) for one in (model, trial)]
    return Narrowing(path, made.folding.model_copy(update={"multiply_adds": (sums[0], sums[1])}))


def _new_widths(model: nn.Module, found: Widths, levels: Mapping[str, int]) -> tuple[dict[str, int], list[Stay]]:
    """Groups that get other channels, and outputs that cannot."""
    frozen = {found.of(group): why for group, why in found.frozen.items()}
    while True:
        new: dict[str, int] = {}
        stays: list[Stay] = []
        for name, members in found.members().items():
            own = [group for group in members if group in levels]
            width = 0 if name in frozen else _width(found, members, own, levels)
            if width:
                new |= dict.fromkeys(members, width)
            else:
                why = frozen.get(name) or "it is added to what has another width, or would be narrower than it"
                stays += [Stay(output=one.removeprefix("output "), reader=why) for one in own]
        uneven = [
            stated
            for path, stated in found.reads.items()
            if isinstance(norm := model.get_submodule(path), nn.GroupNorm) and _total(stated, new) % norm.num_groups
        ]
        if not uneven:
            return new, stays
        frozen |= {found.of(piece.level): "groups of a normalisation" for one in uneven for piece in one.pieces}


def _width(found: Widths, members: Sequence[str], own: Sequence[str], levels: Mapping[str, int]) -> int:
    """The new width of groups that are equally large; zero where they keep theirs."""
    if own:
        widths, others = {levels[one] for one in own}, len(members) > len(own)
        width = widths.pop() if len(widths) == 1 else 0
        return 0 if others and width > found.channels[own[0]] else width
    wanted = {
        frozenset(
            levels[level]
            for level in levels
            if size in found.sizes.get(level, ()) and found.channels[level] == found.channels[group]
        )
        for group in members
        for size in found.sizes[group]
    }
    told = [next(iter(one)) for one in wanted if len(one) == 1]
    return told[0] if len(wanted) == len(told) == 1 and told[0] < found.channels[members[0]] else 0


def _total(stated: Statement, new: Mapping[str, int]) -> int:
    channels = sum(new.get(piece.level, piece.channels) * piece.merged for piece in stated.pieces)
    return stated.outer * stated.inner * channels


def _readers(model: nn.Module, found: Widths, new: Mapping[str, int]) -> list[Reader]:
    """The layers that read or return other channels, in the order of the model."""
    named = list(model.named_modules(remove_duplicate=False))
    made = []
    for path, layer in model.named_modules():
        stated = found.reads.get(path)
        if stated is None or not (path in new or any(piece.level in new for piece in stated.pieces)):
            continue
        others = [name for name, one in named if one is layer and name != path]
        has_bias = is_reader(layer) and getattr(layer, "bias", None) is not None
        told = {"channels": _total(stated, new), "has_bias": has_bias, "returns": new.get(path, 0)}
        made.append(Reader.model_validate({"paths": (path, *others), **told}))
    return made


def _check_runs(trial: nn.Module, runs: Collection[Run]) -> None:
    """Run the narrowed model; its answers have the shapes that they had.

    Raises:
        SwapError: They do not, or it does not run.
    """
    for run in runs:
        try:
            after = [list(one.shape) for one in run.of(trial)]
        except Exception as error:  # whatever code raises that counts on the old channels
            fault = Mismatch("the narrowed model", "a forward pass", one_line(error), _ALONE)
            raise SwapError("the model does not run once it is narrowed", [fault]) from error
        before = [list(one.shape) for one in run.answer]
        if after != before:
            fault = Mismatch("the narrowed model", str(before), str(after), _ALONE)
            raise SwapError("the model answers in other shapes once it is narrowed", [fault])
