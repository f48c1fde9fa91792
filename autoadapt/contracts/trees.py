"""Trees: the containers around tensors, as data. Which kinds of containers there are is decided here alone."""

from __future__ import annotations

import dataclasses
import sys
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias, cast

import torch
from pydantic import Field, model_validator
from torch.fx.immutable_collections import immutable_dict, immutable_list

from autoadapt.contracts import leaves
from autoadapt.contracts.facts import MadeByHand
from autoadapt.contracts.registered import is_registered, registered_class, registered_items
from autoadapt.errors import Mismatch, SignatureError
from autoadapt.errors.printable import is_python_name

Key: TypeAlias = int | str
Path: TypeAlias = tuple[Key, ...]
Kind: TypeAlias = Literal[
    "tuple",
    "list",
    "dict",
    "ordered_dict",
    "sequence",
    "mapping",
    "named_tuple",
    "dataclass",
    "model_output",
    "registered",
    "items",
    "attributes",
]
"""`sequence` and `mapping` are subclasses of list, tuple and Mapping whose constructor takes one iterable. `items` and
`attributes` can be read, by key or by name, but their constructor does not rebuild them.
"""


class Slot(MadeByHand):
    """The place of a tensor; the tensors themselves are listed beside the tree."""

    tree: Literal["tensor"] = "tensor"


class Constant(MadeByHand):
    """A value that is not a tensor: None, a number, a text."""

    tree: Literal["constant"] = "constant"
    value: bool | int | float | str | None = None

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Constant) and (type(self.value), self.value) == (type(other.value), other.value)

    def __hash__(self) -> int:
        return hash((type(self.value), self.value))


class Opaque(MadeByHand):
    """An object of unknown structure: it can be passed through, never made."""

    tree: Literal["object"] = "object"
    type: str


class LeftOut(MadeByHand):
    """The place of an output that is not returned because nobody reads it."""

    tree: Literal["left_out"] = "left_out"
    name: str
    """Path of the output that stood there."""


class Container(MadeByHand):
    """A container: its kind, its class (`module:QualifiedName`) where the kind does not imply it, keys and children."""

    tree: Literal["container"] = "container"
    kind: Kind
    type: str = ""
    keys: tuple[Key, ...]
    children: tuple[Tree, ...]

    @model_validator(mode="after")
    def _keys_fit(self) -> Container:
        """One key for each child; those of classes become keyword arguments in generated code."""
        by_name = self.kind in ("named_tuple", "dataclass", "model_output", "registered")
        if len(self.keys) != len(self.children):
            fault = Mismatch("keys", f"{len(self.children)}, one for each child", str(len(self.keys)))
            raise SignatureError("a container has another number of keys than of children", [fault])
        faults = [
            Mismatch(repr(key)[:60], "a name of Python", "other text", "rename the field")
            for key in self.keys
            if by_name and isinstance(key, str) and not is_python_name(key)
        ]
        if faults:
            raise SignatureError(f"a {self.kind.replace('_', ' ')} has fields that are no names", faults)
        return self


Tree: TypeAlias = Annotated[Slot | Constant | Opaque | LeftOut | Container, Field(discriminator="tree")]
Container.model_rebuild()


def flatten(value: object, *, any_keys: bool = False) -> tuple[Tree, list[torch.Tensor]]:
    """Take a value apart into its tree and its tensors, in the order of the tree.

    Args:
        value: Tensors in containers.
        any_keys: Replace keys that are neither text nor integer by their `repr`. Such a tree can be compared, but not
            rebuilt.

    Raises:
        SignatureError: A key is neither a text nor an integer.

    Example:
        >>> tree, tensors = flatten({"c4": torch.zeros(1), "rest": [torch.ones(2), None]})
        >>> path_texts(tree)
        ['c4', 'rest.0']
    """
    tensors: list[torch.Tensor] = []
    return _flatten(value, tensors, any_keys, ()), tensors


