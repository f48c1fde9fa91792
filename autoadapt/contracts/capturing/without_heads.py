"""Without heads: a module without its head, where only the head requires images of one size."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import nn

from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.capturing.depths import place_of
from autoadapt.contracts.capturing.inner_leaves import InnerKey, InnerLeaf
from autoadapt.contracts.capturing.probing import Probe, ProbeError
from autoadapt.contracts.layer_kinds import multiply_adds
from autoadapt.contracts.leaves import READ
from autoadapt.contracts.signature import Signature, TensorSpec, Values
from autoadapt.contracts.tapping import tap
from autoadapt.contracts.trees import Container, flatten
from autoadapt.contracts.views import cut, eval_copy, on_meta
from autoadapt.errors import AdaptError
from autoadapt.errors.printable import visible

LARGER = (64, 32)
"""By how much the first trial enlarges height and width: multiples of all usual strides."""
STEPS = (-3, -1, 1, 2, 3, 5, 7, 11, 13, 19)
"""By how many steps further trials enlarge them, since branches that round in different ways fit at some sizes only."""


def asks_for_a_size(signature: Signature) -> bool:
    """Whether a module takes images of one size only, or none below three quarters of the example."""
    images = [spec for spec in signature.inputs.leaves if len(spec.dims) == 4 and spec.is_floating]
    sizes = [signature.axes.get(name) for name in ("H", "W")]
    return bool(images) and any(one is None or not one.step or 4 * one.smallest > 3 * one.example for one in sizes)


def trunk_signature(
    module: nn.Module,
    arguments: Arguments,
    inside: Mapping[InnerKey, InnerLeaf],
    capture: Callable[[nn.Module, Arguments], Signature],
) -> Signature | None:
    """The signature of a module without outputs, and without all modules that run after its last feature map.

    A pooling of fixed size, or a flatten, before a linear layer restricts a classifier to one image size; its feature
    maps exist at any.

    Args:
        module: The whole module.
        arguments: The example call.
        inside: The inner outputs of that call.
        capture: Captures a module with its inner outputs.

    Returns:
        The signature; None where no module runs after the last feature map, or the rest requires a size as well.
    """
    tensors = flatten(arguments.values)[1]
    image = next((tensor.shape for tensor in tensors if tensor.dim() == 4 and tensor.is_floating_point()), None)
    maps = [key for key, leaf in inside.items() if image and key[2] != READ and _is_map(leaf, image)]
    if not maps:
        return None
    end = max(maps, key=lambda key: inside[key].finished)
    late = _beginning_after(inside, inside[end].finished)
    if not late:
        return None
    trunk = eval_copy(module, on_meta)
    cut(trunk, late, lambda _: True)
    tap(trunk, [end])
    if not _takes(trunk, arguments, LARGER):
        return None
    try:
        found = capture(trunk, arguments)
    except AdaptError:
        return None
    steps = [found.axes[name].step if name in found.axes else 0 for name in ("H", "W")]
    regular = all(_takes(trunk, arguments, (steps[0] * units, steps[1] * units)) for units in STEPS)
    if asks_for_a_size(found) or not regular:
        return None
    costs = {path: _cost(module.get_submodule(path), path, inside) for path in late}
    return _without_outputs(found, costs, inside[end].finished).model_copy(
        update={"name": visible(type(module).__name__)}
    )


def _is_map(leaf: InnerLeaf, image: Sequence[int]) -> bool:
    shape = leaf.shape
    place = place_of(shape, (image[0], *image[2:])) if leaf.dtype.is_floating_point and len(shape) in (3, 4) else None
    return place is not None


def _beginning_after(inside: Mapping[InnerKey, InnerLeaf], finished: int) -> list[str]:
    """The outermost modules whose calls all begin after a time."""
    first: dict[str, int] = {}
    for (path, _, _), leaf in inside.items():
        first[path] = min(first.get(path, leaf.started), leaf.started)
    late = [path for path, started in first.items() if started > finished]
    return [path for path in late if not any(path.startswith(f"{other}.") for other in late)]


def _takes(trunk: nn.Module, arguments: Arguments, more: tuple[int, int]) -> bool:
    """Whether it runs on images that are higher and wider by some pixels."""
    shapes = [_larger(tensor, more) for tensor in flatten(arguments.values)[1]]
    try:
        Probe(trunk, arguments, real=False, inner=False).run(shapes)
    except ProbeError:
        return False
    return True


def _larger(tensor: torch.Tensor, more: tuple[int, int]) -> tuple[int, ...]:
    shape = tuple(tensor.shape)
    if len(shape) != 4 or not tensor.is_floating_point():
        return shape
    return (*shape[:2], max(shape[2] + more[0], 1), max(shape[3] + more[1], 1))


def _cost(module: nn.Module, path: str, inside: Mapping[InnerKey, InnerLeaf]) -> dict[str, int]:
    """Parameters of a module, and multiply-adds of the layers in it."""
    layers = {f"{path}.{name}" if name else path: layer for name, layer in module.named_modules()}
    adds = [multiply_adds(layers[key[0]], leaf.shape) for key, leaf in inside.items() if key[0] in layers]
    return {"parameters": sum(p.numel() for p in module.parameters()), "multiply_adds": sum(adds)}


def _without_outputs(found: Signature, costs: Mapping[str, Mapping[str, int]], end: int) -> Signature:
    """A signature without outputs, and in which inner outputs behind the last feature map are no sources.

    The modules of the head stay among the inner outputs, with their costs, so that plans cut them.
    """
    nothing = Values(tree=Container(kind="tuple", keys=(), children=()), leaves=())
    no_source = TensorSpec(dtype="f32", dims=())
    inner = []
    for output in found.inner:
        changed: dict[str, object] = {"output": "", **costs.get(output.module, {})}
        if output.finished > end:
            changed |= {"spec": no_source, "same_as": ""}
        inner.append(output.model_copy(update=changed))
    update = {"output_weights": (), "train_outputs": None, "inner": tuple(inner)}
    return found.with_outputs(nothing).model_copy(update=update)
