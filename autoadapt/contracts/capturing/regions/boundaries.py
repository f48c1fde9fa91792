"""Boundaries: the values that enter and leave a region, found in traces of the whole model.

Values are numbers, as in `traces`; members are the modules of the region, and a round is one pass through it.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace

from torch import nn

from autoadapt.contracts.capturing.regions.hooks import hooked
from autoadapt.contracts.capturing.regions.members import RegionPath, find_members, region_text
from autoadapt.contracts.capturing.regions.passages import Region, Returned, names_of
from autoadapt.contracts.capturing.regions.traces import Call, Step, Trace
from autoadapt.contracts.trees import Slot
from autoadapt.errors import CaptureError, Mismatch


def find_region(model: nn.Module, traces: Sequence[Trace], region: RegionPath, outputs: Collection[str] = ()) -> Region:
    """The region of some paths, from traces of the model.

    Args:
        model: The model.
        traces: One trace, or one for each mode; a value that is read in any of them counts as read.
        region: A list of paths, or a span `first:last` in order of calls.
        outputs: Names of leaves that count as read in any case.

    Raises:
        CaptureError: They are no region: it shares parameters with the rest of the model, other modules with weights
        run
            between its members, or values enter after its first member.
    """
    members = find_members(model, traces[0], region)
    _refuse_shared(model, members, region)
    wanted = _Wanted(
        frozenset(outputs), hooked(model, members, "_forward_pre_hooks"), hooked(model, members, "_forward_hooks")
    )
    found = [one for trace in traces for one in _rounds_of(trace, members, wanted)]
    faults = list(dict.fromkeys(fault for one in found for fault in one.faults()))
    if faults:
        inside = {*members, *(path for one in found for path in one.strangers)}
        closed = dict.fromkeys(call.path for call in traces[0].calls if call.path in inside)
        told = [replace(fault, remedy=fault.remedy or f"{list(closed)}") for fault in faults]
        raise CaptureError(f"`{region_text(region)}` is no region: {_cause(found)}", told)
    if len({tuple(call.path for call in one.calls) for one in found}) > 1:
        fault = Mismatch(region_text(region), "the same modules in each pass and mode", "others", "print(model)")
        raise CaptureError(f"`{region_text(region)}` is not run alike each time", [fault])
    return _merged(found, members, rounds=len(_rounds_of(traces[0], members, wanted)))


def _refuse_shared(model: nn.Module, members: Sequence[str], region: RegionPath) -> None:
    """Refuse members whose parameters the rest of the model holds too, and would keep.

    Raises:
        CaptureError: There are such parameters.
    """
    inner = {id(model.get_submodule(path)) for path in members}
    named = list(model.named_modules(remove_duplicate=False))
    places = [path for path, module in named if id(module) in inner]
    own = {id(p): path for path in members for p in model.get_submodule(path).parameters()}
    faults = [
        Mismatch(own[id(p)], "modules of which the rest of the model holds nothing", f"{name} is a part of it")
        for name, p in model.named_parameters(remove_duplicate=False)
        if id(p) in own and not any(name.startswith(f"{place}.") for place in places)
    ]
    if faults:
        remedy = f"a region without {faults[0].where}"
        faults = [Mismatch(f.where, f.expected, f.found, remedy) for f in faults]
        raise CaptureError(f"`{region_text(region)}` shares `{faults[0].where}` with the rest of the model", faults)


def _cause(found: Sequence[_Round]) -> str:
    if any(one.is_run_again for one in found):
        return "the rest of the model runs a part of it again"
    if any(one.strangers for one in found):
        return "other modules stand between its own"
    return "more goes in than its first module is given"


def _rounds_of(trace: Trace, members: Sequence[str], wanted: _Wanted) -> list[_Round]:
    """The passes through a region: its calls divided into as many equal sequences as possible."""
    numbers = {number for number, call in enumerate(trace.calls) if call.path in members}
    calls = [trace.calls[n] for n in sorted(numbers) if not numbers & set(trace.calls[n].within)]
    most = math.gcd(*Counter(call.path for call in calls).values()) if calls else 1
    for count in range(most, 0, -1):
        size = len(calls) // count
        parts = [calls[i * size : (i + 1) * size] for i in range(count)]
        if most % count == 0 and len({tuple(call.path for call in part) for part in parts}) == 1:
            return [_Round(trace, part, wanted) for part in parts]
    raise AssertionError("all calls together are one part")


@dataclass(frozen=True)
class _Wanted:
    """What counts as read although no step of the trace reads it."""

    outputs: frozenset[str]
    """Names of leaves."""
    given: frozenset[str]
    """Members with forward pre-hooks of callers, which read their arguments."""
    returned: frozenset[str]
    """Members with forward hooks of callers, which read their outputs."""


@dataclass
class _Round:
    """One pass through a region in a trace."""

    trace: Trace
    calls: list[Call]
    wanted: _Wanted
    strangers: list[str] = field(default_factory=list)
    """Modules with weights that run between its members."""

    def __post_init__(self) -> None:
        at = {id(call): number for number, call in enumerate(self.trace.calls)}
        self._numbers = {at[id(call)] for call in self.calls}
        self._around = set(self.calls[0].within).intersection(*(call.within for call in self.calls))
        self._inputs = set(self.calls[0].given) - self.trace.parameters.keys()
        self._given = {value for call in self.calls[1:] for value in call.given}
        self._derived, self._foreign = self._followed()
        self._learned = self._made_by_others()
        self._feeding = self._found_feeding()
        self._hooks_read = {
            value for call in self.calls if call.path in self.wanted.returned for value in call.returned
        }
        self._hooks_read |= {value for call in self.calls[1:] if call.path in self.wanted.given for value in call.given}
        self._kept = self._found_kept()

    def _is_inside(self, step: Step) -> bool:
        return bool(self._numbers & set(step.within))

    def _followed(self) -> tuple[set[int], set[int]]:
        """Values computed from members; and values computed from the model's inputs, but not through members."""
        made = {value for step in self.trace.steps for value in step.makes}
        known = made | self.trace.parameters.keys() | self.trace.constants
        derived = set[int]()
        foreign = {value for step in self.trace.steps for value in step.reads} - known
        foreign |= {value for call in self.trace.calls for value in call.given} - known
        foreign -= self._inputs
        for step in self.trace.steps:
            if self._is_inside(step) or derived.intersection(step.reads):
                derived |= set(step.makes)
            elif foreign.intersection(step.reads):
                foreign |= set(step.makes) - self._inputs
        return derived, foreign

    def _outside(self) -> list[Step]:
        """Steps outside of the members that read values computed from them, in order; the last reads the buffers."""
        members = tuple(f"{call.path}." for call in self.calls)
        kept = tuple(value for name, value in self.trace.state.items() if not name.startswith(members))
        steps = [*self.trace.steps, Step("the model's buffers", kept, (), ())]
        return [s for s in steps if not self._is_inside(s) and self._derived.intersection(s.reads)]

    def _found_feeding(self) -> list[Step]:
        """Those of these steps whose results go back into the region."""
        needed, found = set(self._given), []
        for step in reversed(self._outside()):
            if needed.intersection(step.makes):
                needed |= set(step.reads)
                found.append(step)
        return found[::-1]

    def _reads(self, step: Step) -> set[int]:
        """The values that a step reads, and all earlier values of the same tensors."""
        return {value for read in step.reads for value in self.trace.history(read)}

    def _found_kept(self) -> set[int]:
        """The `id` of each step whose results go only back into the region."""
        elsewhere = {v for n, call in enumerate(self.trace.calls) if self._is_other(n) for v in call.given}
        elsewhere |= self._hooks_read
        kept = set[int]()
        for step in reversed(self._outside()):
            if (step.makes or step.looks) and not elsewhere.intersection(step.makes):
                kept.add(id(step))
            else:
                elsewhere |= self._reads(step)
        return kept

    def _is_other(self, number: int) -> bool:
        """Whether a call belongs to another pass through the region."""
        call = self.trace.calls[number]
        return number not in self._numbers and call.path in {one.path for one in self.calls}

    def _owner(self, step: Step) -> str:
        """The path of the outermost module around a step, of those that do not contain the whole pass; else empty."""
        number = next((n for n in step.within if n not in self._around), None)
        return "" if number is None else self.trace.calls[number].path

    def faults(self) -> list[Mismatch]:
        """The reasons why the members are no region."""
        found = list[Mismatch]()
        for step in self._feeding:
            owner = self._owner(step)
            if owner and owner not in self.strangers and self.trace.parameters.keys() & set(step.reads):
                self.strangers.append(owner)
                why = "it reads what comes out of the region, and what comes of that goes back into it"
                expected = "modules of the region alone between its first and its last"
                found.append(Mismatch(owner, expected, owner, "", why))
        for place, value in self._entering_late():
            found.append(self._late(place, value))
        return self._run_again() or found + self._looked_inside()

    def _run_again(self) -> list[Mismatch]:
        """Members that run again outside of the region, on values computed from it."""
        count = Counter(call.path for call in self.calls)
        return [
            Mismatch(
                path,
                "modules that run within the region alone",
                f"it runs {number} times, also on what {', '.join(self.strangers)} makes of the region",
                f"a region without {path}",
            )
            for path, number in count.items()
            if number > 1 and self.strangers
        ]

    def _made_by_others(self) -> dict[int, str]:
        """Values computed by other modules with weights, and not from the region, with the paths of these modules."""
        found: dict[int, str] = {}
        for step in self.trace.steps:
            if self._is_inside(step) or self._derived.intersection(step.makes):
                continue
            owner = self._owner(step) if self.trace.parameters.keys() & set(step.reads) else ""
            owner = owner or next((found[value] for value in step.reads if value in found), "")
            found |= {value: owner for value in step.makes if owner and value not in self._inputs}
        return found

    def _entering_late(self) -> list[tuple[str, int]]:
        """Values that enter after the first member, each with the member or function that reads it."""
        late = self._foreign | self._learned.keys()
        given = [(call.path, value) for call in self.calls[1:] for value in call.given]
        read = [(step.name, value) for step in self._feeding for value in step.reads]
        return [(place, value) for place, value in [*given, *read] if value in late]

    def _late(self, place: str, value: int) -> Mismatch:
        owner = self._learned.get(value, "")
        if place == self.calls[0].path:
            found = "it is entered again before it is left, with other values"
            return Mismatch(place, "one pass after the other, each from the first module to the last", found, _APART)
        if owner and owner not in self.strangers:
            self.strangers.append(owner)
        expected = f"inputs that enter at {self.calls[0].path}"
        if value in self.trace.unregistered:
            plain = self.trace.unregistered[value]
            found = f"weights of {plain.path}, in a plain attribute, which PyTorch does not see, enter at {place}"
            return Mismatch(plain.path, "registered modules", found, plain.registered)
        found = f"what {owner or 'the model is given'} {'makes ' if owner else ''}enters at {place}"
        return Mismatch(place, expected, found, _APART if value in self._foreign else "")

    def _looked_inside(self) -> list[Mismatch]:
        """Steps of the rest of the model that read a tensor from inside of a member, and not its output."""
        returned = {value for call in self.calls for value in call.returned}
        inner = {v: s for s in self.trace.steps if self._is_inside(s) for v in s.makes if v not in returned}
        begun = inner.keys() | self._inputs
        taken = [
            (inner[v], step)
            for step in self._outside()
            if id(step) not in self._kept
            for v in step.reads
            if v in inner and begun.issuperset(self.trace.history(v))
        ]
        return [
            Mismatch(
                self.trace.calls[made.within[-1]].path,
                "outputs of whole members",
                f"{step.name} reads a tensor from inside",
                "name the modules inside instead",
            )
            for made, step in taken
        ]

    def _written_over(self) -> set[int]:
        """The earlier values of tensors that functions outside of the members write to in place."""
        steps = [step for step in self._outside() if step.overwrites and not step.name.endswith("()")]
        return {self.trace.before[made] for step in steps for made in step.makes if made in self.trace.before}

    def returned(self, names: Sequence[Sequence[str]]) -> list[Returned]:
        """Each call of a member, and which of its leaves are read outside."""
        outside, read = self.trace.numbers | self._hooks_read, set(self._hooks_read)
        chosen = {
            value
            for call, own in zip(self.calls, names, strict=True)
            for value, name in zip(call.returned, own, strict=True)
            if name in self.wanted.outputs
        }
        outside, read = outside | chosen, read | chosen
        for step in self._outside():
            outside |= self._reads(step)
            read |= set() if id(step) in self._kept else self._reads(step)
        for number, call in enumerate(self.trace.calls):
            read |= set(call.given) if self._is_other(number) else set()
        over = {value for step in self._feeding if step.overwrites for value in step.reads} | self._written_over()
        return [
            Returned(
                path=call.path,
                tree=call.tree or Slot(),
                names=tuple(n if v in outside | read else "" for n, v in zip(own, call.returned, strict=True)),
                read=tuple(value in read for value in call.returned),
                numbers=tuple(value in self.trace.numbers for value in call.returned),
                overwritten=bool(over.intersection(call.returned)),
                forms=(call.form,),
                follows=bool(self._derived.intersection(call.given)),
            )
            for call, own in zip(self.calls, names, strict=True)
        ]

    @property
    def is_run_again(self) -> bool:
        """Whether the rest of the model runs a member again."""
        return bool(self.strangers) and len({call.path for call in self.calls}) < len(self.calls)

    @property
    def parents(self) -> list[Call]:
        """The calls that contain the whole pass, the outermost first."""
        return [self.trace.calls[number] for number in sorted(self._around)]

    @property
    def runner(self) -> str | None:
        """The path of the innermost of these calls that gets the region's inputs, else of the innermost."""
        given = [call.path for call in self.parents if set(call.given) >= self._inputs]
        return next(iter((*given[::-1], *(call.path for call in self.parents[::-1]))), None)

    @property
    def functions(self) -> list[str]:
        """Names of the functions between members."""
        return [step.name for step in self._feeding if not step.name.endswith("()")]

    @property
    def weights_between(self) -> list[str]:
        """Names of parameters that functions between members read, or that later members get as arguments."""
        read = [value for step in self._feeding if id(step) in self._kept for value in step.reads]
        given = [value for call in self.calls[1:] for value in call.given]
        return [self.trace.parameters[value] for value in (*read, *given) if value in self.trace.parameters]

    @property
    def learned_functions(self) -> list[str]:
        """Names of functions that read parameters and whose results go only back into the region."""
        steps = [step for step in self._outside() if id(step) in self._kept]
        return [step.name for step in steps if self.trace.parameters.keys() & set(step.reads)]

    @property
    def taking_functions(self) -> list[str]:
        """Names of functions that read values computed from the members."""
        return [step.name for step in self._outside()]

    @property
    def mixing_functions(self) -> list[str]:
        """Names of those of them that read several tensors."""
        return [step.name for step in self._outside() if len(step.reads) > 1]


