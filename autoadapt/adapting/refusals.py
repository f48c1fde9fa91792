"""Refusals: which source may not serve which target, decided once for all pairs of tensors of the same forms."""

from __future__ import annotations

import itertools
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from autoadapt.adapting.layouts import POINTS, Factored, Refusal, chain
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import Gathering, TensorSpec
from autoadapt.errors import Mismatch, PlanError, nearest


def check_pairs(pairs: Mapping[str, str], targets: Sequence[str], sources: Sequence[str]) -> None:
    """Refuse pairs with unknown names.

    Args:
        pairs: Sources chosen by the caller, by target.
        targets: The paths of the wanted outputs.
        sources: The paths of the new module's sources.

    Raises:
        PlanError: Some names are unknown; all of them are listed.
    """
    faults = []
    for path, source in pairs.items():
        sides = (
            (path, targets, "an output of the old module"),
            (source, sources, "an output or module of the new one"),
        )
        for unknown, known, expected in sides:
            if unknown not in known:
                near = nearest(unknown, known) or list(known)[:3]
                told = [(path if known is sources else one, one if known is sources else source) for one in near]
                remedy = "\n".join(f"pairs={{{target!r}: {other!r}}}" for target, other in told)
                faults.append(Mismatch(f"pairs, {unknown}", expected, "nothing of that name", remedy))
    if faults:
        raise PlanError("pairs names what there is not", faults)


@dataclass(frozen=True)
class Form:
    """A tensor, and the facts about it on which refusals depend, as numbers that are quick to compare."""

    tensor: Factored
    number: int
    """Stands for all facts but sizes; equal for tensors with equal facts."""
    dims: tuple[int, ...]
    """A number for each dim, equal for equal dims."""
    constants: tuple[int, ...]
    """The numbers of its constant dims, where there are several."""
    extended: bool
    """Whether an axis has tokens besides cells."""


Relation: TypeAlias = "tuple[int, int, bool | tuple[bool, ...], tuple[bool, ...]]"
"""The numbers of source and target, which of their dims are equal, and which of their constants are."""


class Refusals:
    """A cache of refusals by the forms of source and target.

    For plain features only the equality of sizes matters, since a chain resizes and projects any size to any other; so
    thousands of tensors have a few forms. Any other tensor has a form of its own.
    """

    def __init__(self) -> None:
        self._numbers: dict[Hashable, int] = {}
        self._refused: dict[Relation, bool] = {}

    def form(self, tensor: Factored) -> Form:
        """The form of a source or a target."""
        spec = tensor.spec
        dims = self._numbered(spec.dims)
        atoms = [atom for axis in tensor.atoms for atom in axis]
        constants = self._numbered(atom.dim for atom in atoms if not atom.kind)
        extended = any((*tensor.prefixes, *tensor.suffixes))
        extra = tensor.prefixes, tensor.suffixes
        facts: Hashable
        if _is_plain(tensor) and not (extended and len(constants) > 1):
            kinds = tuple(tuple((atom.kind, atom.dim.constant is None) for atom in axis) for axis in tensor.atoms)
            batch = self._numbered(atom.dim for atom in atoms if "B" in atom.kind)
            facts = (spec.dtype, spec.order, *_told(spec), extra, kinds, batch)
        else:
            facts = (
                spec,
                spec.centres,
                _told(spec),
                extra,
                tuple((atom.kind, atom.stride, atom.centres) for atom in atoms),
            )
        return Form(tensor, self._number(facts), dims, constants if len(constants) > 1 else (), extended)

    def refuses(self, source: Form, target: Form) -> bool:
        """Whether a source may not serve a target."""
        key = self.relation(source, target)
        if key not in self._refused:
            self._refused[key] = refusal(source.tensor, target.tensor.spec) is not None
        return self._refused[key]

    def relation(self, source: Form, target: Form) -> Relation:
        """The facts that decide about a pair: pairs of one relation are all refused for the same reason, or all not."""
        alike: bool | tuple[bool, ...] = source.dims == target.dims
        if not alike and (source.extended or target.extended):
            alike = tuple(left == right for left, right in itertools.product(source.dims, target.dims))
        shared = tuple(left == right for left, right in itertools.product(source.constants, target.constants))
        return source.number, target.number, alike, shared

    def _numbered(self, facts: Iterable[Hashable]) -> tuple[int, ...]:
        return tuple(map(self._number, facts))

    def _number(self, fact: Hashable) -> int:
        return self._numbers.setdefault(fact, len(self._numbers))


def _told(spec: TensorSpec) -> tuple[Hashable, ...]:
    """Facts from real runs, in which tensors of equal dims may differ."""
    return spec.class_token, spec.last_token, spec.map_axis, spec.point_axis


