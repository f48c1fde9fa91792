"""Producers: built parts that others take from, with the adapters that what they take asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction
from functools import cached_property

from torch import nn

from autoadapt.adapting.building import built
from autoadapt.adapting.planning import Fit, Plan, plan
from autoadapt.assembly.levels import Level, coarsest, distinct, levels_of, nearest_level, octave_of, with_stride
from autoadapt.assembly.models import Pick
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import AxisSizes, Centres, Signature, TensorSpec, Values
from autoadapt.contracts.trees import Key, paths
from autoadapt.errors import Mismatch, nearest


@dataclass(frozen=True)
class Demand:
    """One tensor that a part takes: from which level, and as what."""

    level: Level
    spec: TensorSpec


@dataclass
class Producer:
    """A built part.

    Args:
        name: What configs call it.
        module: The part itself.
        signature: What it takes and gives, in terms of its own input axes.
        specs: What it gives, in terms of the axes of the network's input, by path.
        legal: For the backbone, the sizes of its input axes that the network takes.
        network: For the others, the sizes of the network's input axes.
        demands: What others take from it.
        plan: Of the adapters behind it, once there are any.
    """

    name: str
    module: nn.Module
    signature: Signature
    specs: Mapping[str, TensorSpec]
    legal: Mapping[str, AxisSizes] = field(default_factory=dict)
    network: Mapping[str, int] = field(default_factory=dict)
    demands: dict[str, Demand] = field(default_factory=dict)
    plan: Plan | None = None

    @property
    def sizes(self) -> dict[str, int]:
        """Sizes of the network's input axes."""
        return dict(self.network) or self.signature.sizes(**{axis: legal.example for axis, legal in self.legal.items()})

    @cached_property
    def levels(self) -> list[Level]:
        """What others can take from it; only a backbone's outputs are brought to the layout of maps."""
        if self.name == "backbone":
            return levels_of(self.signature)
        found = levels_of(self.signature.model_copy(update={"inner": ()}))
        return [_alone(level.path, self.specs[level.path]) for level in found]

    def find(self, name: str) -> Level | None:
        """The level of a name: a path among the outputs, `c4`, or a place; also one that has to be made."""
        levels = self.levels
        for level in levels:
            if level.path == name:
                return level
        for level in distinct(levels):
            if name == level.octave:
                return level
        if name.removeprefix("-").isdecimal():
            return self._at_place(int(name))
        if self.name == "backbone" and name[:1] == "c" and name[1:].isdigit() and int(name[1:]) < 10:
            return self.at_stride(2 ** int(name[1:]))
        return None

    def _at_place(self, place: int) -> Level | None:
        """The level at a place among the maps, in the order in which they are returned; from the end where negative."""
        maps = [level for level in self.levels if level.stride] or self.levels
        given = [level for level in maps if not level.is_tap] or distinct(maps)
        return given[place] if -len(given) <= place < len(given) else None

    def at_stride(self, stride: int) -> Level | None:
        """The level of a stride, made from the nearest where there is none."""
        level = nearest_level(self.levels, stride)
        if level is None or level.stride == stride:
            return level
        made = with_stride(level, stride)
        found = Fraction(stride)
        return replace(level, natural=made, stride=found, octave=octave_of(found))

    def in_order(self, strides: Sequence[int]) -> list[Level]:
        """Maps at one stride, as a vision transformer gives them, each brought to the stride of its place."""
        levels = [level for level in self.levels if level.stride and not level.is_tap]
        if len(levels) != len(strides) or len(distinct(levels)) == len(levels):
            return []
        pairs = zip(levels, strides, strict=True)
        return [replace(level, natural=with_stride(level, stride), stride=Fraction(stride)) for level, stride in pairs]

    def default(self) -> Level | None:
        """The level that a part gets which asks for one."""
        return coarsest(self.levels)

    def unknown(self, name: str, where: str) -> Mismatch:
        """That there is no such level."""
        known = list(dict.fromkeys(other for level in self.levels for other in (level.octave, level.path) if other))
        near = nearest(name, known, count=1) or known[-1:]
        remedy = f"from: {self.name}.{near[0]}" if near else f"from: {self.name}"
        return Mismatch(where, f"a level of {self.name}: {', '.join(known)}", f"`{name}`", remedy)

    def demand(self, level: Level, spec: TensorSpec) -> str:
        """Note that a part takes something; gives the key under which it will be found."""
        demand = Demand(level, spec)
        for key, known in self.demands.items():
            if known == demand:
                return key
        key = base = "".join(char if char.isalnum() else "_" for char in level.name)
        for i in range(2, 99):
            if key not in self.demands:
                break
            key = f"{base}_{i}"
        self.demands[key] = demand
        return key

    @property
    def needs_adapter(self) -> bool:
        """Whether something is taken that the module does not give by itself, or its input has to be brought in."""
        covered = all(
            sizes.covers(self.legal[axis]) for axis, sizes in self.signature.axes.items() if axis in self.legal
        )
        is_freed = self.signature.native is not None and not self.signature.native.refused
        return not covered or is_freed or any(d.level.is_tap or d.spec != d.level.spec for d in self.demands.values())

    def adapt(self, fit: Fit | None = None) -> None:
        """Build the adapters, if there is anything to adapt.

        Args:
            fit: How images get a size that a backbone takes.
        """
        if not self.needs_adapter:
            return
        own = {key: self._own(demand) for key, demand in self.demands.items()}
        if fit == "pad":
            own = {key: with_even_cells(spec) for key, spec in own.items()}
        signature = self.signature
        axes = {**signature.axes, **self.legal}
        contract = Signature.parse(own, name="the parts that follow", axes=axes).model_copy(
            update={"inputs": signature.inputs, "positional": signature.positional}
        )
        pairs = {key: demand.level.path for key, demand in self.demands.items()}
        self.plan = _unremarked(plan(signature, contract, pairs=pairs, fit=fit if self.name == "backbone" else None))
        self.module = built(self.module, self.plan)

    def _own(self, demand: Demand) -> TensorSpec:
        """What is asked for in terms of the module's own input axes."""
        if self.name == "backbone":
            return demand.spec
        given = self.signature.outputs[demand.level.path]
        changed = zip(given.dims, demand.level.spec.dims, demand.spec.dims, strict=True)
        return given.with_dims([own if was == want else want for own, was, want in changed])

    def pick(self, key: str) -> Pick:
        """Where a demand is found when the model runs."""
        if self.plan is not None:
            return Pick(self.name, (key,))
        return Pick(self.name, self.keys(self.demands[key].level.path))

    def keys(self, path: str) -> tuple[Key, ...]:
        """The keys that lead to an output."""
        known = zip(self.signature.outputs.paths, paths(self.signature.outputs.tree), strict=True)
        return next(keys for text, keys in known if text == path)


