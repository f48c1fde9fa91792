"""Matching: which source of the new module serves which output of the old one.

By name where names agree, then by role, by stride and by order; never by position alone. If two sources are equally
good, the error lists them as arguments to paste.
"""

from __future__ import annotations

import functools
import math
import operator
from collections.abc import Mapping, Sequence
from dataclasses import replace

from autoadapt.adapting.aligning import Stage, align, levels_in_order, stages
from autoadapt.adapting.layouts import Refusal, chain, class_token_axis, distance, factored
from autoadapt.adapting.pairings import (
    Pairing,
    Source,
    as_wide,
    behind_all,
    by_names,
    cell,
    end_of,
    fitting,
    from_shallow_to_deep,
    is_namesake,
    is_scored,
    level_by_level,
    level_of,
    levels_for,
    name_in,
    named_alike,
    no_deeper,
    shared_out,
    whole_first,
)
from autoadapt.adapting.refusals import Form, Refusals, by_hand, check_pairs, most_telling, no_index, refusal
from autoadapt.contracts.signature import Gathering, Signature, TensorSpec
from autoadapt.errors import MatchError, Mismatch


def match(
    target: Signature,
    sources: Sequence[Source],
    *,
    invariants: Sequence[Gathering] = (),
    pairs: Mapping[str, str] | None = None,
    named: Mapping[str, str] | None = None,
    others: Mapping[str, Source] | None = None,
    indices: str = "refuse",
    name: str = "the new module",
) -> tuple[Pairing, ...]:
    """Pair every output of the target with a source.

    Args:
        target: The contract.
        sources: The sources of the new module, in the order in which they are returned.
        invariants: The invariants of the new module, between its index outputs and coordinates.
        pairs: Sources chosen by the caller, by target path.
        named: Sources with the target's own name and axes, which are preferred to all others.
        others: Sources that are used only where `pairs` or `named` name them.
        indices: `recover` finds missing indices from coordinates that are exact input points.
        name: The name of the new module in errors.

    Raises:
        MatchError: Some targets have no source, or several that are equally good; all of them are listed.
        PlanError: `pairs` has unknown names.
    """
    session = _Matching(target, {source.path: source for source in sources}, tuple(invariants), indices, name)
    session.choose_given(pairs or {}, others or {})
    session.choose_named(named or {}, others or {})
    session.choose_namesakes()
    session.choose_all()
    if session.faults:
        session.settle_remedies()
        count = len(session.faults)
        summary = f"nothing in {name} can serve `{session.faults[0].where}`"
        raise MatchError(summary if count == 1 else f"{count} outputs cannot be served by {name}", session.faults)
    return tuple(map(session.pairing, target.outputs.paths))


