"""Same outputs: two runs at different sizes return the same tree, with tensors of as many axes."""

from __future__ import annotations

from collections.abc import Mapping

from autoadapt.contracts.capturing.probing import Observation
from autoadapt.contracts.signature import describe
from autoadapt.contracts.trees import Constant, Container, Path, Tree, path_text
from autoadapt.errors import CaptureError, Mismatch


def check_alike(
    first: Observation, other: Observation, sizes: Mapping[str, int], other_sizes: Mapping[str, int]
) -> None:
    """Refuse outputs whose tree or number of axes depends on the size.

    Args:
        first: One run.
        other: Another one.
        sizes: The size of each axis of the input in the first run.
        other_sizes: The same in the other run.

    Raises:
        CaptureError: They differ.
    """
    at = f"{sizes_text(sizes)} against {sizes_text(other_sizes)}"
    if first.tree != other.tree:
        expected, found = set(first.paths), set(other.paths)
        changed = sorted(expected ^ found)
        told, seen = describe(first.tree), describe(other.tree)
        if differing := _other_constant(first.tree, other.tree) if told == seen else None:
            path, one, another = differing
            changed, told, seen = [path_text(path)], repr(one), repr(another)
        fault = Mismatch(
            ", ".join(changed) or "output",
            f"the same outputs at every size ({told})",
            f"{seen}, at {at}",
            "return a fixed set of tensors, and numbers that depend on the size as tensors or not at all",
        )
        raise CaptureError("the outputs are not the same at every input size", [fault])
    for name, left, right in zip(first.paths, first.shapes, other.shapes, strict=True):
        if len(left) != len(right):
            fault = Mismatch(name, f"{len(left)} axes", f"{len(right)} axes, at {at}", "keep the axes apart")
            raise CaptureError(f"`{name}` changes its number of axes with the input size", [fault])


def sizes_text(sizes: Mapping[str, int]) -> str:
    """The sizes of axes in words, as `H=64, W=48`."""
    return ", ".join(f"{name}={size}" for name, size in sizes.items())


def _other_constant(left: Tree, right: Tree, path: Path = ()) -> tuple[Path, object, object] | None:
    """The first constant that differs between two trees of the same containers: its path and both values."""
    match left, right:
        case Container(keys=keys, children=one), Container(children=other):
            pairs = zip(keys, one, other, strict=False)
            return next((found for key, a, b in pairs if (found := _other_constant(a, b, (*path, key)))), None)
        case Constant(value=first), Constant(value=second) if left != right:
            return path, first, second
        case _:
            return None
