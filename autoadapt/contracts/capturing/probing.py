"""Probing: running a copy of a module at chosen sizes and writing down what comes out."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

import torch
from torch import nn

from autoadapt.contracts.allocations import MOST_INVENTED, in_words
from autoadapt.contracts.caches import OutsideCaches, apart
from autoadapt.contracts.capturing.arguments import Arguments
from autoadapt.contracts.capturing.centres import CentresFollowed, Grid
from autoadapt.contracts.capturing.class_tokens import ALONE
from autoadapt.contracts.capturing.dataflow import Behind, Dataflow
from autoadapt.contracts.capturing.devices import device_of, on_meta_device
from autoadapt.contracts.capturing.inner_calls import InnerKey, InnerLeaf, Watcher, kind_of, times_written, watch
from autoadapt.contracts.capturing.likely_masks import graphs_told, with_lengths
from autoadapt.contracts.capturing.run_values import keeps_a_call
from autoadapt.contracts.capturing.shapes_alone import everywhere_meta
from autoadapt.contracts.instances import parts_of
from autoadapt.contracts.made_tables import MadeTables
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.contracts.randomness import quiet, undisturbed
from autoadapt.contracts.remaking import without_unmakeable
from autoadapt.contracts.signature import Bound
from autoadapt.contracts.trees import Tree, flatten, path_text, path_texts, paths, rebuild
from autoadapt.contracts.views import clone_buffers, copy_module, on_meta
from autoadapt.errors import CaptureError, Mismatch

__all__ = ["InnerKey", "InnerLeaf", "Observation", "Probe", "ProbeError", "Work", "kind_of", "quiet"]

Shape: TypeAlias = tuple[int, ...]


class ProbeError(Exception):
    """The module raised; carries what it said."""


@dataclass(frozen=True)
class Observation:
    """What one run gave back."""

    tree: Tree
    shapes: tuple[Shape, ...]
    dtypes: tuple[torch.dtype, ...]
    same_as: tuple[str, ...]
    filled: dict[str, str]
    written: tuple[bool, ...] = ()
    """For each input whether the module wrote to it."""
    inner: dict[InnerKey, InnerLeaf] = field(default_factory=dict)
    attending: frozenset[str] = frozenset()
    """Paths of the modules that weigh tokens by each other."""
    added: frozenset[InnerKey] = frozenset()
    """What inner modules returned and functions added to what it was made of, as a residual branch is."""
    made_by: tuple[InnerKey | None, ...] = ()
    """For each output the call of an inner module that returned it as it is."""
    kinds: tuple[str, ...] = ()
    """For each output how it is stored, where that is not densely: `sparse_coo`, `quantized`, `nested`."""
    tensors: tuple[torch.Tensor, ...] = ()
    inputs: tuple[torch.Tensor, ...] = ()
    contiguous: tuple[bool, ...] = ()
    """For each output whether it lies in memory in the order of its axes."""
    grids: tuple[Grid, ...] = ()
    """Where the cells of each output lie, if that was followed."""
    class_tokens: tuple[bool, ...] = ()
    """For each output whether it is made of class tokens alone, if that was followed."""
    last_tokens: tuple[bool, ...] = ()
    """For each output whether it is made of the last token alone, if that was followed."""
    bounds: tuple[Bound | None, ...] = ()
    """Within which bounds an activation leaves each output, if that was followed."""
    behind: tuple[Behind | None, ...] = ()
    """What each output depends on, where that was traced."""

    @property
    def paths(self) -> list[str]:
        """The path of each output."""
        return path_texts(self.tree)


@dataclass(frozen=True)
class Work:
    """What a run takes, of convolutions and linear layers."""

    multiply_adds: int = 0
    widest: int = 0
    """Values of the largest tensor that one of them returns."""


class Probe:
    """A copy of a module that can be run at any size; the module itself is never called.

    Args:
        module: The original.
        arguments: One call that is known to be meant.
        real: Run on the module's own device with values, instead of on the meta device.
        inner: Note what inner modules return.
        forgets: Note what code keeps outside the module; another probe of the module may do that.
    """

    def __init__(
        self, module: nn.Module, arguments: Arguments, *, real: bool, inner: bool, forgets: bool = True
    ) -> None:
        self.real = real
        self._module = module
        self._arguments = arguments
        self._tree, self._tensors = flatten(arguments.values)
        self._copy = in_eval_mode(copy_module(module, clone_buffers if real else on_meta))
        self._parts = parts_of(self._copy)
        self._plain = [{k: v for k, v in vars(part).items() if isinstance(v, _PLAIN)} for part in self._parts]
        self._inner = inner
        self.device = device_of(module)
        self.work = Work()
        """Of the first run that did not raise."""
        self.draws = False
        """Whether random numbers were drawn in a run, or by another thread meanwhile."""
        self.drew = False
        """Whether a run drew some for certain."""
        self._caches = OutsideCaches(self._copy if forgets or not real else nn.Module())

    def fresh(self) -> Probe:
        """Another copy, which knows nothing of the runs of this one; runs for real are forgotten by this one."""
        return Probe(self._module, self._arguments, real=self.real, inner=self._inner, forgets=False)

    def forget(self) -> None:
        """Take out of classes, functions and globals what runs of the module left there."""
        self._caches.put_back()

    @property
    def dtypes(self) -> list[torch.dtype]:
        """Of the input tensors."""
        return [tensor.dtype for tensor in self._tensors]

    @property
    def graphs(self) -> int:
        """How many graphs the nodes that are given belong to, if an input tells that; else 0."""
        return max(map(graphs_told, self._tensors), default=0)

    @property
    def invents(self) -> bool:
        """Whether a run for real takes inputs that nobody gave."""
        return any(tensor.is_meta for tensor in self._tensors)

    def keeps_a_call(self, seen: Observation) -> bool:
        """Whether the copy holds a tensor like one that it read or returned in a run for real."""
        return keeps_a_call(self._copy, [*seen.inputs, *seen.tensors])

    def watch(self, path: str, note: Callable[[Any], None]) -> None:
        """Have whatever an inner module returns noted in later runs."""
        self._copy.get_submodule(path).register_forward_hook(lambda _module, _args, output: note(output))

    def trace(self, shapes: Sequence[Shape] | None = None) -> tuple[Observation, Dataflow]:
        """Run once more and follow what each tensor is made of.

        Raises:
            ProbeError: The module raised.
        """
        flow = Dataflow(self._copy)
        return self.run(shapes, flow=flow), flow

    def run(
        self,
        shapes: Sequence[Shape] | None = None,
        *,
        mark: str = "",
        seed: int | None = None,
        draw_on: bool = False,
        training: bool = False,
        follow: Sequence[Sequence[str]] = (),
        flow: Dataflow | None = None,
    ) -> Observation:
        """Run at the given shapes of the input tensors.

        Args:
            shapes: One shape a tensor; the shapes of the example where left out.
            mark: Name of a dict argument that gets one more entry, to see whether it is filled in.
            seed: For what is drawn from torch in a run for real.
            draw_on: Leave the other generators where they stand after the run, so that the next one draws others.
            training: Run in train mode and with gradients, without noting what is inside.
            follow: For each input tensor the names of its axes, to note where the cells of every tensor lie.
            flow: What follows the tensors of this run.

        Raises:
            ProbeError: The module raised.
        """
        values = rebuild(self._tree, tensors := self._inputs(shapes))
        if mark:
            values[mark] = {**values[mark], _MARK: tensors[0]}
        arguments = Arguments(values, self._arguments.positional)
        followed = CentresFollowed(zip(tensors, follow, strict=False))
        tables = MadeTables(self.device)
        with (
            undisturbed(seed or 0 if self.real else None, put_back=not draw_on) as numbers,
            tables.kept(),  # what caches that are found put back needs no values
            contextlib.nullcontext() if self.real else self._caches.kept(),
            everywhere_meta(not self.real, tables, followed=bool(follow) or flow is not None),
            watch(self._copy, self._inner and not training and flow is None, followed) as watcher,
            followed if follow else contextlib.nullcontext(),
            flow or contextlib.nullcontext(),
            torch.set_grad_enabled(training),  # as those have it who train
        ):
            try:
                self._put_into(training)
                with _counting(self._copy, not self.work.multiply_adds) as count:
                    returned = arguments.call(self._copy) if self.real else apart(arguments.call, self._copy)
                if count:
                    self.work = Work(sum(work for work, _ in count), max(made for _, made in count))
            except Exception as error:
                self._put_back()
                raise ProbeError(f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}") from error
        self.draws, self.drew = self.draws or numbers.drawn, self.drew or numbers.own
        self._refuse_what_is_left(returned)
        observed = self._observe(returned, values, tensors, watcher, followed)
        return observed if flow is None else replace(observed, behind=tuple(map(flow.of, flatten(returned)[1])))

    def _inputs(self, shapes: Sequence[Shape] | None) -> list[torch.Tensor]:
        """The example's tensors at other shapes, with values where the run is for real."""
        wanted = [tuple(tensor.shape) for tensor in self._tensors] if shapes is None else shapes
        pairs = list(zip(self._tensors, wanted, strict=True))
        if not self.real:
            return [_empty(tensor, shape) for tensor, shape in pairs]
        invented = sum(math.prod(shape) * tensor.itemsize for tensor, shape in pairs if tensor.is_meta)
        if invented > MOST_INVENTED:
            raise ProbeError(f"its inputs are not given, and {in_words(invented)} are too much to invent them")
        made = [(tensor, _resized(tensor, shape)) for tensor, shape in pairs]
        return with_lengths([new.to(self.device) if old.is_meta else new for old, new in made], self._tensors)

    def _refuse_what_is_left(self, returned: object) -> None:
        """Refuse modules that are not whole before their first call, or that keep what they return in another module.

        Raises:
            CaptureError: The run made layers.
            ProbeError: It returned tensors of an earlier run, which had no values.
        """
        known = set(self._parts)
        if any(part not in known and [*part.parameters()] for part in parts_of(self._copy)):
            made = [path for path, part in self._copy.named_modules() if part not in known and [*part.parameters()]]
            name = type(self._copy).__name__
            remedy = "model(inputs)  # run the model once first"
            fault = Mismatch(made[0], "layers that are there before the first call", "made by the call", remedy)
            raise CaptureError(f"{name} makes layers when it is called: run the model once first", [fault])
        without = self.real and any(one.is_meta for one in flatten(returned)[1])
        if without and not on_meta_device(self._copy):
            raise ProbeError("a copy returns what another module kept: its hooks or closures hold the original")

    def _put_back(self) -> None:
        """Numbers and flags that a run which raised left on the modules, as a window made smaller, are as they were."""
        for part, plain in zip(self._parts, self._plain, strict=True):
            changed = {k: v for k, v in plain.items() if k != "training" and _is_other(vars(part).get(k), v)}
            vars(part).update(changed)

    def _put_into(self, training: bool) -> None:
        """The mode of a run; not again where all parts are in it, since that takes as long as a small layer each."""
        if any(part.training is not training for part in self._parts):
            self._copy.train(training)

    def _observe(
        self,
        returned: object,
        values: dict[str, Any],
        tensors: list[torch.Tensor],
        watcher: Watcher,
        followed: CentresFollowed,
    ) -> Observation:
        tree, outputs = flatten(returned)
        tree = without_unmakeable(returned, tree)
        input_paths = [f"inputs.{path_text(path)}" for path in paths(self._tree)]
        output_paths = path_texts(tree)
        return Observation(
            tree=tree,
            shapes=tuple(() if output.is_nested else tuple(output.shape) for output in outputs),
            dtypes=tuple(output.dtype for output in outputs),
            kinds=tuple(map(kind_of, outputs)),
            same_as=_identities(tensors, input_paths, outputs, output_paths),
            filled=_filled(values, returned),
            written=tuple(times_written(tensor) > 0 for tensor in tensors),
            inner=watcher.noted | watcher.read(),
            attending=frozenset(watcher.attending.found),
            added=watcher.added(),
            made_by=tuple(map(watcher.maker, outputs)),
            tensors=tuple(outputs) if self.real else (),
            inputs=tuple(tensors) if self.real else (),
            contiguous=tuple(not kind_of(output) and output.is_contiguous() for output in outputs),
            grids=tuple(map(followed.grid, outputs)),
            class_tokens=tuple(followed.class_tokens.of(output) is ALONE for output in outputs),
            bounds=tuple(map(followed.bounds.of, outputs)),
            last_tokens=tuple(bool(followed.last_tokens.of(output)) for output in outputs),
        )


