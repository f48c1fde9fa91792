"""Forward arguments: those of an adapted module, and which that are no tensors it hands to the backbone."""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, TypeAlias

import torch

from autoadapt.adapting.operations import Remask
from autoadapt.adapting.planning import Plan
from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import Signature
from autoadapt.contracts.trees import Constant, Container, Key, Slot, Tree, has_opaque, paths
from autoadapt.errors import BuildError, Mismatch

Entries: TypeAlias = Mapping[Key, tuple[str, Tree]]
"""Entries of a dict argument: the name of that argument and the entry, by the entry's key."""


def arguments_of(target: Signature) -> Iterator[tuple[str, Tree]]:
    """The arguments of the old module that the adapted one takes, with their trees, in the old module's order.

    Example:
        >>> from autoadapt.contracts.signature import Parameter
        >>> given = Signature.parse("f32[B]", inputs={"x": "f32[B]"})
        >>> listed = (Parameter(name="x"), Parameter(name="mask", default=Constant()))
        >>> [name for name, _ in arguments_of(given.model_copy(update={"parameters": listed}))]
        ['x', 'mask']
    """
    trees: dict[str, Tree] = {**target.arguments, **target.plain_arguments}
    listed = [one.name for one in target.parameters if one.name in trees]
    yield from ((name, trees[name]) for name in dict.fromkeys([*listed, *trees]))


def default_of(target: Signature, name: str) -> Any:
    """The default of an argument that is no tensor: the old module's, else the value in the example call."""
    own = next((one.default for one in target.parameters if one.name == name), None)
    tree = own or target.plain_arguments[name]
    return tree.value if isinstance(tree, Constant) else None


def accepted(target: Signature, name: str) -> list[Any]:
    """The values that an argument may have if the new module has no such argument.

    They are the value in the example call, and another that means the same to the old module, such as its default in
    place of None; and False where that asks for nothing but less.
    """
    tree = target.plain_arguments[name]
    value = tree.value if isinstance(tree, Constant) else None
    own = next((one for one in target.parameters if one.name == name), None)
    further = further_of(target)
    is_off = own is None and further is not None and further[1].get(name) is False
    same = own.told if own else Constant(value=False) if is_off else None
    less = [False] if own and own.spares else []
    if same is None or value not in (None, same.value):
        return [value, *less]
    return [value, same.value if value is None else None, *less]


def spared_by(target: Signature, name: str) -> str:
    """The argument that is False where nobody asks for an output that was left out; empty where there is none."""
    return next((one.name for one in target.parameters if name in one.spares), "")


def further_of(target: Signature) -> tuple[str, dict[str, bool]] | None:
    """The name of the old module's `**kwargs`, and the flags that its config has; None where it has no `**kwargs`."""
    return next(((one.name, dict(one.further)) for one in target.parameters if one.further is not None), None)


def handed_on(source: Signature, target: Signature) -> list[str]:
    """Arguments that are no tensors and are handed to the new module's argument of the same name.

    Both modules' example calls must have had the same value there. Booleans and texts are not handed on, since they
    may change the outputs; nor are masks of another form or with the opposite meaning; nor arguments that the new
    module takes only in `**kwargs` besides named ones, where it may ignore them.
    """
    named = {one.name for one in source.parameters if one.further is None}
    takes_any = further_of(source) is None or not named
    theirs = source.plain_arguments
    means = {mask.argument: (mask.form, mask.counts) for mask in source.masks}
    own = {mask.argument: (mask.form, mask.counts) for mask in target.masks}
    turned = {name for name, meaning in own.items() if means.get(name, meaning) != meaning}
    return [
        name
        for name, mine in target.plain_arguments.items()
        if theirs.get(name) == mine
        and isinstance(mine, Constant)
        and not isinstance(mine.value, (bool, str))
        and name not in target.filled
        and name not in turned
        and (takes_any or name in named)
    ]


