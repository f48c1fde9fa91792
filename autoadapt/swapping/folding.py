"""Folding: an adapter's projection merged into the layer that reads it, so that it costs nothing at run time."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from autoadapt.adapting.building import AdaptedModule, with_plan
from autoadapt.adapting.effects import after
from autoadapt.adapting.operations import Project, text
from autoadapt.adapting.planning import Plan, Route
from autoadapt.contracts.capturing.arguments import bind, tensors_in, told_example
from autoadapt.contracts.capturing.probing import quiet
from autoadapt.contracts.capturing.regions import RegionPath
from autoadapt.contracts.instances import check_module
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.contracts.signature import TensorSpec
from autoadapt.contracts.trees import flatten, path_text, paths
from autoadapt.contracts.views import aliased, clone_buffers, copy_module, within_wrapper
from autoadapt.errors import AdaptError, BuildError, Mismatch
from autoadapt.swapping.places import set_modules
from autoadapt.swapping.stand_ins import first_path, passes_of

__all__ = ["fold"]

# Dimension letters: C channels before the projection, D after it, O of the consumer.

Consumer: TypeAlias = nn.Linear | nn.Conv1d | nn.Conv2d | nn.Conv3d

_TOLERANCE = 1e-5


def fold(
    model: nn.Module, *, at: RegionPath | None = None, inputs: object = None, outputs: Sequence[str] | None = None
) -> nn.Module:
    """Merge projections into the convolutions or linear layers that read them.

    A convolution or linear layer of a linear map is one such layer: weights multiply, and the offset goes through. A
    resize between the two changes nothing, since its weights sum to one.

    Args:
        model: A model with an adapted module in it; it is not changed.
        at: Path of the adapted module, or the region in whose place it stands; may be left out where there is but one.
        inputs: An example call of the model, to see what reads each output. May be left out where the model tells its
            input size.
        outputs: Fold only these; all that have a projection, if left out.

    Returns:
        A model over the same weights with fewer layers and the same answers to 1e-5 of their size. Its backbone no
        longer has the old signature, and a freshly built model does not take it back: save before folding.

    Raises:
        BuildError: A projection cannot be folded; for each the error says why.

    Example:
        >>> from autoadapt.adapting import adapt
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 2, stride=2), nn.Conv2d(8, 4, 3))
        >>> x = torch.randn(1, 3, 16, 16)
        >>> model[0] = adapt(nn.Conv2d(3, 5, 2, stride=2), like=model[0], inputs=x)
        >>> folded = fold(model, at="0", inputs=x)
        >>> folded[1].in_channels, torch.allclose(folded(x), model(x), atol=1e-5)
        (5, True)
    """
    check_module(model, "model", BuildError)
    model, at = within_wrapper(model, at)
    path = _place(model, first_path(model, at))
    net = model.get_submodule(path)
    assert isinstance(net, AdaptedModule), "found as one"
    wanted = _wanted(net.plan, outputs)
    with quiet():
        call = bind(model, told_example(model) if inputs is None else inputs)
        readers = _readers(model, path, call.call)
        if any(_obstacle(model, net, target, readers.get(target, [])) for target in wanted):
            raise _refusal(model, net, wanted, readers)
        made = copy_module(model, aliased)
        for target in wanted:
            consumer = readers[target][0]
            set_modules(made, {consumer: _merged(model.get_submodule(consumer), _projection(net, target))})
        passes, folded = passes_of(made.get_submodule(path)), _without(net, wanted)
        if passes is not None:
            passes.take_over(folded)
        vars(folded)["folded"] = tuple(dict.fromkeys(readers[target][0] for target in wanted))  # for `save`
        set_modules(made, {path: folded})
        _check(model, made, call.call)
    return made


def _place(model: nn.Module, at: str | None) -> str:
    found: list[str] = [name for name, module in model.named_modules() if isinstance(module, AdaptedModule)]
    if at and at in found:
        return at
    inside = [name for name in found if name]
    if at is None and len(inside) == 1:
        return inside[0]
    told = ", ".join(name or "the model itself" for name in found) or "none"
    remedy = "\n".join(f'fold(..., at="{name}")' for name in inside[:3]) or _SWAP
    fault = Mismatch("at", "the path of an adapted module inside the model", told, remedy)
    raise BuildError("nothing to fold: what reads the adapter must be in the model", [fault])


_SWAP = "aa.fold(aa.swap(model, path, new, inputs=x), inputs=x)"
"""Where no adapted module stands inside the model."""
_AS_IT_IS = 'aa.export(model, "model.onnx", inputs=x)'
"""Where nothing can be folded: there is nothing to gain."""


def _wanted(plan: Plan, outputs: Sequence[str] | None) -> list[str]:
    projected = [route.target for route in plan.routes if _steps_of(route)]
    if not projected:
        fault = Mismatch("outputs", "outputs with a projection", "none: the adapters have no layers", _AS_IT_IS)
        raise BuildError("there is no projection to fold, and the model is as it would be", [fault])
    if isinstance(outputs, str) or not (outputs is None or isinstance(outputs, Collection)):
        fault = Mismatch("outputs", "a list of names", repr(outputs)[:60], f"outputs={projected}")
        raise BuildError("outputs are told by their names", [fault])
    chosen = projected if outputs is None else list(outputs)
    wrong = [name for name in chosen if name not in projected]
    if wrong or not chosen:
        fault = Mismatch(f"outputs={wrong}", "outputs with a projection", ", ".join(projected), f"outputs={projected}")
        raise BuildError("there is no such projection to fold", [fault])
    return chosen


def _refusal(model: nn.Module, net: AdaptedModule, wanted: Sequence[str], readers: Readers) -> BuildError:
    """Why projections cannot be folded, with those that can be."""
    projected = [route.target for route in net.plan.routes if _steps_of(route)]
    found = {target: _obstacle(model, net, target, readers.get(target, [])) for target in projected}
    others = [target for target, fault in found.items() if fault is None]
    remedy = f"fold(..., outputs={others})" if others else _AS_IT_IS
    faults = [replace(fault, remedy=remedy) for target in wanted if (fault := found[target]) is not None]
    said = f"{len(faults)} of {len(wanted)} projections cannot be folded"
    return BuildError(said if others else f"{said}, nor any other of this module", faults)


def _steps_of(route: Route) -> list[int]:
    return [index for index, step in enumerate(route.steps) if isinstance(step, Project)]


Readers: TypeAlias = Mapping[str, list[str]]
"""For each output the paths of the layers that read it; any other reader stands in brackets."""


def _readers(model: nn.Module, path: str, call: Callable[[nn.Module], Any]) -> Readers:
    """What reads the outputs of the adapted module when the model runs."""
    copied = in_eval_mode(copy_module(model, clone_buffers))
    watch = _Watch()

    def note(_module: nn.Module, _args: object, output: object) -> None:
        watch.note(output)  # before the hook by which the first module of a region hands on a part of it

    handles = [copied.get_submodule(path).register_forward_hook(note, prepend=True)]
    for name, module in copied.named_modules():
        if isinstance(module, _CONSUMERS) and not name.startswith(f"{path}."):
            handles.append(module.register_forward_pre_hook(watch.entering(name)))
            handles.append(module.register_forward_hook(watch.leaving))
    try:
        with watch:
            watch.read(call(copied), "[the caller of the model]")
    finally:
        for handle in handles:
            handle.remove()
    return watch.readers


_CONSUMERS = (nn.Linear, nn.Conv1d, nn.Conv2d, nn.Conv3d)
_SHAPE_ONLY = ("__get__", "size", "dim", "numel", "stride", "is_floating_point", "__len__")


class _Watch(TorchFunctionMode):
    """Notes everything that is given an output of the adapted module."""

    def __init__(self) -> None:
        super().__init__()
        self.readers: dict[str, list[str]] = {}
        self._outputs: dict[int, tuple[str, torch.Tensor]] = {}
        self._called: set[str] = set()
        self._is_inside = False

    def note(self, output: object) -> None:
        tree, tensors = flatten(output)
        for path, tensor in zip(map(path_text, paths(tree)), tensors, strict=True):
            self._outputs[id(tensor)] = path, tensor
            self.readers.setdefault(path, [])

    def read(self, value: object, reader: str) -> bool:
        """Note a reader of those outputs that are among some values."""
        found = [self._outputs[id(tensor)][0] for tensor in tensors_in(value) if id(tensor) in self._outputs]
        for path in found:
            self.readers[path].append(reader)
        return bool(found)

    def entering(self, name: str) -> Callable[[nn.Module, tuple[Any, ...]], None]:
        def hook(_module: nn.Module, args: tuple[Any, ...]) -> None:
            reader = f"[another call of {name}]" if name in self._called else name
            self._called.add(name)
            self._is_inside = self.read(args, reader)

        return hook

    def leaving(self, _module: nn.Module, _args: Any, _output: Any) -> None:
        self._is_inside = False

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name = getattr(func, "__name__", str(func))
        if not self._is_inside and name not in _SHAPE_ONLY:
            self.read((args, kwargs or {}), f"[torch.{name}]")
        return func(*args, **(kwargs or {}))


def _obstacle(model: nn.Module, net: AdaptedModule, target: str, readers: Sequence[str]) -> Mismatch | None:
    """Why a projection cannot be folded; None where it can."""

    def fault(expected: str, found: str, why: str = "") -> Mismatch:
        return Mismatch(f"output {target}", expected, found, why=why)

    if len(readers) != 1 or readers[0].startswith("["):
        told = ", ".join(reader.strip("[]") for reader in readers) or "nothing reads it"
        return fault("one convolution or linear layer that reads it, and nothing else", told)
    projected = next(route.steps[_steps_of(route)[0]] for route in net.plan.routes if route.target == target)
    if isinstance(projected, Project) and projected.groups > 1:
        return fault("one map for all places", f"{text(projected)}, a map for each place", "its reader has one weight")
    consumer = model.get_submodule(readers[0])
    if type(consumer) not in _CONSUMERS:
        return fault("a plain convolution or linear layer", f"{readers[0]}, a {type(consumer).__name__}")
    if getattr(consumer, "groups", 1) != 1:
        why = "a projection mixes all channels, a grouped convolution only some"
        return fault("groups=1", f"{readers[0]} with groups={consumer.groups}", why)
    if _pads(consumer) and bool(_offset(_projection(net, target)).count_nonzero()):
        why = "at the border the layer sees zeros, where the projection of zeros would be its offset"
        return fault("no padding", f"{readers[0]} with padding={consumer.padding}", why)
    axis = _channel_axis(next(route for route in net.plan.routes if route.target == target))
    read = len(net.plan.target.outputs[target].dims) - 1 if isinstance(consumer, nn.Linear) else 1
    if axis != read:
        where = "merged with another axis" if axis is None else f"on axis {axis}"
        return fault(f"channels on axis {read}, where {readers[0]} reads them", where)
    return None


def _channel_axis(route: Route) -> int | None:
    """Where the channels of a projection are in the output; None where they are merged with others."""
    index = _steps_of(route)[0]
    try:
        plain, other = _specs(route, index, 0), _specs(route, index, 1)
    except AdaptError:
        return None
    changed = [i for i, (left, right) in enumerate(zip(plain.dims, other.dims, strict=True)) if left != right]
    return changed[0] if len(changed) == 1 else None


def _specs(route: Route, index: int, extra: int) -> TensorSpec:
    """The output of a route if its projection had some channels more."""
    project = route.steps[index]
    assert isinstance(project, Project), "found as one"
    spec = after(project.model_copy(update={"target": project.target + extra}), route.specs[index])
    for step in route.steps[index + 1 :]:
        spec = after(step, spec)
    return spec


def _pads(consumer: nn.Module) -> bool:
    padding = getattr(consumer, "padding", 0)
    return padding != "valid" and any(size != 0 for size in (padding if isinstance(padding, tuple) else (padding,)))


def _projection(net: AdaptedModule, target: str) -> Consumer:
    projected = [route.target for route in net.plan.routes if _steps_of(route)]
    adapter = list(net.adapters.children())[projected.index(target)]
    layer = adapter.project
    assert isinstance(layer, _CONSUMERS), "a projection is one of them"
    return layer


def _merged(consumer: nn.Module, projection: Consumer) -> Consumer:
    """The layer that does what the projection and its reader do one after the other."""
    assert isinstance(consumer, _CONSUMERS), "no obstacle"
    outer, inner_DC = consumer.weight.detach().double(), projection.weight.detach().double().flatten(1)
    weight = torch.einsum("od...,dc->oc...", outer, inner_DC)
    bias_O = _offset(consumer) + outer.reshape(*outer.shape[:2], -1).sum(2) @ _offset(projection)
    made = _like(consumer, inner_DC.shape[1]).to(device=consumer.weight.device, dtype=consumer.weight.dtype)
    made.load_state_dict({"weight": weight, "bias": bias_O})
    made.training = consumer.training
    return made


def _offset(layer: Consumer) -> torch.Tensor:
    """The offset of a layer; zeros where it has none."""
    if layer.bias is None:
        return torch.zeros(layer.weight.shape[0], dtype=torch.float64, device=layer.weight.device)
    return layer.bias.detach().double()


def _like(consumer: Consumer, channels: int) -> Consumer:
    if isinstance(consumer, nn.Linear):
        return nn.Linear(channels, consumer.out_features)
    kind: Any = type(consumer)
    made: Consumer = kind(
        channels,
        consumer.out_channels,
        consumer.kernel_size,
        stride=consumer.stride,
        padding=consumer.padding,
        dilation=consumer.dilation,
        padding_mode=consumer.padding_mode,
    )
    return made


def _without(net: AdaptedModule, targets: Sequence[str]) -> AdaptedModule:
    """The adapted module without the projections of some outputs; other adapters are kept."""
    routes = [_route_without(route) if route.target in targets else route for route in net.plan.routes]
    specs = {route.target: route.specs[-1] for route in routes if route.target in targets}
    outputs = net.plan.target.outputs
    leaves = tuple(specs.get(path, spec) for path, spec in outputs.items())
    contract = net.plan.target.model_copy(update={"outputs": outputs.model_copy(update={"leaves": leaves})})
    changed = net.plan.model_copy(update={"routes": tuple(routes), "target": contract})
    return with_plan(net, changed)


def _route_without(route: Route) -> Route:
    index = _steps_of(route)[0]
    steps = (*route.steps[:index], *route.steps[index + 1 :])
    specs = [route.specs[0]]
    for step in steps:
        specs.append(after(step, specs[-1]))
    return route.model_copy(
        update={
            "steps": steps,
            "specs": tuple(specs),
            "parameters": 0,
            "multiply_adds": 0,
        }
    )


def _check(model: nn.Module, made: nn.Module, call: Callable[[nn.Module], Any]) -> None:
    """Run both and compare.

    Raises:
        BuildError: They differ by more than rounding, or in shape, as where one of them detects another box.
    """
    before, after_ = (flatten(call(in_eval_mode(copy_module(one, clone_buffers))))[1] for one in (model, made))
    for left, right in zip(before, after_, strict=True):
        if left.shape != right.shape:
            fault = Mismatch("answer of the model", f"shape {[*left.shape]}", f"{[*right.shape]}", "keep it")
            raise BuildError("the folded model does not answer as before", [fault])
        if not left.is_floating_point() or left.numel() == 0:
            continue
        allowed = max(_TOLERANCE, 32 * torch.finfo(left.dtype).eps) * max(float(left.abs().max()), 1.0)
        found = float((left - right).abs().max())
        if not found <= allowed:
            fault = Mismatch("answer of the model", f"a difference of at most {allowed:.1e}", f"{found:.1e}", "keep it")
            raise BuildError("the folded model does not answer as before", [fault])
