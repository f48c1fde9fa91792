"""Scores: which outputs, and which tensors inside, score classes; they are no features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from autoadapt.contracts.signature import InnerOutput, Values

__all__ = ["class_scores"]


def class_scores(model: nn.Module, outputs: Values, inner: Sequence[InnerOutput]) -> tuple[str, ...]:
    """Paths of outputs and names of inner outputs that score classes in more than one place.

    Those are outputs called `logits`, as transformers calls them; and where a model says how many classes it has,
    tensors of as many channels that a convolution or linear layer makes and nothing learned reads, or that come after
    the last layer of all. Vectors of scores are left to `read_by_heads`. What is as wide as what a layer reads may be
    features, as where there are as many words as channels: of it layers tell alone.

    Args:
        model: The whole.
        outputs: What it returns.
        inner: What inner modules return.
    """
    counts = _classes(model)
    clear = counts - {_width(part) for part in model.modules()}
    layers = [output for output in inner if output.layers == 1 and not output.parent]
    made = {output.same_as or output.name for output in layers if not output.read_on}
    last = max((output.finished for output in layers), default=0)
    found = [
        output
        for output in inner
        if (counts & _sizes(output.spec.dims) and (output.same_as or output.name) in made)
        or (clear & _sizes(output.spec.dims) and 0 < last <= output.finished)
    ]
    dense = {output.output: output for output in inner if output.output}
    named = [
        path
        for path, spec in outputs.items()
        if len(spec.dims) > 2
        and (path.rpartition(".")[2] == "logits" or (clear & _sizes(spec.dims) and path not in dense))
    ]
    return (*named, *(output.name for output in found), *(output.output for output in found if output.output))


def _sizes(dims: Iterable[object]) -> set[int]:
    """Constant sizes of a tensor that has more axes than samples and channels."""
    listed = list(dims)
    return {size for dim in listed if (size := getattr(dim, "constant", None))} if len(listed) > 2 else set()


def _width(part: nn.Module) -> object:
    """How many channels a layer reads."""
    return getattr(part, "in_features", getattr(part, "in_channels", None))


def _classes(model: nn.Module) -> set[int]:
    """How many classes a model says that it has, under the names in use."""
    holders = (model, getattr(model, "config", None))
    found = [getattr(holder, name, None) for holder in holders for name in _NAMES if holder is not None]
    return {count for count in found if isinstance(count, int) and not isinstance(count, bool) and count > 0}


_NAMES = ("num_classes", "num_labels", "vocab_size", "n_classes")
