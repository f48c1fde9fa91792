"""Annotations: the types of arguments and outputs, as text."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from autoadapt.contracts.trees import Constant, Container, LeftOut, Opaque, Slot, Tree

TENSOR = "torch.Tensor"

ClassName: TypeAlias = Callable[[Container], str]
"""How a class of a container is called in the file."""


def annotation(tree: Tree, class_name: ClassName) -> str:
    """The type of a value.

    Example:
        >>> from autoadapt.contracts.signature import Values
        >>> annotation(Values.parse({"a": "f32[B]", "b": "f32[B]"}).tree, lambda container: "")
        'dict[str, torch.Tensor]'
    """
    match tree:
        case Slot():
            return TENSOR
        case Constant(value=value):
            return "None" if value is None else type(value).__name__
        case LeftOut():
            return "LeftOut"
        case Opaque():
            return "Any"
        case Container():
            return _container(tree, class_name)


def _container(tree: Container, class_name: ClassName) -> str:
    children = [annotation(child, class_name) for child in tree.children]
    same = children[0] if len(set(children)) == 1 else "Any"
    match tree.kind:
        case "tuple":
            if same != "Any" and len(children) > 4:
                return f"tuple[{same}, ...]"
            return f"tuple[{', '.join(children) or '()'}]"
        case "list":
            return f"list[{same}]"
        case "dict" | "ordered_dict":
            keys = {type(key).__name__ for key in tree.keys}
            name = "dict" if tree.kind == "dict" else "OrderedDict"
            return f"{name}[{keys.pop() if len(keys) == 1 else 'Any' if keys else 'str'}, {same}]"
        case _:
            return class_name(tree)


def argument_annotation(tree: Tree, default: str | None, class_name: ClassName) -> str:
    """The type of an argument; one that is optional and read may be anything, since what is absent is not read."""
    if default is None:
        return annotation(tree, class_name)
    if isinstance(tree, Container):
        return f"{annotation(tree, class_name)} | None"
    return "Any" if default == "None" else annotation(tree, class_name)
