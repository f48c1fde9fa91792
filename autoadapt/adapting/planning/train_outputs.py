"""Train outputs: modules whose outputs in train mode differ from those in eval mode, as with auxiliary losses."""

from __future__ import annotations

from collections.abc import Collection, Iterator

from autoadapt.contracts.signature import InnerOutput, Signature, TensorSpec, describe
from autoadapt.contracts.trees import Container, Path, Slot, Tree, path_text
from autoadapt.errors import Mismatch, PlanError


def steady_sources(source: Signature, read: Collection[str]) -> dict[str, str]:
    """Inner outputs to tap instead of outputs that have another path in train mode, by the path of the output.

    Args:
        source: Signature of the new module, with its inner outputs.
        read: The outputs that are read.

    Raises:
        PlanError: No inner module returns such an output.
    """
    makers = _makers(source)
    faults = [
        Mismatch(path, str(spec), _found(source), "taps={...} names an inner module that returns it")
        for path, spec in source.outputs.items()
        if path in read and makers.get(path) == ""
    ]
    if faults:
        raise PlanError(f"{source.name} returns something else in train mode", faults)
    return {path: makers[path] for path in read if path in makers}


def eval_only_outputs(source: Signature) -> list[str]:
    """The outputs of the new module that do not exist in train mode."""
    return [path for path, maker in _makers(source).items() if not maker]


def _makers(source: Signature) -> dict[str, str]:
    """The outputs that have another path in train mode, each with an inner output that is it in both modes, or `""`."""
    if source.train_outputs is None:
        return {}
    known = {
        inner.output: maker for inner in reversed(source.inner) if inner.output and (maker := _steady(inner, source))
    }
    in_train = dict(source.train_outputs.items())
    same = set(_same_places(source.outputs.tree, source.train_outputs.tree))
    moved = [path for path, spec in source.outputs.items() if not (path in same and _alike(spec, in_train[path]))]
    return {path: known.get(path, "") for path in moved}


def _steady(inner: InnerOutput, source: Signature) -> str:
    """The name of an inner output that is the same tensor in both modes; empty if its path may change with the mode."""
    first = inner.same_as or inner.name
    alone = [one for one in source.inner if one.path == "output" and first in (one.name, one.same_as)]
    if alone:
        return max(alone, key=lambda one: one.finished).name
    return "" if inner.path == inner.output else inner.name


def _alike(spec: TensorSpec, in_train: TensorSpec) -> bool:
    """Whether both may be the same tensor; sizes may differ, as when tokens are dropped in training."""
    return len(in_train.dims) == len(spec.dims)


def _same_places(tree: Tree, in_train: Tree, above: Path = ()) -> Iterator[str]:
    """The paths at which both have a tensor, in equal containers; mappings may have other keys besides."""
    match tree, in_train:
        case Slot(), Slot():
            yield path_text(above)
        case Container(), Container() if (tree.kind, tree.type) == (in_train.kind, in_train.type):
            by_name = tree.kind in ("dict", "ordered_dict", "mapping", "model_output")
            if by_name or tree.keys == in_train.keys:
                other = dict(zip(in_train.keys, in_train.children, strict=True))
                for key, child in zip(tree.keys, tree.children, strict=True):
                    if key in other:
                        yield from _same_places(child, other[key], (*above, key))


def _found(source: Signature) -> str:
    """The outputs in train mode as text: the leaves that differ, or all of them in another container."""
    assert source.train_outputs is not None, "asked for where they differ"
    found, in_train = dict(source.outputs.items()), dict(source.train_outputs.items())
    if describe(source.outputs.tree) != describe(source.train_outputs.tree):
        return f"{describe(source.train_outputs.tree)} ({', '.join(in_train)}) in train mode"
    same = source.outputs.tree == source.train_outputs.tree
    other = [f"{path} as {spec}" for path, spec in in_train.items() if _differs(found.get(path), spec, sizes=same)]
    missing = [f"nothing at {path}" for path in found if path not in in_train]
    return f"{', '.join(other + missing)} in train mode"


def _differs(spec: TensorSpec | None, in_train: TensorSpec, *, sizes: bool) -> bool:
    """Whether a leaf differs in train mode, where its sizes are known at the example only."""
    if spec is None or spec.dtype != in_train.dtype:
        return True
    return spec.dims != in_train.dims if sizes else len(spec.dims) != len(in_train.dims)


def _served(source: Signature) -> str:
    """What happens to train-mode outputs of the new module, as text."""
    assert source.train_outputs is not None, "asked for where they differ"
    if source.outputs.tree == source.train_outputs.tree:
        return "the contract is that of eval mode, and not kept in training"
    return "what it returns in eval mode is taken in both"


def train_remarks(source: Signature, target: Signature) -> tuple[str, ...]:
    """Remarks on outputs that either module has in train mode only, and on modules that raise there."""
    remarks = []
    if target.train_outputs is not None:
        remarks.append(
            f"{target.name} returns {_found(target)}; the adapted module returns in both what it does in eval mode"
        )
    if source.train_outputs is not None:
        remarks.append(f"{source.name} returns {_found(source)}; {_served(source)}")
    if source.raises_in_training:
        remarks.append(f"{source.name} raises in train mode, as the adapted one will: {source.raises_in_training}")
    elif target.raises_in_training:
        remarks.append(f"{target.name} raises in train mode, and the adapted one may not: {target.raises_in_training}")
    return tuple(remarks)
