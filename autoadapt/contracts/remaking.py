"""Remaking: whether a container's class, called with its items, returns an equal container."""

from __future__ import annotations

from typing import Any

from autoadapt.contracts.trees import NAMED, PLAIN, Container, Tree, build_container, flatten, open_container


def without_unmakeable(value: object, tree: Tree) -> Tree:
    """The tree of a value, with the kinds `items` or `attributes` for containers that cannot be rebuilt.

    These are defaultdicts, classes whose constructor takes other arguments, dataclasses whose `__post_init__` changes
    fields, and containers that hold more than their items. To find out, each class but Python's own is called once.

    Example:
        >>> from collections import defaultdict
        >>> value = defaultdict(list, a=[1])
        >>> without_unmakeable(value, flatten(value)[0]).kind
        'items'
    """
    opened = open_container(value)
    if not isinstance(tree, Container) or opened is None:
        return tree
    items = [item for _, item in opened[1]]
    children = tuple(without_unmakeable(item, child) for item, child in zip(items, tree.children, strict=True))
    if tree.kind in PLAIN or _comes_out_alike(value, tree, items):
        return tree.model_copy(update={"children": children})
    return tree.model_copy(update={"kind": "attributes" if tree.kind in NAMED else "items", "children": children})


def _comes_out_alike(value: object, tree: Container, items: list[Any]) -> bool:
    """Whether a container's class makes an equal container from the same items."""
    try:
        made = build_container(tree, items)
    except Exception:  # whatever a constructor raises, it does not take the items
        return False
    opened = open_container(made)
    if type(made) is not type(value) or opened is None or [key for key, _ in opened[1]] != list(tree.keys):
        return False
    same = all(new is old for (_, new), old in zip(opened[1], items, strict=True))
    return same and _description(made, tree) == _description(value, tree)


def _description(value: object, tree: Container) -> object:
    """What a container holds besides its items; of tensors shape and dtype, since a constructor may remake them."""
    others = {name: held for name, held in getattr(value, "__dict__", {}).items() if name not in tree.keys}
    described, tensors = flatten(others, any_keys=True)
    return described, [(tensor.shape, tensor.dtype) for tensor in tensors]