def _is_plain(tensor: Factored) -> bool:
    """Whether a tensor holds features of which a chain can change all sizes.

    No points, no empty or complex tensors, and at most three spatial axes, for which there are layers.
    """
    spec = tensor.spec
    kinds = [atom.kind for axis in tensor.atoms for atom in axis]
    empty = any(dim.constant is not None and dim.constant < 1 for dim in spec.dims)
    real = spec.is_floating and not spec.torch_dtype.is_complex
    return real and spec.role == "feature" and POINTS not in kinds and not empty and len([*filter(None, kinds)]) <= 4


def refusal(tensor: Factored, target: TensorSpec) -> str | None:
    """Why a source may not serve a target; None where it may."""
    source = tensor.spec
    if source.torch_dtype.is_complex != target.torch_dtype.is_complex:
        return "complex and real values are not made from each other"
    if source.torch_dtype.is_complex and source.dims != target.dims:
        return "complex values are neither projected nor resized"
    if target.role == "coordinate" and source.role != "coordinate":
        return "coordinates are passed on, never made from features"
    if source.role in ("coordinate", "index") and target.role != source.role:
        return f"{source.role} values are no {target.role} values"
    if len(source.dims) == 2 and tensor.strides and source.dims != target.dims and len(target.dims) > 2:
        return "channels and cells that stand on one axis, as the flattened scores of a sliding head, are no map"
    found = chain(tensor, target)
    return found.why if isinstance(found, Refusal) else None


def most_telling(whys: Sequence[str]) -> str:
    """The commonest reason, the last among equals; reasons about other kinds of values only if there are no others."""
    alike = [why for why in reversed(whys) if " values are no " not in why] or list(reversed(whys))
    return max(alike, key=alike.count) if alike else "it returns nothing"


def by_hand(spec: TensorSpec, targets: Sequence[TensorSpec], sources: Sequence[TensorSpec]) -> str:
    """The remedy for a refused spec, where the caller can write something; else empty.

    A spec with a constant number of samples should have the axis `B`. A map of fixed size needs a pooling around the
    new module, and tokens of bands and frames a mean over bands.

    Example:
        >>> spec, source = TensorSpec.parse("f32[2, 64, 8, 8]"), TensorSpec.parse("f32[B, 8, H, W]")
        >>> by_hand(spec, [spec], [source])
        '"f32[B, 64, 8, 8]"  # B for the number of samples'
        >>> without = TensorSpec.parse("f32[64, 8, 8]")
        >>> by_hand(without, [without], [source])
        '"f32[B, 64, 8, 8]"  # B for the number of samples'
    """
    sides = [one.dims[2:] for one in (spec, *sources) if len(one.dims) == 4 and not any(d.axes for d in one.dims[1:])]
    if len(targets) == 1 and len(sides) > 1 and sides[0] == spec.dims[2:] != sides[1]:
        size = ", ".join(map(str, sides[0]))
        return f"nn.Sequential(new, nn.AdaptiveAvgPool2d(({size})))  # for new, if both list rows and columns last"
    listed = any(one.point_axis is not None for one in sources)
    if listed and any(dim.axes - {"B"} for dim in spec.dims):
        frames = "tokens[:, others:].unflatten(1, (bands, frames)).mean(1)"
        return f"return {frames}  # in a module around new: behind the others, bands in rows"
    batched = any("B" in dim.axes for one in sources for dim in one.dims)
    if not batched or any("B" in dim.axes for one in targets for dim in one.dims) or len(spec.dims) < 2:
        return ""
    ranks = {len(one.dims) - len(spec.dims) for one in sources}  # 1 where the axis of samples is left out
    dims = spec.dims if 1 in ranks and 0 not in ranks else spec.dims[1:]
    return f'"{spec.with_dims([Dim.axis("B"), *dims])}"  # B for the number of samples'


def no_index(
    path: str, spec: TensorSpec, gathering: Gathering | None, points: str | None, offer: str, remedy: str
) -> Mismatch:
    """The mismatch of an index output without a source.

    Args:
        path: The path of the index.
        spec: The spec of the index.
        gathering: The invariant that it takes part in, if there is one.
        points: The source of the coordinates that it gathers, if there is one.
        offer: What the new module offers, as text.
        remedy: The remedy where nobody reads the index.
    """
    into = f" into the points of `{gathering.values.removeprefix('inputs.')}`" if gathering else ""
    remedies = ['adapt(..., indices="recover")  # the coordinates are exact input points'] if points else []
    return Mismatch(
        path,
        f"{spec.dtype}[{', '.join(map(str, spec.dims))}], index{into}",
        f"{offer}; no such integers",
        "\n".join([*remedies, remedy]),
        "a layer that makes integers up has the right shape and is wrong: labels are gathered with them",
    )
