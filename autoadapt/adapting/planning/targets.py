"""Targets: the contract, as the part of an old module's signature that is to be served."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from autoadapt.contracts.dims import Dim
from autoadapt.contracts.signature import AxisSizes, Signature, Values, image_of
from autoadapt.contracts.trees import Container, Key, Opaque, Path, Slot, Tree, path_text
from autoadapt.errors import MatchError, Mismatch, PlanError, nearest


def with_inputs(target: Signature, source: Signature) -> Signature:
    """The contract, with the new module's inputs if it has none; images of all sizes if its dims depend on H and W.

    Raises:
        MatchError: Its dims have axes that these inputs do not have.
    """
    if target.inputs.leaves:
        return target
    _refuse_unknown_axes(target, source)
    given = {"inputs": source.inputs, "positional": source.positional}
    return target.model_copy(update=given | {"axes": source.axes | _followed(target, source) | target.axes})


def _followed(target: Signature, source: Signature) -> dict[str, AxisSizes]:
    """Image axes on which the contract depends, as axes of any size, where the new module takes only some sizes."""
    image = image_of(source.inputs)
    if image is None:
        return {}
    sides = {str(dim) for dim in source.inputs[image[0]].dims[1:] if dim.axes}
    named = {axis for spec in target.outputs.leaves for dim in spec.dims for axis in dim.axes}
    held = {name: sizes for name, sizes in source.axes.items() if name in sides & named and sizes.step != 1}
    return {name: AxisSizes(example=sizes.example) for name, sizes in held.items()}


def _refuse_unknown_axes(target: Signature, source: Signature) -> None:
    """Refuse axes that the inputs do not have, such as `N` for the batch or `h` for the height."""
    known = [name for name in source.axes if source.inputs.leaves]
    faults = []
    for path, spec in target.outputs.items():
        named = {axis for dim in spec.dims for axis in dim.axes}
        unknown = sorted(named - set(known)) if known and not any(axis.startswith("C") for axis in named) else []
        if not unknown:
            continue
        near = {axis: axis.upper() for axis in unknown if axis.upper() in known}
        near |= {"N": "B"} if "N" in unknown and str(spec.dims[0]) == "N" else {}
        changed = {axis: Dim.axis(name) for axis, name in near.items()}
        meant = spec.with_dims([dim.substitute(changed) for dim in spec.dims])  # all of them at once
        expected = f"axes of the inputs: {', '.join(known)}"
        remedy = f'"{meant}"' if len(near) == len(unknown) else ""
        faults.append(Mismatch(path, expected, ", ".join(unknown), remedy))
    if faults:
        raise MatchError("a contract names axes that the inputs do not have", faults)


def with_channels(target: Signature, source: Signature) -> Signature:
    """The contract with the example's number of input channels, where it allows any and the new module only that."""
    free = {name: sizes.example for name, sizes in target.axes.items() if name.startswith("C")}
    if not free or any(name.startswith("C") for name in source.axes):
        return target
    taken = {dim.constant for spec in source.inputs.leaves for dim in spec.dims}
    fixed = {name: Dim(size) for name, size in free.items() if size in taken}

    def narrowed(values: Values) -> Values:
        leaves = tuple(spec.with_dims([dim.substitute(fixed) for dim in spec.dims]) for spec in values.leaves)
        return values.model_copy(update={"leaves": leaves})

    axes = {name: sizes for name, sizes in target.axes.items() if name not in fixed}
    update = {"inputs": narrowed(target.inputs), "outputs": narrowed(target.outputs), "axes": axes}
    return target.model_copy(update=update) if fixed else target


