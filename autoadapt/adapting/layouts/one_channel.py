"""One channel: an axis of one entry that lists channels, where most axes of one entry can be left out or put in."""

from __future__ import annotations

from dataclasses import replace

from autoadapt.adapting.layouts.factors import Atom, Factored
from autoadapt.contracts.dims import Dim


def has_one_channel(tensor: Factored) -> bool:
    """Whether channels can only be listed by an axis of one entry: there is one, and no other axis of fixed size.

    Example:
        >>> from autoadapt.adapting.layouts import factored
        >>> from autoadapt.contracts.signature import TensorSpec
        >>> texts = "f32[B, 1, H, W]", "f32[B, N, 1]", "f32[B, H, W]", "f32[B, 1, 8]"
        >>> [has_one_channel(factored(TensorSpec.parse(text))) for text in texts]
        [True, True, False, False]
    """
    return bool(_single(tensor)) and not _constants(tensor)


def with_one_channel(tensor: Factored, other: Factored, *, project: bool) -> Factored:
    """A tensor with its one channel as a factor of its own, where the other tensor has channels; else as it is.

    Which of several axes of one entry lists it makes no difference to values. It is the one that stands where the other
    tensor has its channels, else the one behind the samples, else the last.

    Args:
        tensor: A source or a target.
        other: The target or the source.
        project: Channels are mapped even where both tensors have one.
    """
    channels = _constants(other) or (_single(other) if project else [])
    if not channels or not has_one_channel(tensor):
        return tensor
    places = [*channels, 1] if len(other.atoms) == len(tensor.atoms) else [1]
    axis = next((place for place in places if place in _single(tensor)), _single(tensor)[-1])
    atoms = (*tensor.atoms[:axis], (Atom(Dim(1), frozenset(), None),), *tensor.atoms[axis + 1 :])
    return replace(tensor, atoms=atoms)


def _single(tensor: Factored) -> list[int]:
    """Axes of one entry behind the first."""
    return [axis for axis, dim in enumerate(tensor.spec.dims) if axis and dim == 1]


def _constants(tensor: Factored) -> list[int]:
    """The axis of each factor of fixed size that follows no axis of the input."""
    return [axis for axis, atoms in enumerate(tensor.atoms) for atom in atoms if not atom.kind]