_APART = "swap its parts one by one"


def _merged(found: Sequence[_Round], members: Sequence[str], *, rounds: int) -> Region:
    """One region from all passes in all traces."""
    first = found[0]
    names = names_of(first.calls)
    passes = [one.returned(names) for one in found]
    order = [
        calls[0].model_copy(
            update={
                "names": tuple(
                    next((n for n in each if n), "") for each in zip(*(c.names for c in calls), strict=True)
                ),
                "read": tuple(any(each) for each in zip(*(call.read for call in calls), strict=True)),
                "overwritten": any(call.overwritten for call in calls),
                "follows": all(call.follows for call in calls),
                "forms": tuple(dict.fromkeys(form for call in calls for form in call.forms)),
            }
        )
        for calls in zip(*passes, strict=True)
    ]
    return Region(
        members=tuple(members),
        order=tuple(order),
        rounds=rounds,
        parent=first.parents[-1].path if first.parents else None,
        runner=first.runner,
        functions=tuple(first.functions),
        weights_between=tuple(dict.fromkeys(first.weights_between)),
        learned_functions=tuple(dict.fromkeys(name for one in found for name in one.learned_functions)),
        mixing_functions=tuple(dict.fromkeys(name for one in found for name in one.mixing_functions)),
        taking_functions=tuple(dict.fromkeys(name for one in found for name in one.taking_functions)),
        hooked=tuple(path for path in members if path in first.wanted.given | first.wanted.returned),
    )