def may_be_absent(plan: Plan, name: str, tree: Tree) -> bool:
    """Whether None may be given for a tensor: the old module takes None, and so does the new one if it gets it."""
    left = {one.name for one in plan.target.parameters if one.takes_none}
    theirs = {one.name for one in plan.source.parameters if one.takes_none}
    routes = [route for route in plan.inputs if route.target == name]
    passed = all(route.source in theirs and all(isinstance(one, Remask) for one in route.steps) for route in routes)
    return isinstance(tree, Slot) and name in left and passed


def is_allowed(name: str) -> bool:
    """Whether a text can be the name of an argument or a variable of `forward`."""
    return name.isidentifier() and not keyword.iskeyword(name) and name != "self"


def check_names(names: Iterable[object]) -> None:
    """Refuse texts that cannot be names of arguments; a plan may have been read from a file.

    Raises:
        BuildError: There are such.
    """
    wrong = [str(name) for name in names if not is_allowed(str(name))]
    if wrong:
        faults = [Mismatch(f"argument {name!r}", "a Python identifier", name, "rename it") for name in wrong]
        raise BuildError("an argument has a name that Python does not allow", faults)


def container_annotation(tree: Tree) -> Any:
    """The annotation that torch.jit.script needs for a container argument; None where it needs or supports none."""
    if not isinstance(tree, Container) or not all(isinstance(child, Slot) for child in tree.children):
        return None
    match tree.kind:
        case "list":
            return list[torch.Tensor]
        case "tuple":
            return tuple.__class_getitem__((torch.Tensor,) * len(tree.children))
        case "dict" if all(isinstance(key, str) for key in tree.keys):
            return dict[str, torch.Tensor]
        case _:
            return None


def where_axis(axis: str, signature: Signature) -> tuple[str, int]:
    """An input tensor and the position of a dim in it from which the size of an axis can be read.

    Raises:
        BuildError: No dim of an input is this axis.
    """
    for path, spec in signature.inputs.items():
        for position, dim in enumerate(spec.dims):
            if dim == Dim.axis(axis):
                return path, position
    fault = Mismatch(axis, "an axis of an input", ", ".join(map(str, signature.inputs.leaves)), "name it in inputs=")
    raise BuildError(f"no input shows the size of axis {axis}", [fault])


def plain_entries(target: Signature) -> Entries:
    """The entries of dict arguments that are no tensors, such as the size of a batch.

    Example:
        >>> from autoadapt.contracts.signature import Values
        >>> batch = Container(kind="dict", keys=("x", "size"), children=(Slot(), Constant(value=2)))
        >>> target = Signature.parse("f32[B]")
        >>> given = Container(kind="dict", keys=("batch",), children=(batch,))
        >>> plain_entries(target.model_copy(update={"inputs": Values(tree=given, leaves=target.outputs.leaves)}))
        {'size': ('batch', Constant(tree='constant', value=2))}
    """
    return {
        key: (name, child)
        for name, tree in target.arguments.items()
        if isinstance(tree, Container) and tree.kind == "dict"
        for key, child in zip(tree.keys, tree.children, strict=True)
        if not paths(child) and not has_opaque(child)
    }


def shared_entries(tree: Tree, plain: Entries) -> Entries:
    """The entries that a dict has as well, with the same value."""
    found = dict(zip(tree.keys, tree.children, strict=True)) if isinstance(tree, Container) else {}
    return {key: entry for key, entry in plain.items() if found.get(key) == entry[1]}


def without_entries(tree: Tree, plain: Entries) -> Tree:
    """A dict that is written into the caller's, without the entries that the caller's already has."""
    gone = shared_entries(tree, plain)
    if not isinstance(tree, Container) or not gone:
        return tree
    left = {key: child for key, child in zip(tree.keys, tree.children, strict=True) if key not in gone}
    return tree.model_copy(update={"keys": tuple(left), "children": tuple(left.values())})