def _flatten(value: object, tensors: list[torch.Tensor], any_keys: bool, above: tuple[int, ...]) -> Tree:
    """The tree of a value; `above` holds the `id` of each container around it, to stop at cycles."""
    if isinstance(value, torch.Tensor) and not _is_nested(value):
        tensors.append(value)
        return Slot()
    if value is None or isinstance(value, (bool, int, float, str)):
        return Constant(value=value)
    if isinstance(value, leaves.LeftOut):
        return LeftOut(name=value.left_out)
    if id(value) in above:
        return Opaque(type=f"{type_path(type(value))} that holds itself")
    opened = open_container(value)
    if opened is None:
        nested = isinstance(value, torch.Tensor)
        return Opaque(type="nested tensor, whose rows have sizes of their own" if nested else type_path(type(value)))
    kind, items = opened
    return Container(
        kind=kind,
        type="" if kind in PLAIN else type_path(type(value)),
        keys=tuple(_key(value, key, any_keys) for key, _ in items),
        children=tuple(_flatten(child, tensors, any_keys, (*above, id(value))) for _, child in items),
    )


def _is_nested(tensor: torch.Tensor) -> bool:
    """Asked without the function modes that are active: a mode that follows a run must not see this."""
    with torch._C.DisableTorchFunction():
        return tensor.is_nested


PLAIN = frozenset({"tuple", "list", "dict", "ordered_dict"})
"""The kinds that imply their class."""

NAMED = frozenset({"named_tuple", "dataclass", "registered", "attributes"})
"""The kinds whose children are attributes."""


def _key(container: object, key: Any, any_key: bool) -> Key:
    """A key that a path can hold; refuses others unless any key is allowed, of which the `repr` is taken."""
    if isinstance(key, (int, str)):
        return key
    if any_key:
        return repr(key)
    where = f"{type(container).__name__}[{key!r}]"
    remedy = "wrap the module, so that dicts which it takes and returns have text keys"
    fault = Mismatch(where, "keys that are texts or integers", f"a {type(key).__name__}", remedy)
    raise SignatureError(f"no path can name {where}", [fault])


def open_container(value: object) -> tuple[Kind, list[tuple[Any, Any]]] | None:
    """The kind of a container and its items; None for what is no container.

    Only attributes of the class are asked for: some dicts return their items as attributes.
    """
    names = getattr(type(value), "_fields", None)
    if isinstance(value, tuple) and names is not None:
        return "named_tuple", list(zip(names, value, strict=True))
    if isinstance(value, (tuple, list)):
        return _sequence_kind(value), list(enumerate(value))
    if isinstance(value, Mapping):
        return _mapping_kind(value), list(value.items())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [field.name for field in dataclasses.fields(value) if field.init]
        return "dataclass", [(name, getattr(value, name)) for name in fields]
    registered = registered_items(value)
    return None if registered is None else ("registered", registered)


def _sequence_kind(value: tuple[Any, ...] | list[Any]) -> Kind:
    if type(value) is tuple:
        return "tuple"
    return "list" if type(value) in (list, immutable_list) else "sequence"  # torch.export returns fx's own lists


def _mapping_kind(value: Mapping[Any, Any]) -> Kind:
    if type(value) in (dict, immutable_dict):
        return "dict"
    if type(value) is OrderedDict:
        return "ordered_dict"
    return "model_output" if dataclasses.is_dataclass(value) else "mapping"


def rebuild(tree: Tree, tensors: Sequence[Any]) -> Any:
    """Put a value together again; the inverse of `flatten`.

    Args:
        tree: What `flatten` returned.
        tensors: One value for each slot, in order; need not be tensors.

    Raises:
        SignatureError: The tree holds an opaque object, or a class that is not imported.
    """
    remaining = iter(tensors)
    return _rebuild(tree, remaining)


def _rebuild(tree: Tree, remaining: Iterator[Any]) -> Any:
    """As `rebuild`; the tensors are used up in the order of the slots."""
    match tree:
        case Slot():
            return next(remaining)
        case Constant(value=value):
            return value
        case LeftOut(name=name):
            return leaves.LeftOut(name)
        case Opaque(type=name):
            fault = Mismatch(name, "tensors in containers", "an object without known parts", "return its tensors")
            raise SignatureError(f"a {name} cannot be made anew", [fault])
        case Container():
            children = [_rebuild(child, remaining) for child in tree.children]
            return build_container(tree, children)


def build_container(container: Container, children: Sequence[Any]) -> Any:
    """Make one container around values that stand ready."""
    constructor, form = container_type(container)
    match form:
        case "sequence":
            return constructor(children)
        case "pairs":
            return constructor(dict(zip(container.keys, children, strict=True)))
        case "positional":
            return constructor(*children)
        case "keywords":
            parts = dict(zip(map(str, container.keys), children, strict=True))
            # past the metaclass, which may make another class when called, as that of torch_geometric's batches does
            is_own = container.kind == "registered"
            return type.__call__(cast(type, constructor), **parts) if is_own else constructor(**parts)