_MARK = "__autoadapt__"
_PLAIN = (bool, int, float, str, tuple)


@contextlib.contextmanager
def _counting(module: nn.Module, active: bool) -> Iterator[list[tuple[int, int]]]:
    """Note the multiply-adds of convolutions and linear layers, and what they return, while a block runs."""
    found: list[tuple[int, int]] = []
    if not active:
        yield found
        return

    def note(layer: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor) and isinstance(layer.weight, torch.Tensor):
            made = output.numel()
            found.append((made * (layer.weight.numel() // max(layer.weight.shape[0], 1)), made))

    layers = [part for part in module.modules() if isinstance(part, _COUNTED)]
    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


_COUNTED = (nn.Conv1d, nn.Conv2d, nn.Conv3d, nn.Linear)


def _is_other(value: object, plain: object) -> bool:
    """Whether an attribute is no longer the plain value that it was, but another one or a tensor."""
    return type(value) is not type(plain) or value != plain


def _filled(values: Mapping[str, Any], returned: object) -> dict[str, str]:
    """Dict arguments that the module returned; only a dict at the root is looked for."""
    return {name: "" for name, value in values.items() if isinstance(value, dict) and value is returned}


def _identities(
    tensors: Sequence[torch.Tensor],
    input_paths: Sequence[str],
    outputs: Sequence[torch.Tensor],
    output_paths: Sequence[str],
) -> tuple[str, ...]:
    """For each output, where the very same tensor object stood before; empty where it is new."""
    seen = {id(tensor): path for tensor, path in zip(tensors, input_paths, strict=True)}
    found = []
    for output, path in zip(outputs, output_paths, strict=True):
        found.append(seen.get(id(output), ""))
        seen.setdefault(id(output), path)
    return tuple(found)


def _empty(tensor: torch.Tensor, shape: Shape) -> torch.Tensor:
    return torch.empty(shape, dtype=tensor.dtype, device="meta")


def _resized(tensor: torch.Tensor, shape: Shape) -> torch.Tensor:
    """The example cut or repeated to a shape, so that every value stays one that the caller meant."""
    if tensor.device.type == "meta":
        return _invented(tensor.dtype, shape)
    for axis, size in enumerate(shape):
        if size != tensor.shape[axis]:
            index = torch.arange(size, device=tensor.device) % max(tensor.shape[axis], 1)
            tensor = tensor.index_select(axis, index)
    return tensor.clone()


def _invented(dtype: torch.dtype, shape: Shape) -> torch.Tensor:
    if not dtype.is_floating_point:
        return torch.zeros(shape, dtype=dtype)
    return torch.randn(shape, dtype=dtype, generator=torch.Generator().manual_seed(0))
