"""Class scores: which outputs and inner outputs are dense scores of classes, and so no features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from torch import nn

from autoadapt.contracts.signature import InnerOutput, Values


def class_scores(model: nn.Module, outputs: Values, inner: Sequence[InnerOutput]) -> tuple[str, ...]:
    """Paths of outputs and names of inner outputs that score classes in more than one place.

    Those are outputs called `logits`, as in transformers; and, where the model has a number of classes, tensors with as
    many channels which a convolution or linear layer returns and no layer reads, or which come after the last layer.
    The latter only if no layer of the model reads as many channels, since such tensors may be features. Vectors of
    scores are found by `read_by_heads`.
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
    """The constant dims of a tensor of three axes or more; none of a vector."""
    listed = list(dims)
    return {size for dim in listed if (size := getattr(dim, "constant", None))} if len(listed) > 2 else set()


def _width(part: nn.Module) -> object:
    """The input channels of a layer."""
    return getattr(part, "in_features", getattr(part, "in_channels", None))


def _classes(model: nn.Module) -> set[int]:
    """The numbers of classes in a model's attributes or config, under their usual names."""
    holders = (model, getattr(model, "config", None))
    found = [getattr(holder, name, None) for holder in holders for name in _NAMES if holder is not None]
    return {count for count in found if isinstance(count, int) and not isinstance(count, bool) and count > 0}


_NAMES = ("num_classes", "num_labels", "vocab_size", "n_classes")
