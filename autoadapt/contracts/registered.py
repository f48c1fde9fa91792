"""Registered classes: those with `torch.utils._pytree.register_pytree_node`, and the named parts of their objects."""

from __future__ import annotations

from typing import Any

from torch.utils import _pytree as pytree

from autoadapt.errors.printable import is_python_name


def is_registered(cls: type) -> bool:
    """Whether a class is registered as a pytree node."""
    return cls in pytree.SUPPORTED_NODES


def registered_class(module: str, name: str) -> type | None:
    """The registered class of that name, also one made at run time, which no module has as an attribute."""
    return next((one for one in pytree.SUPPORTED_NODES if (one.__module__, one.__qualname__) == (module, name)), None)


def registered_items(value: object) -> list[tuple[str, Any]] | None:
    """The parts of an object by their names; None where its class is not registered, or its parts have no names.

    Example:
        >>> class Cloud:
        ...     def __init__(self, xyz):
        ...         self.xyz = xyz
        >>> key = pytree.GetAttrKey("xyz")
        >>> pytree.register_pytree_node(
        ...     Cloud,
        ...     lambda cloud: ([cloud.xyz], None),
        ...     lambda parts, _: Cloud(*parts),
        ...     flatten_with_keys_fn=lambda cloud: ([(key, cloud.xyz)], None),
        ... )
        >>> registered_items(Cloud(3)), registered_items(object())
        ([('xyz', 3)], None)
    """
    node = pytree.SUPPORTED_NODES.get(type(value))
    if node is None or node.flatten_with_keys_fn is None:
        return None
    items = [
        (getattr(key, "name", getattr(key, "key", None)), part) for key, part in node.flatten_with_keys_fn(value)[0]
    ]
    named = [(name, part) for name, part in items if isinstance(name, str) and is_python_name(name)]
    return named if len(named) == len(items) else None
