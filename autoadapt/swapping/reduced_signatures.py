"""Reduced signatures: the part of an old module's signature that a new one must keep."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import Signature, Values
from autoadapt.contracts.trees import Container, LeftOut, Opaque, Slot, Tree, path_text, paths

_MAPPINGS = ("dict", "ordered_dict", "mapping")


def reduced(signature: Signature, keep: Collection[str]) -> Signature:
    """A signature with only some of its outputs.

    What is left out is absent from a dict; in a sequence, and in an output of transformers, which is read by number as
    well, a placeholder stands there, so that the others keep their places.

    Example:
        >>> sig = Signature.parse({"a": "f32[B]", "b": ["f32[B]", "f32[B]"]})
        >>> reduced(sig, ["b.1"]).outputs.paths
        ('b.1',)
    """
    tree = _reduced(signature.outputs.tree, keep, ())
    assert tree is not None, "the root is never left out"
    left = signature.with_outputs(Values(tree=tree, leaves=signature.outputs.standing(keep)))
    invariants = tuple(one for one in left.invariants if _known(one.values, keep))
    return left.model_copy(update={"invariants": invariants, "unverified": ()})


def without_objects(signature: Signature) -> Signature:
    """A signature with a placeholder for each object among the outputs that is no container, such as a cache of keys.

    Whoever reads it is told that it was left out.
    """
    tree = _without_objects(signature.outputs.tree, ())
    return signature.model_copy(update={"outputs": Values(tree=tree, leaves=signature.outputs.leaves)})


def _without_objects(tree: Tree, path: tuple[int | str, ...]) -> Tree:
    match tree:
        case Opaque():
            return LeftOut(name=path_text(path))
        case Container(keys=keys, children=children):
            rows = zip(keys, children, strict=True)
            left = tuple(_without_objects(child, (*path, key)) for key, child in rows)
            return tree.model_copy(update={"children": left})
        case _:
            return tree


def _known(path: str, keep: Collection[str]) -> bool:
    return path.startswith("inputs.") or path in keep


def _reduced(tree: Tree, keep: Collection[str], path: tuple[int | str, ...]) -> Tree | None:
    """The tree without what is not kept; None for what is gone altogether."""
    match tree:
        case Slot():
            return tree if path_text(path) in keep else None
        case Container(kind=kind):
            rows = list(_children(tree, keep, path))
            if path and not any(child is not None and paths(child) for _, child, _ in rows) and paths(tree):
                return None
            if kind in _MAPPINGS:
                rows = [row for row in rows if row[1] is not None]
            return tree.model_copy(
                update={
                    "keys": tuple(key for key, _, _ in rows),
                    "children": tuple(LeftOut(name=name) if child is None else child for _, child, name in rows),
                }
            )
        case _:
            return tree


def _children(
    tree: Container, keep: Collection[str], path: tuple[int | str, ...]
) -> Iterator[tuple[int | str, Tree | None, str]]:
    for key, child in zip(tree.keys, tree.children, strict=True):
        yield key, _reduced(child, keep, (*path, key)), path_text((*path, key))


def fixed(signature: Signature, axes: Collection[str]) -> Signature:
    """A signature at one size of some input axes.

    Example:
        >>> from autoadapt.contracts.signature import AxisSizes
        >>> sizes = {"B": AxisSizes(example=2), "N": AxisSizes(example=12)}
        >>> sig = Signature.parse("f32[B, N, 8]", inputs="f32[B, N, 4]", axes=sizes)
        >>> str(fixed(sig, ["N"]).outputs["output"])
        'f32[B, 12, 8]'
    """
    chosen: Mapping[str, Dim] = {name: Dim(signature.axes[name].example) for name in axes}

    def at(values: Values) -> Values:
        leaves = [spec.with_dims([dim.substitute(chosen) for dim in spec.dims]) for spec in values.leaves]
        return Values(tree=values.tree, leaves=tuple(leaves))

    rest = {name: sizes for name, sizes in signature.axes.items() if name not in axes}
    return signature.model_copy(update={"inputs": at(signature.inputs), "outputs": at(signature.outputs), "axes": rest})
