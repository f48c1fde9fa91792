"""Values: a tree of containers with a spec for each tensor in it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Mapping
from functools import cached_property
from typing import Any

from pydantic import model_validator
from torch import nn

from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature.cell_centres import Frozen
from autoadapt.contracts.signature.specs import TensorSpec
from autoadapt.contracts.trees import Constant, Container, LeftOut, Opaque, Slot, Tree, alike, path_texts, paths
from autoadapt.errors import Mismatch, SignatureError
from autoadapt.errors.printable import visible


class Values(Frozen):
    """The inputs or the outputs of a module: their containers, and the spec of each tensor."""

    tree: Tree
    leaves: tuple[TensorSpec, ...]

    @model_validator(mode="after")
    def _told_apart(self) -> Values:
        """Refuse trees with another number of tensors than leaves, or with equal paths."""
        faults = [
            Mismatch(path, "one tensor of this path", "several whose paths read alike", "give each a key of its own")
            for path in alike(self.tree)
        ]
        count = len(paths(self.tree))
        if count != len(self.leaves):
            fault = Mismatch("leaves", f"{count}, one for each tensor of the tree", str(len(self.leaves)))
            raise SignatureError("the tensors do not fit their containers", [fault])
        if faults:
            raise SignatureError(f"two tensors are both called `{faults[0].where}`", faults)
        return self

    @property
    def paths(self) -> tuple[str, ...]:
        """The path of each leaf, as text."""
        return tuple(self._by_path)

    def items(self) -> Iterable[tuple[str, TensorSpec]]:
        """Path and spec of each leaf, in order."""
        return self._by_path.items()

    def __getitem__(self, path: str) -> TensorSpec:
        return self._by_path[path]

    @cached_property
    def _by_path(self) -> dict[str, TensorSpec]:
        return dict(zip(path_texts(self.tree), self.leaves, strict=True))

    def standing(self, kept: Collection[str]) -> tuple[TensorSpec, ...]:
        """The leaves at some paths, where `same_as` names the first of these paths with the same tensor.

        Example:
            >>> values = Values.parse({"a": "f32[B]", "b": "f32[B] = a", "c": "f32[B] = a"})
            >>> [str(leaf) for leaf in values.standing(["b", "c"])]
            ['f32[B]', 'f32[B] = b']
        """
        first: dict[str, str] = {}
        found = []
        for path, spec in self.items():
            if path in kept:
                place = spec.same_as or path
                stands = place if place.startswith("inputs.") else first.setdefault(place, path)
                found.append(spec.model_copy(update={"same_as": "" if stands == path else stands}))
        return tuple(found)

    @classmethod
    def parse(cls, value: object) -> Values:
        """Read nested mappings, lists and tuples of texts."""
        leaves: list[TensorSpec] = []
        return cls(tree=_parse_tree(value, leaves), leaves=tuple(leaves))


def describe(tree: Tree) -> str:
    """A tree in words.

    Example:
        >>> describe(Values.parse(["f32[B]", "f32[B]"]).tree)
        'list of 2'
    """
    match tree:
        case Container(kind=kind, type=name, keys=keys):
            return f"{name.rpartition(':')[2].rpartition('.')[2] or kind.replace('_', ' ')} of {len(keys)}"
        case Constant(value=value):
            return repr(value)
        case Opaque(type=name):
            return f"a {name}"
        case LeftOut(name=name):
            return f"nothing in place of {name}"
        case Slot():
            return "tensor"


def _parse_tree(value: object, leaves: list[TensorSpec]) -> Tree:
    """The tree of texts in containers; their specs are appended to `leaves`."""
    match value:
        case TensorSpec():
            leaves.append(value)
            return Slot()
        case str():
            leaves.append(_written(value))
            return Slot()
        case None | bool() | int() | float():
            return Constant(value=value)
        case Mapping():
            _check_keys(value)
            return Container(
                kind="ordered_dict" if isinstance(value, OrderedDict) else "dict",
                keys=tuple(value),
                children=tuple(_parse_tree(child, leaves) for child in value.values()),
            )
        case list() | tuple():
            return Container(
                kind="tuple" if isinstance(value, tuple) else "list",
                keys=tuple(range(len(value))),
                children=tuple(_parse_tree(child, leaves) for child in value),
            )
        case _:
            is_module = isinstance(value, nn.Module)
            fault = Mismatch(
                type(value).__name__,
                "a text, or a mapping, list or tuple of them",
                "a module" if is_module else visible(repr(value))[:60],
                "like=old  # the module itself" if is_module else '{"c4": "f32[B, 1024, ceil(H/16), ceil(W/16)]"}',
            )
            raise SignatureError("a signature is made of texts", [fault])


def _written(text: str) -> TensorSpec:
    """A spec that a person wrote; axes of size 0 are refused, since nobody asks for empty tensors."""
    spec = TensorSpec.parse(text)
    if Dim.parse("0") in spec.dims:
        remedy = "f32[B, 256, ceil(H/4), ceil(W/4)]"
        raise SignatureError(
            f"{text!r} has no values", [Mismatch(repr(text), "sizes of 1 or more", "0", f'"{remedy}"')]
        )
    return spec


def _check_keys(value: Mapping[Any, Any]) -> None:
    faults = [
        Mismatch(f"key {key!r}", "a text or an integer", f"a {type(key).__name__}", f'"{key}"')
        for key in value
        if type(key) not in (str, int)
    ]
    if faults:
        raise SignatureError("a signature has keys that no path can name", faults)