class _Matching:
    """A match so far: the pairings, and the faults."""

    def __init__(
        self,
        target: Signature,
        sources: dict[str, Source],
        invariants: tuple[Gathering, ...],
        indices: str,
        name: str,
    ) -> None:
        self.target = target
        self.sources = sources
        self.invariants = invariants
        self.indices = indices
        self.name = name
        self.found: dict[str, Pairing] = {}
        self.faults: list[Mismatch] = []
        self._specs = dict(target.outputs.items())
        self._refusals = Refusals()
        self._offered = {path: self._refusals.form(source.tensor) for path, source in sources.items()}
        self._features = {path: form for path, form in self._offered.items() if not sources[path].scores}
        self._cells = {path: cell(source.tensor) for path, source in sources.items()}
        self._wanted: dict[str, Form] = {}

    def choose_given(self, pairs: Mapping[str, str], others: Mapping[str, Source]) -> None:
        """Pair as the caller says, after checking that both paths exist and a chain leads from source to target."""
        offered = {**others, **self.sources}
        check_pairs(pairs, list(self._specs), list(offered))
        for path, source in pairs.items():
            found = chain(offered[source].tensor, self._specs[path])
            place = self._place(path)
            if isinstance(found, Refusal):
                self.faults.append(self._dishonest(path, found.why))
            elif place in self.found and self.found[place].source != source:
                expected = f"{self.found[place].source}, since it is the very tensor {place}"
                self.faults.append(Mismatch(f"pairs[{path!r}]", expected, source, f"pairs={{{place!r}: {source!r}}}"))
            else:
                self.found[place] = Pairing(place, source, remark="chosen by the caller")

    def choose_named(self, named: Mapping[str, str], others: Mapping[str, Source]) -> None:
        """Pair targets with inner outputs of the same name, where a chain leads to the target."""
        for path, source in named.items():
            if path not in self.found and refusal(others[source].tensor, self._specs[path]) is None:
                self.found[path] = Pairing(path, source)

    def choose_namesakes(self) -> None:
        """Pair targets with outputs of the same name, in whatever container these are."""
        named = by_names(self.sources)
        for path in self._unpaired():
            source = named.get(path)
            told = source and is_namesake(source, path, self._want(path).tensor, self._specs, named)
            if source and told and source.path in self._honest(path):
                self.found[path] = Pairing(path, source.path)

    def pairing(self, path: str) -> Pairing:
        """The pairing of an output; the same for outputs that are the same tensor."""
        place = self._place(path)
        found = self.found[place]
        return found if place == path else Pairing(path, found.source, same_as=place)

    def choose_all(self) -> None:
        """Pair what is left: inputs, coordinates, indices, then everything else in groups of equal stride."""
        for path in self._unpaired():
            if self._specs[path].same_as.startswith("inputs."):
                self.found[path] = Pairing(path, self._specs[path].same_as)
        rest = self._unpaired()
        indices = [path for path in rest if self._specs[path].role == "index"]
        self._choose_by_stride([path for path in rest if path not in indices])
        for path in indices:
            self._choose_index(path)

    def _unpaired(self) -> list[str]:
        """The outputs that are neither paired nor refused so far, one for each tensor.

        It is the first path of a tensor at several, in the order of the last ones, as for a list of hidden states.
        """
        last = {self._place(path): i for i, path in enumerate(from_shallow_to_deep(self.target))}
        closed = {*self.found, *(fault.where for fault in self.faults)}
        return sorted(last.keys() - closed, key=last.__getitem__)

    def _place(self, path: str) -> str:
        """The first path of a tensor that is at several ones."""
        place = self._specs[path].same_as or path
        return path if place.startswith("inputs.") else place

    def _choose_by_stride(self, targets: Sequence[str]) -> None:
        """Pair targets in groups with the same nearest sources, deeper targets with deeper sources."""
        groups: dict[tuple[str, ...], list[str]] = {}
        honest: dict[str, list[str]] = {}
        every = [self._specs[path] for path in targets]
        for path, spec in zip(targets, every, strict=True):
            options = self._honest(path)
            if not options:
                self.faults.append(self._dishonest(path, most_telling(self._whys(path))))
                continue
            options = self._without_maps_of_others(spec, as_wide(options, self.sources, spec))
            options = behind_all(options, self.sources, spec, every)
            honest[path] = self._class_tokens(options, spec) if spec.class_token else options
        aligned = self._aligned(honest)
        order = {path: i for i, path in enumerate(aligned)}
        for path in sorted(honest, key=lambda path: order.get(path, -1)):
            near = self._nearest(path, aligned.get(path, tuple(honest[path])))
            groups.setdefault(near, []).append(path)
        for near, paths in groups.items():
            self._share_out(paths, self._with_blocks(near, aligned.get(paths[0], ()), len(paths)))

    def _aligned(self, honest: Mapping[str, Sequence[str]]) -> dict[str, tuple[str, ...]]:
        """For each feature map, ordered by stride and depth, the possible sources in the stage that serves it."""
        levels = {path: level for path in honest if (level := level_of(self._want(path).tensor))}
        if agreed := level_by_level({path: self._want(path).tensor for path in levels}, honest, self.sources):
            return agreed
        wanted, offered = levels_in_order(levels), stages(levels_for(levels.values(), self.sources))
        fits = {path: fitting(offered, honest[path]) for path in wanted}
        distances = [[self._octaves(options, path) for options in fits[path]] for path in wanted]
        if not offered or any(math.isinf(min(row)) for row in distances):
            return {}
        chosen = align(list(wanted.values()), offered, distances, deepest=self._deepest(offered))
        found = {
            path: self._as_deep(fits[path][j], wanted[path].depth, offered[j])
            for path, j in zip(wanted, chosen, strict=True)
        }
        if len(wanted) == 1 and offered[chosen[0]].even:
            found = whole_first(found, wanted, self.sources)
        for stage in (stage for j, stage in enumerate(offered) if stage.even and j in chosen):
            served = {path: wanted[path].depth for path, j in zip(wanted, chosen, strict=True) if offered[j] is stage}
            if all(self._specs[path].depth is not None for path in served):
                shallow = no_deeper(stage, max(served.values()), self.sources)
                found |= {path: tuple(o for o in found[path] if o in shallow) or found[path] for path in served}
        for stage in (stage for j, stage in enumerate(offered) if not stage.even and j in chosen):
            served = {path: wanted[path].octaves for path, j in zip(wanted, chosen, strict=True) if offered[j] is stage}
            least = stage.level.octaves
            if max(served.values()) > least:
                found |= {path: end_of(found[path], self.sources) for path, one in served.items() if one >= least}
        return found

    def _as_deep(self, options: tuple[str, ...], depth: float, stage: Stage) -> tuple[str, ...]:
        """The options that are deep enough, of a stage with outputs of a decoder; else all."""
        if stage.even or depth <= stage.level.depth + 1 / 2:
            return options
        least = min(depth, stage.reach) - 1 / 2
        return tuple(o for o in options if (self.sources[o].spec.depth or 0) >= least) or options

    def _octaves(self, options: Sequence[str], path: str) -> float:
        """The least change of stride, in octaves per axis."""
        wanted = self._want(path).tensor
        found = [distance(self.sources[option].tensor, wanted) for option in options]
        return min(found, default=math.inf) / max(len(wanted.strides), 1)

    def _want(self, path: str) -> Form:
        if path not in self._wanted:
            self._wanted[path] = self._refusals.form(factored(self._specs[path]))
        return self._wanted[path]

    def _deepest(self, offered: Sequence[Stage]) -> float:
        """The depth of the last stage that depends on parameters which those before it do not; else of the last."""
        seen, found = 0, 0.0
        for stage in offered:
            weights = functools.reduce(operator.or_, (self.sources[path].weights for path in stage.sources))
            if weights & ~seen:
                seen, found = seen | weights, stage.level.depth
        return found or offered[-1].level.depth

    def _honest(self, path: str) -> list[str]:
        """The paths of sources from which a chain leads to the target."""
        wanted, refuses = self._want(path), self._refusals.refuses
        offered = self._offered if is_scored(path, self.target) else self._features
        return [path for path, form in offered.items() if not refuses(form, wanted)]

    def _whys(self, path: str) -> list[str]:
        """The reasons why sources do not serve a target, of those of its role if there are any; each kind once."""
        wanted = self._want(path)
        offered = self._offered if is_scored(path, self.target) else self._features
        kinds = {self._refusals.relation(form, wanted): form.tensor for form in offered.values()}
        alike = [tensor for tensor in kinds.values() if tensor.spec.role == wanted.tensor.spec.role]
        whys = [refusal(tensor, wanted.tensor.spec) for tensor in alike or kinds.values()]
        return [why for why in whys if why is not None] or ["class scores are no features"] * (offered != self._offered)

    def _without_maps_of_others(self, spec: TensorSpec, options: Sequence[str]) -> list[str]:
        """The options without those that are a linear map of another option, and would be projected."""
        sources, known = [self.sources[option] for option in options], set(options)
        return [s.path for s in sources if not s.reads or s.reads not in known or s.spec.dims == spec.dims]

    def _class_tokens(self, options: list[str], spec: TensorSpec) -> list[str]:
        """The options that are class tokens or have one, if any; all where an output has the target's dims already."""
        offered = {option: self.sources[option] for option in options}
        if any(not source.tap and source.spec.dims == spec.dims for source in offered.values()):
            return options
        told = [o for o, one in offered.items() if one.spec.class_token or class_token_axis(one.tensor) is not None]
        return told or options

    def _nearest(self, path: str, options: Sequence[str]) -> tuple[str, ...]:
        """The options with the least change of stride; among them those whose name is most like the target's."""
        wanted = self._want(path).tensor
        octaves = {option: distance(self.sources[option].tensor, wanted) for option in options}
        least = min(octaves.values())
        near = [option for option in options if octaves[option] == least]
        if least > 0:  # none has the very strides, and a tenth of an octave is no difference
            near = [option for option in options if round(octaves[option], 1) == round(least, 1)]
        near = [option for option in near if not self.sources[option].tap] or near
        if wanted.strides or least == 0:
            near = self._finest(near)
        else:  # maps are averaged to a vector, as before the last layer of a classifier
            near = [max(reversed(near), key=lambda option: self.sources[option].spec.depth or 0)]
        named = [o for o in near if self.sources[o].name == name_in(path) != "" or (o == path and not path.isdigit())]
        if len(named) == 1 and self.sources[named[0]].path.count(".") == path.count("."):
            return (named[0],)
        if all(self.sources[option].tap for option in near):
            return tuple(near)
        return named_alike(map(self.sources.__getitem__, near), path)

    def _finest(self, options: list[str]) -> list[str]:
        finest = min(self._cells[option] for option in options)
        return [option for option in options if self._cells[option] == finest]

    def _with_blocks(self, near: tuple[str, ...], options: Sequence[str], count: int) -> tuple[str, ...]:
        """Where several targets have one output as their nearest source, also the blocks before it."""
        if len(near) != 1 or count == 1 or self.sources[near[0]].tap:
            return near
        output = self.sources[near[0]]
        before = [
            option
            for option in options
            if (one := self.sources[option]).tap
            and one.tensor.strides == output.tensor.strides
            and not one.weights & ~output.weights
        ]
        return (*before[:-1], *near)

    def _share_out(self, paths: list[str], options: tuple[str, ...]) -> None:
        sequences = {self.sources[option].sequence for option in options}
        ordered = len(options) == 1 or (len(sequences) == 1 and "" not in sequences) or "taps" in sequences
        taken = {pairing.source for pairing in self.found.values()}
        if ordered:
            listed = [option for option in options if self.sources[option].listed]
            wanted = [self._specs[path] for path in paths]
            chosen = shared_out(listed if len(listed) >= len(paths) else options, wanted, self.sources, taken)
            instead = shared_out(options, wanted, self.sources, taken)
            for path, option, found in zip(paths, chosen, instead, strict=True):
                others = tuple(other for other in options if other != option)
                remark = "" if option == found else f"{self.name} lists {option} as its level, before {found}"
                if option in taken and name_in(path):
                    remark = f"{self.name} returns nothing of that name, and {option} serves `{option}` too"
                self.found[path] = Pairing(path, option, others, remark=remark)
            return
        for path in paths:
            same = [path] if path in options else [o for o in options if self._offered[o].dims == self._want(path).dims]
            if len(same) == 1 and len(paths) == 1 and same[0] not in taken:
                self.found[path] = Pairing(path, same[0], tuple(o for o in options if o != same[0]))
            else:
                self.faults.append(self._ambiguous(path, options))

    def _choose_index(self, path: str) -> None:
        """Pair an index with that of the points which serve its coordinates."""
        points, spec = self._points_of(path), self._specs[path]
        proven = [g.index for g in self.invariants if points is None or g.result == points]
        options = [
            option
            for option, source in self.sources.items()
            if refusal(source.tensor, spec) is None and (option in proven or source.spec.role == "index")
        ]
        options = [option for option in options if option in proven] or options
        if self.indices == "recover" and points is not None and not options:
            self.found[path] = Pairing(path, points, recover=True, remark="found from the coordinates")
        elif len(options) == 1:
            self.found[path] = Pairing(path, options[0])
        elif options:
            near = self._nearest(path, options)
            if len(near) == 1:
                self.found[path] = Pairing(path, near[0], tuple(o for o in options if o != near[0]))
            else:
                self.faults.append(self._ambiguous(path, near))
        else:
            gathering = next((g for g in self.target.invariants if g.index == path), None)
            self.faults.append(no_index(path, spec, gathering, points, self._offer(), self._remedy(path)))

    def _points_of(self, path: str) -> str | None:
        """The source of the coordinates that belong to an index of the target."""
        for gathering in self.target.invariants:
            if gathering.index == path and gathering.result in self.found:
                return self.found[gathering.result].source
        return None

    def _dishonest(self, path: str, why: str) -> Mismatch:
        spec = self._specs[path]
        role = f", {spec.role} values" if spec.role != "feature" else ""
        specs = [source.spec for source in self.sources.values()]
        remedy = by_hand(spec, self.target.outputs.leaves, specs) or self._remedy(path)
        return Mismatch(path, f"{spec}{role}", self._offer(), remedy, why)

    def _offer(self) -> str:
        shown = [f"{source.path} {source.spec}" for source in self.sources.values()]
        return "; ".join(shown[:4]) + (f"; and {len(shown) - 4} more" if len(shown) > 4 else "") or "no outputs"

    def settle_remedies(self) -> None:
        """Leave all outputs that cannot be served out of the remedy `outputs=[...]`; only now are all of them known."""
        faulty = [fault.where for fault in self.faults if fault.where in self.target.outputs.paths]
        self.faults = [
            replace(fault, remedy=fault.remedy.replace(self._remedy(fault.where), self._remedy(*faulty)))
            for fault in self.faults
        ]

    def _remedy(self, *faulty: str) -> str:
        left = [repr(other) for other in self.target.outputs.paths if other not in faulty]
        shown, unread = (", ".join(names[:4]) + (", ..." if len(names) > 4 else "") for names in (left, faulty))
        return f"outputs=[{shown}]  # if nobody reads {unread}" if left else "another backbone, or a signature by hand"

    def _ambiguous(self, path: str, options: Sequence[str]) -> Mismatch:
        return Mismatch(
            path,
            f"one best source for {self._specs[path]}",
            "equally good: " + ", ".join(f"{option} {self.sources[option].spec}" for option in options[:4]),
            "\n".join(f'pairs={{"{path}": "{option}"}}' for option in options[:3]),
        )
