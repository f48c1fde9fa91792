"""Order: the k-th layer of the checkpoint is the k-th of the model, where that can be proven.

Registration order is a habit, not a fact: two layers of equal shape may be written down the other
way round. So pairing by order is refused wherever layers could change places without any shape
telling, unless their names are numbered in that order, or the same on both sides.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise

from autoadapt.errors import Mismatch, TransferError
from autoadapt.weights.tensor_specs import Spec, parent, shape_text

_COUNTER = "num_batches_tracked"
_NUMBERED = re.compile(r"(.*?)(\d*)(\D*)")


@dataclass(frozen=True)
class _Layer:
    """One module's own tensors, in order."""

    path: str
    leaves: dict[str, Spec]

    @property
    def shapes(self) -> tuple[tuple[str, tuple[int, ...]], ...]:
        return tuple((leaf, spec.shape) for leaf, spec in self.leaves.items() if leaf != _COUNTER)

    def __str__(self) -> str:
        return f"{self.path or 'root'} ({', '.join(f'{leaf} {shape_text(s)}' for leaf, s in self.shapes)})"


@dataclass
class _Node:
    """A module in the tree of names: its children in order, and the layers below it."""

    children: dict[str, _Node] = field(default_factory=dict)
    layers: list[int] = field(default_factory=list)


def pair_by_order(sources: Sequence[Spec], targets: Sequence[Spec]) -> list[tuple[str, str]]:
    """Pair two lists of tensors by their order.

    The last layer may differ in shape (another number of classes), every other must be equal.

    Raises:
        TransferError: If the shapes do not run in parallel, or equal shapes make it ambiguous.

    Example:
        >>> old = [Spec("_stem.weight", (8, 3, 3, 3)), Spec("_fc.weight", (10, 8))]
        >>> new = [Spec("conv.weight", (8, 3, 3, 3)), Spec("head.weight", (10, 8))]
        >>> pair_by_order(old, new)
        [('_stem.weight', 'conv.weight'), ('_fc.weight', 'head.weight')]
    """
    left, right = _layers(sources), _layers(targets)
    _refuse_if_not_parallel(left, right)
    groups = [*_unordered(left, right, "checkpoint"), *_unordered(right, left, "model")]
    if groups:
        raise TransferError("order is ambiguous: layers of equal shape could change places", groups)
    return [pair for source, target in zip(left, right, strict=True) for pair in _pair_leaves(source, target)]


def _layers(specs: Sequence[Spec]) -> list[_Layer]:
    leaves: dict[str, dict[str, Spec]] = defaultdict(dict)
    for spec in specs:
        leaves[parent(spec.name)][spec.name.rpartition(".")[2]] = spec
    return [_Layer(path, own) for path, own in leaves.items()]


def _refuse_if_not_parallel(left: list[_Layer], right: list[_Layer]) -> None:
    last = len(right) - 1
    for index, (source, target) in enumerate(zip(left, right, strict=False)):
        if not _parallel(source, target, is_last=index == last == len(left) - 1):
            fault = Mismatch(f"layer {index + 1}", str(target), str(source), 'match="names" with rename=')
            raise TransferError("order does not match", [fault])
    if len(left) != len(right):
        fault = Mismatch("layers", f"{len(right)} in the model", f"{len(left)} in the checkpoint", "exclude=, scope=")
        raise TransferError("order does not match", [fault])


def _parallel(source: _Layer, target: _Layer, *, is_last: bool) -> bool:
    names = [leaf for leaf, _ in source.shapes], [leaf for leaf, _ in target.shapes]
    if is_last and names[0] == names[1]:
        return all(len(a) == len(b) for (_, a), (_, b) in zip(source.shapes, target.shapes, strict=True))
    if sorted(names[0]) == sorted(names[1]):
        return dict(source.shapes) == dict(target.shapes)
    shapes = [shape for _, shape in source.shapes]
    return len(set(shapes)) == len(shapes) and shapes == [shape for _, shape in target.shapes]


def _pair_leaves(source: _Layer, target: _Layer) -> list[tuple[str, str]]:
    if dict(source.shapes).keys() == dict(target.shapes).keys():
        common = [leaf for leaf in source.leaves if leaf in target.leaves]
        return [(source.leaves[leaf].name, target.leaves[leaf].name) for leaf in common]
    return [(a.name, b.name) for a, b in zip(source.leaves.values(), target.leaves.values(), strict=False)]


def _unordered(side: list[_Layer], other: list[_Layer], where: str) -> list[Mismatch]:
    """Groups of siblings that could change places on one side without any shape telling."""
    return [
        Mismatch(
            f"in the {where}: {', '.join(_join(path, name) for name in group)}",
            "numbered names, or the same names on both sides",
            f"equal shapes, {side[layers[0][0]]}",
            'match="names" with rename=, or exclude= for these',
        )
        for path, group, layers in _interchangeable(side)
        if not _numbered(group) and not _same_words(group, layers, other)
    ]


def _join(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _tree(layers: list[_Layer]) -> _Node:
    root = _Node()
    for index, layer in enumerate(layers):
        node = root
        for segment in layer.path.split(".") if layer.path else ():
            node = node.children.setdefault(segment, _Node())
            node.layers.append(index)
    return root


def _interchangeable(layers: list[_Layer]) -> Iterator[tuple[str, list[str], list[list[int]]]]:
    waiting = [("", _tree(layers))]
    while waiting:
        path, node = waiting.pop()
        waiting += [(_join(path, name), child) for name, child in node.children.items()]
        shapes = {name: tuple(layers[i].shapes for i in child.layers) for name, child in node.children.items()}
        groups: dict[object, list[str]] = defaultdict(list)
        for name, own in shapes.items():
            groups[own].append(name)
        commuting = [
            [a, b]
            for a, b in pairwise(shapes)
            if shapes[a] != shapes[b] and shapes[a] + shapes[b] == shapes[b] + shapes[a]
        ]
        for group in [*(g for g in groups.values() if len(g) > 1), *commuting]:
            yield path, group, [node.children[name].layers for name in group]


def _numbered(names: list[str]) -> bool:
    """Whether names differ by rising numbers alone; the first may go without one."""
    parts = [_split_number(name) for name in names]
    stems = {(before, after) for before, _, after in parts}
    numbers = [number for _, number, _ in parts]
    return len(stems) == 1 and all(a < b for a, b in pairwise(numbers))


def _split_number(name: str) -> tuple[str, int, str]:
    found = _NUMBERED.fullmatch(name)
    assert found is not None
    before, digits, after = found.groups()
    return (before, int(digits), after) if digits else (before + after, -1, "")


def _same_words(names: list[str], layers: list[list[int]], other: list[_Layer]) -> bool:
    return all(name in other[index].path.split(".") for name, own in zip(names, layers, strict=True) for index in own)