Form: TypeAlias = Literal["sequence", "pairs", "positional", "keywords"]


def container_type(container: Container) -> tuple[Callable[..., Any], Form]:
    """The class of a container, and how its constructor takes the children."""
    match container.kind:
        case "tuple":
            return tuple, "sequence"
        case "list":
            return list, "sequence"
        case "dict":
            return dict, "pairs"
        case "ordered_dict":
            return OrderedDict, "pairs"
        case "sequence":
            return _class_of(container), "sequence"
        case "mapping":
            return _class_of(container), "pairs"
        case "named_tuple":
            return _class_of(container), "positional"
        case "dataclass" | "model_output" | "registered":
            return _class_of(container), "keywords"
        case "items" | "attributes":
            raise _not_made(container)


def _not_made(container: Container) -> SignatureError:
    """The error for a container whose class does not take its items."""
    name = container.type.rpartition(":")[2]
    fault = Mismatch(
        name,
        "a container that its class makes from its items",
        f"{name} made from the same items is none, or another one",
        "return a plain list, tuple or dict, or let the class take its items",
    )
    return SignatureError(f"a {name} cannot be made anew", [fault])


def _class_of(container: Container) -> Callable[..., Any]:
    """The class that a container names, checked to be of its kind: a file must not make us call anything else."""
    found = find_type(container.type)
    match container.kind:
        case "named_tuple":
            right = issubclass(found, tuple) and hasattr(found, "_fields")
        case "registered":
            right = is_registered(found)
        case "dataclass":
            right = dataclasses.is_dataclass(found)
        case "model_output":
            right = dataclasses.is_dataclass(found) and issubclass(found, Mapping)
        case "sequence":
            right = issubclass(found, (tuple, list))
        case _:
            right = issubclass(found, Mapping)
    if not right:
        kind = container.kind.replace("_", " ")
        fault = Mismatch(container.type, f"a class that is a {kind}", "another class", "capture the module again")
        raise SignatureError(f"{container.type} is no {kind}", [fault])
    return found


def paths(tree: Tree, prefix: Path = ()) -> list[Path]:
    """The path of every tensor, in the order of `flatten`."""
    match tree:
        case Slot():
            return [prefix]
        case Container(keys=keys, children=children):
            return [path for key, child in zip(keys, children, strict=True) for path in paths(child, (*prefix, key))]
        case _:
            return []


def alike(tree: Tree) -> list[str]:
    """The paths that several tensors share, as with the keys `1` and `"1"`.

    Example:
        >>> alike(flatten({1: torch.zeros(1), "1": torch.zeros(1), "2": torch.zeros(1)})[0])
        ['1']
    """
    counts = Counter(path_texts(tree))
    return [text for text, count in counts.items() if count > 1]


def has_opaque(tree: Tree) -> bool:
    """Whether a tree holds an object that cannot be made anew."""
    return isinstance(tree, Opaque) or (isinstance(tree, Container) and any(map(has_opaque, tree.children)))


def path_text(path: Path) -> str:
    """A path as people write it; a bare tensor is called `output`.

    Example:
        >>> path_text(("levels", 0)), path_text(())
        ('levels.0', 'output')
    """
    return ".".join(map(str, path)) if path else "output"


def path_texts(tree: Tree) -> list[str]:
    """The path of each tensor in a tree, as people write it."""
    return [path_text(path) for path in paths(tree)]


def type_path(cls: type) -> str:
    """`module:QualifiedName` of a class."""
    return f"{cls.__module__}:{cls.__qualname__}"


def find_type(name: str) -> type[Any]:
    """The class of a `type_path`, looked up among imported modules only: reading a file must not run code.

    Raises:
        SignatureError: The module is not imported, or has no such class.
    """
    module, _, qualified = name.partition(":")
    found: Any = sys.modules.get(module)
    for part in qualified.split("."):
        found = getattr(found, part, None)
    found = found or registered_class(module, qualified)
    if not isinstance(found, type):
        fault = Mismatch(name, "a class that is imported", "nothing of that name", f"import {module}  # first")
        raise SignatureError(f"the container class {qualified} is not known", [fault])
    return found
