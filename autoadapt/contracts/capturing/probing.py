"""Probing: running a copy of a module at chosen sizes, and noting what comes out."""

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
from autoadapt.contracts.capturing.cell_axes import Grid
from autoadapt.contracts.capturing.centres import CentresFollowed
from autoadapt.contracts.capturing.class_tokens import Joined
from autoadapt.contracts.capturing.dataflow import Behind, Dataflow
from autoadapt.contracts.capturing.devices import device_of, on_meta_device
from autoadapt.contracts.capturing.end_tokens import End
from autoadapt.contracts.capturing.graph_sizes import graph_sizes, graphs_told
from autoadapt.contracts.capturing.inner_calls import InnerCalls, Watcher, kind_of, times_written
from autoadapt.contracts.capturing.inner_leaves import InnerKey, InnerLeaf
from autoadapt.contracts.capturing.likely_masks import with_lengths
from autoadapt.contracts.capturing.merging import Listed
from autoadapt.contracts.capturing.run_values import keeps_a_call
from autoadapt.contracts.capturing.shapes_alone import everywhere_meta
from autoadapt.contracts.instances import parts_of
from autoadapt.contracts.layer_kinds import PROJECTING, multiply_adds
from autoadapt.contracts.made_tables import MadeTables
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.remaking import without_unmakeable
from autoadapt.contracts.signature import Bound
from autoadapt.contracts.trees import Tree, flatten, path_text, path_texts, paths, rebuild
from autoadapt.contracts.views import eval_copy, on_meta
from autoadapt.errors import CaptureError, Mismatch

Shape: TypeAlias = tuple[int, ...]


class ProbeError(Exception):
    """The module raised; carries its message."""


@dataclass(frozen=True)
class Observation:
    """What was observed in one run. Tuples have an item for each output, unless another thing is named."""

    tree: Tree
    shapes: tuple[Shape, ...]
    dtypes: tuple[torch.dtype, ...]
    same_as: tuple[str, ...]
    """Path of an input or an earlier output that is the same tensor object; empty where the tensor is new."""
    filled: dict[str, str]
    """Dict arguments that the module returned: name -> path of the output."""
    written: tuple[bool, ...] = ()
    """For each input, whether the module wrote to it."""
    inner: dict[InnerKey, InnerLeaf] = field(default_factory=dict)
    attending: frozenset[str] = frozenset()
    """Paths of attention modules."""
    added: frozenset[InnerKey] = frozenset()
    """Inner outputs that are residual branches: functions added them to a tensor they were computed from."""
    made_by: tuple[InnerKey | None, ...] = ()
    """The inner output that is this output, unchanged."""
    kinds: tuple[str, ...] = ()
    """How it is stored, where it is not dense: `sparse_coo`, `quantized`, `nested`."""
    tensors: tuple[torch.Tensor, ...] = ()
    """The outputs of a real run."""
    inputs: tuple[torch.Tensor, ...] = ()
    """For each input the tensor of a real run."""
    contiguous: tuple[bool, ...] = ()
    grids: tuple[Grid, ...] = ()
    """Where its cells lie, if that was followed."""
    joined: tuple[Joined | None, ...] = ()
    """Which of its tokens are no cells; `ALONE` where it is computed from class tokens alone; if that was followed."""
    end_tokens: tuple[End | None, ...] = ()
    """Which token alone it is computed from, the first or the last, if that was followed."""
    bounds: tuple[Bound | None, ...] = ()
    """The bounds within which an activation leaves its values, if that was followed."""
    merging: tuple[Listed | None, ...] = ()
    """What each of its axes lists, where reshaping merged some, if that was followed."""
    behind: tuple[Behind | None, ...] = ()
    """What it depends on, if that was traced."""

    @property
    def paths(self) -> list[str]:
        """The path of each output."""
        return path_texts(self.tree)