def _alone(path: str, spec: TensorSpec) -> Level:
    made = levels_of(Signature.parse({"x": spec}))[0]
    return Level(path, spec, spec, made.stride, made.channels)


def _unremarked(made: Plan) -> Plan:
    """Without the remark that pairs were given, since it was not the user who gave them."""
    said = "chosen by the caller"
    routes = (r.model_copy(update={"remark": r.remark.removeprefix(said).removeprefix("; ")}) for r in made.routes)
    return made.model_copy(update={"routes": tuple(routes)})


def pinned(
    name: str, module: nn.Module, signature: Signature, given: Sequence[TensorSpec], sizes: Mapping[str, int]
) -> Producer:
    """A part that was captured by itself, in its place: what it gives, in terms of the network's input.

    Args:
        name: What configs call it.
        module: The part.
        signature: What it takes and gives by itself.
        given: What it is given, in the order of its inputs, in terms of the network's axes.
        sizes: Sizes of these axes.
    """
    meaning: dict[str, Dim] = {}
    for own, spec in zip(signature.inputs.leaves, given, strict=True):
        for axis, dim in zip(own.dims, spec.dims, strict=True):
            if str(axis) in signature.axes:
                meaning.setdefault(str(axis), dim)
    specs = {path: _substituted(spec, meaning) for path, spec in signature.outputs.items()}
    constants = {axis: dim for axis, dim in meaning.items() if dim.constant is not None}
    values = {
        "inputs": _with_leaves(signature.inputs, constants),
        "outputs": _with_leaves(signature.outputs, constants),
        "axes": {axis: legal for axis, legal in signature.axes.items() if axis not in constants},
    }
    return Producer(name, module, signature.model_copy(update=values), specs, network=sizes)


def _with_leaves(values: Values, meaning: Mapping[str, Dim]) -> Values:
    return values.model_copy(update={"leaves": tuple(_substituted(leaf, meaning) for leaf in values.leaves)})


def _substituted(spec: TensorSpec, meaning: Mapping[str, Dim]) -> TensorSpec:
    return spec.with_dims([dim.substitute(dict(meaning)) for dim in spec.dims])


def with_even_cells(spec: TensorSpec) -> TensorSpec:
    """A level with its cells in the middle of as many pixels as its stride, from the first pixel on.

    Configs have no old module that would tell where cells lie, and images that are padded need it told.
    """
    if spec.centres:
        return spec
    strides = [(axis, 1 / slope) for dim in spec.dims for axis in ("H", "W") if (slope := dim.slope(axis))]
    placed = tuple(Centres(axis=axis, first=float(s - 1) / 2, step=float(s)) for axis, s in strides)
    return spec.model_copy(update={"centres": placed})