def within(target: Signature, least: Mapping[str, int], most: Mapping[str, int]) -> Signature:
    """The contract, limited to inputs that are long and short enough for the new module.

    Args:
        target: The contract.
        least: The new module's smallest size of each axis along which the old one takes shorter inputs.
        most: The new module's largest size of each axis along which the old one takes longer inputs.
    """
    axes = {name: _from(axis, least[name]) if name in least else axis for name, axis in target.axes.items()}
    axes |= {name: axes[name].model_copy(update={"largest": size}) for name, size in most.items()}
    return target.model_copy(update={"axes": axes}) if least or most else target


def _from(sizes: AxisSizes, least: int) -> AxisSizes:
    smallest = sizes.near(least)
    return sizes.model_copy(update={"smallest": smallest, "bounded": True, "example": max(sizes.example, smallest)})


def served(target: Signature, outputs: Sequence[str] | None) -> Signature:
    """The contract with only some of its outputs."""
    if outputs is None:
        _refuse_objects(target)
        return target
    known = target.outputs.paths
    wanted = set(named_outputs(known, outputs))
    keep = [name in wanted for name in known]
    tree = _pruned(target.outputs.tree, iter(keep))
    if tree is None:
        raise PlanError(
            "outputs is empty", [Mismatch("outputs", "at least one path", "none", f"outputs=[{known[0]!r}]")]
        )
    return target.with_outputs(Values(tree=tree, leaves=target.outputs.standing(wanted)))


def _refuse_objects(target: Signature) -> None:
    """Refuse contracts with objects that are neither containers nor tensors, which cannot be rebuilt.

    Raises:
        PlanError: There are some; all of them are listed, and the remedy leaves them out.
    """
    remedy = f"outputs={list(target.outputs.paths)!r}  # if nobody reads the rest"
    faults = [
        Mismatch(path_text(path), "tensors in containers", f"a {kind}", remedy)
        for path, kind in _objects(target.outputs.tree)
    ]
    if faults:
        raise PlanError(f"{target.name} returns an object that autoadapt cannot look into", faults)


def _objects(tree: Tree, path: Path = ()) -> list[tuple[Path, str]]:
    match tree:
        case Opaque(type=kind):
            return [(path, kind)]
        case Container(keys=keys, children=children):
            return [found for key, child in zip(keys, children, strict=True) for found in _objects(child, (*path, key))]
        case _:
            return []


def named_outputs(known: Sequence[str], names: Sequence[str]) -> list[str]:
    """The output paths for some names; the name of a container stands for all outputs in it.

    Raises:
        PlanError: A name is unknown.
    """
    faults = [
        Mismatch(
            f"outputs={name!r}",
            "a path among the outputs",
            name,
            "one of " + ", ".join(nearest(name, known) or known[:4]),
        )
        for name in names
        if not any(_under(path, name) for path in known)
    ]
    if faults:
        raise PlanError("outputs names something that the old module does not return", faults)
    return [path for path in known if any(_under(path, name) for name in names)]


def _under(name: str, path: str) -> bool:
    return name == path or name.startswith(f"{path}.")


def _pruned(tree: Tree, keep: Iterable[bool]) -> Tree | None:
    """The tree without leaves that are not kept and without containers that become empty; None if nothing is left."""
    flags = iter(keep)
    return _prune(tree, flags)


def _prune(tree: Tree, flags: Iterable[bool]) -> Tree | None:
    """As `_pruned`; the flags are used up in the order of the leaves."""
    match tree:
        case Slot():
            return tree if next(iter(flags)) else None
        case Container(keys=keys, children=children):
            pairs = [(key, _prune(child, flags)) for key, child in zip(keys, children, strict=True)]
            kept: list[tuple[Key, Tree]] = [(key, child) for key, child in pairs if child is not None]
            if not kept:
                return None
            numbered = tree.kind in ("list", "tuple")
            return tree.model_copy(
                update={
                    "keys": tuple(range(len(kept))) if numbered else tuple(key for key, _ in kept),
                    "children": tuple(child for _, child in kept),
                }
            )
        case Opaque():  # it has no path, so nobody can have asked for it
            return None
        case _:
            return tree