@dataclass(frozen=True)
class Work:
    """What the convolutions and linear layers of one run cost."""

    multiply_adds: int = 0
    widest: int = 0
    """Values in the largest tensor that one of them returns."""


class Probe:
    """A copy of a module that can be run at any size; the module itself is never called.

    Args:
        module: The original.
        arguments: The example call.
        real: Run on the module's own device with values, instead of on the meta device.
        inner: Note inner outputs.
        forgets: Record caches outside of the module, for `forget`; not needed where another probe of the module does.
    """

    def __init__(
        self, module: nn.Module, arguments: Arguments, *, real: bool, inner: bool, forgets: bool = True
    ) -> None:
        self.real = real
        self._module = module
        self._arguments = arguments
        self._tree, self._tensors = flatten(arguments.values)
        self._copy = eval_copy(module, None if real else on_meta)
        self._parts = parts_of(self._copy)
        self._plain = [{k: v for k, v in vars(part).items() if isinstance(v, _PLAIN)} for part in self._parts]
        self._inner = inner
        self.device = device_of(module)
        self.work = Work()
        """Of the first run that did not raise."""
        self.draws = False
        """Whether random numbers were drawn in any run, by the module or by another thread meanwhile."""
        self.drew = False
        """Whether the module certainly drew some."""
        self._caches = OutsideCaches(self._copy if forgets or not real else nn.Module())
        self._calls = InnerCalls(self._copy if inner else nn.Module())  # after the search, which goes through hooks

    def fresh(self) -> Probe:
        """A probe with a new copy that notes outputs alone; what its real runs leave outside, `forget` here removes."""
        return Probe(self._module, self._arguments, real=self.real, inner=False, forgets=False)

    def forget(self) -> None:
        """Restore caches outside of the module that its runs have changed."""
        self._caches.put_back()

    @property
    def dtypes(self) -> list[torch.dtype]:
        """The dtypes of the input tensors."""
        return [tensor.dtype for tensor in self._tensors]

    @property
    def graphs(self) -> int:
        """The number of graphs in the example, if an input holds the graph number of each node; else 0."""
        nodes = graph_sizes(self._tensors).get("N", 0)
        return max((graphs_told(one, nodes) for one in self._tensors), default=0)

    @property
    def invents(self) -> bool:
        """Whether a real run needs invented values, since the example has none."""
        return any(tensor.is_meta for tensor in self._tensors)

    def keeps_a_call(self, seen: Observation) -> bool:
        """Whether the copy holds a tensor of the shape of one that it read or returned in a real run."""
        return keeps_a_call(self._copy, [*seen.inputs, *seen.tensors])

    def watch(self, path: str, note: Callable[[Any], None]) -> None:
        """Call `note` with each output of an inner module in later runs."""
        self._copy.get_submodule(path).register_forward_hook(lambda _module, _args, output: note(output))

    def trace(self, shapes: Sequence[Shape] | None = None) -> tuple[Observation, Dataflow]:
        """Run once more and follow what each tensor depends on.

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
        known: Mapping[InnerKey, InnerLeaf] | None = None,
    ) -> Observation:
        """Run at the given shapes of the input tensors.

        Args:
            shapes: The shape of each input tensor; by default those of the example.
            mark: Name of a dict argument that gets one more entry, to see whether the module fills it.
            seed: The seed for torch in a real run.
            draw_on: Do not restore the generators of Python and NumPy after the run, so that the next run draws others.
            training: Run in train mode and with gradients, without inner outputs.
            follow: For each input tensor the names of its axes, to follow where the cells of every tensor lie.
            flow: The dataflow that follows this run.
            known: What a run at other shapes noted inside, so that only shapes are noted there.

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
            tables.kept(),  # ends after the caches are restored: tables that those removed need no values
            contextlib.nullcontext() if self.real else self._caches.kept(),
            everywhere_meta(not self.real, tables, followed=bool(follow) or flow is not None),
            self._calls.watched(self._inner and not training and flow is None, followed, known) as watcher,
            followed if follow else contextlib.nullcontext(),
            flow or contextlib.nullcontext(),
            torch.set_grad_enabled(training),
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
        """The example's tensors at other shapes, with values in a real run."""
        wanted = [tuple(tensor.shape) for tensor in self._tensors] if shapes is None else shapes
        pairs = list(zip(self._tensors, wanted, strict=True))
        if not self.real:
            return [torch.empty(shape, dtype=tensor.dtype, device="meta") for tensor, shape in pairs]
        invented = sum(math.prod(shape) * tensor.itemsize for tensor, shape in pairs if tensor.is_meta)
        if invented > MOST_INVENTED:
            raise ProbeError(f"its inputs are not given, and {in_words(invented)} are too much to invent them")
        made = [(tensor, _resized(tensor, shape)) for tensor, shape in pairs]
        return with_lengths([new.to(self.device) if old.is_meta else new for old, new in made], self._tensors)

    def _refuse_what_is_left(self, returned: object) -> None:
        """Refuse modules that make layers in their first call, or whose outputs another module keeps.

        Raises:
            CaptureError: The run made layers.
            ProbeError: A real run returned tensors of an earlier run on the meta device.
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
        """Restore plain attributes that a run which raised has changed, such as a smaller window size."""
        for part, plain in zip(self._parts, self._plain, strict=True):
            changed = {k: v for k, v in plain.items() if k != "training" and _is_other(vars(part).get(k), v)}
            vars(part).update(changed)

    def _put_into(self, training: bool) -> None:
        """Set the mode of a run, unless all submodules are in it: `train()` takes as long as a small layer for each."""
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
        """What a run showed."""
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
            joined=tuple(map(followed.class_tokens.of, outputs)),
            bounds=tuple(map(followed.bounds.of, outputs)),
            end_tokens=tuple(map(followed.end_tokens.of, outputs)),
            merging=tuple(map(followed.merging.of, outputs)),
        )


_MARK = "__autoadapt__"
_PLAIN = (bool, int, float, str, tuple)


@contextlib.contextmanager
def _counting(module: nn.Module, active: bool) -> Iterator[list[tuple[int, int]]]:
    """Yield a list that gets (multiply-adds, output values) of each call of a convolution or linear layer."""
    found: list[tuple[int, int]] = []
    if not active:
        yield found
        return

    def note(layer: nn.Module, _args: Any, output: Any) -> None:
        if isinstance(output, torch.Tensor):
            found.append((multiply_adds(layer, output.shape), output.numel()))

    layers = [part for part in module.modules() if isinstance(part, PROJECTING)]
    handles = [layer.register_forward_hook(note) for layer in layers]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _is_other(value: object, plain: object) -> bool:
    """Whether an attribute is no longer the plain value that it was."""
    return type(value) is not type(plain) or value != plain


def _filled(values: Mapping[str, Any], returned: object) -> dict[str, str]:
    """Dict arguments that are the module's whole output, with its path, the empty text."""
    return {name: "" for name, value in values.items() if isinstance(value, dict) and value is returned}


def _identities(
    tensors: Sequence[torch.Tensor],
    input_paths: Sequence[str],
    outputs: Sequence[torch.Tensor],
    output_paths: Sequence[str],
) -> tuple[str, ...]:
    """For each output, the first input or earlier output that is the same tensor object; empty where it is new."""
    seen = {id(tensor): path for tensor, path in zip(tensors, input_paths, strict=True)}
    found = []
    for output, path in zip(outputs, output_paths, strict=True):
        found.append(seen.get(id(output), ""))
        seen.setdefault(id(output), path)
    return tuple(found)


def _resized(tensor: torch.Tensor, shape: Shape) -> torch.Tensor:
    """The example cut or repeated to a shape, so that all its values are the caller's; invented without values."""
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
