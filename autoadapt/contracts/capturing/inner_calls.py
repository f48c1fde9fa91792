"""Inner calls: the outputs, and some inputs, of all submodules in one run, in the order in which they finish."""

from __future__ import annotations

import contextlib
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import nn
from torch.masked import MaskedTensor

from autoadapt.contracts.capturing.attending import Attending
from autoadapt.contracts.capturing.by_tensor import ByTensor
from autoadapt.contracts.capturing.centres import CentresFollowed
from autoadapt.contracts.capturing.classifier_heads import is_linear
from autoadapt.contracts.capturing.inner_leaves import InnerKey, InnerLeaf
from autoadapt.contracts.capturing.readings import Readings
from autoadapt.contracts.leaves import READ, leaf
from autoadapt.contracts.trees import flatten, path_texts
from autoadapt.errors import SignatureError


class InnerCalls:
    """Hooks on all submodules of a copy, put there once, since that takes long. Between runs they do nothing.

    Args:
        module: The copy; it is not kept here, so that it is freed as soon as nobody uses it.
    """

    def __init__(self, module: nn.Module) -> None:
        self._watcher: Watcher | None = None
        for name, inner in module.named_modules():
            if name and not isinstance(inner, torch.jit.ScriptModule):
                inner.register_forward_pre_hook(self._begin(name, inner))
                inner.register_forward_hook(self._end(name))

    @contextlib.contextmanager
    def watched(
        self, active: bool, followed: CentresFollowed, known: Mapping[InnerKey, InnerLeaf] | None = None
    ) -> Iterator[Watcher]:
        """Note what inner modules return while the block runs.

        Args:
            active: Whether to note anything.
            followed: Where cells lie, followed in the same run.
            known: What a run at other sizes noted; then only shapes are noted, which takes less time.
        """
        watcher = Watcher(followed) if known is None else _Shapes(followed, known)
        if not active:
            yield watcher
            return
        self._watcher = watcher
        try:
            with watcher.attending if known is None else contextlib.nullcontext():
                yield watcher
        finally:
            self._watcher = None

    def _begin(self, name: str, inner: nn.Module) -> Callable[[nn.Module, Any], None]:
        holds, linear = any(True for _ in inner.children()), is_linear(inner)

        def begin(_module: nn.Module, args: Any) -> None:
            if self._watcher is not None:
                self._watcher.begin(name, args, holds=holds, linear=linear)

        return begin

    def _end(self, name: str) -> Callable[[nn.Module, Any, Any], None]:
        def end(_module: nn.Module, args: Any, output: Any) -> None:
            if self._watcher is not None:
                self._watcher.end(name, args, output)

        return end


class Watcher:
    """Notes the calls of submodules in one run, and their tensors, none of which is kept alive."""

    def __init__(self, followed: CentresFollowed) -> None:
        self._followed = followed
        self.noted: dict[InnerKey, InnerLeaf] = {}
        self.attending = Attending()
        self._readings = Readings()
        self._vectors: dict[InnerKey, InnerLeaf] = {}
        """Vectors that linear layers read and no module returned."""
        self._events = 0
        """How many calls began or ended so far."""
        self._numbers: dict[int, InnerKey] = {}
        """Outputs by their numbers in `attending`."""
        self._began: dict[str, list[int]] = {}
        """By module, the event at which each of its running calls began, the innermost last."""
        self._calls: dict[str, int] = {}
        """By module, the number of its last finished call, from 0."""
        self._reads: dict[str, list[InnerKey | None]] = {}
        """By module, what returned the first argument of each of its running calls."""
        self._first = ByTensor[InnerKey]()
        """The first call that returned a tensor."""
        self._last = ByTensor[InnerKey]()
        """The last one."""

    def begin(self, name: str, args: Any, *, holds: bool, linear: bool) -> None:
        """Note that a call of a module began."""
        self._events += 1
        caller = self.attending.running[-1][0] if self.attending.running else ""
        self.attending.running.append((name, holds))
        self._began.setdefault(name, []).append(self._events)
        with torch._C.DisableTorchFunction():  # function modes must not see this, and would make it slow
            self._reads.setdefault(name, []).append(self._source(args[0]) if args else None)
            self._note_reading(name, caller, args[0] if args else None)
            if linear and args and self._reads[name][-1] is None:
                self._note_vector(name, args[0])

    def end(self, name: str, args: Any, output: Any) -> None:
        """Note what a call returned."""
        self._events += 1
        self.attending.running.pop()
        call = self._calls[name] = self._calls.get(name, -1) + 1
        with torch._C.DisableTorchFunction():
            self._note(name, call, self._began[name].pop(), self._reads[name].pop(), args, output)

    def _note_reading(self, name: str, caller: str, value: object) -> None:
        leaf = None
        if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() > 2 and not kind_of(value):
            source = self._source(value)
            written = source is not None and self.noted[source].version != times_written(value)
            if (source is None or written) and self.attending.is_sum(value):
                leaf = self._leaf(value, self._events, None, None)
        self._readings.begin(name, caller, value, leaf)

    def _note_vector(self, name: str, value: object) -> None:
        if isinstance(value, torch.Tensor) and value.is_floating_point() and not kind_of(value) and _is_vector(value):
            self._vectors[name, self._calls.get(name, -1) + 1, READ] = self._leaf(value, self._events, None, None)

    def read(self) -> dict[InnerKey, InnerLeaf]:
        """First arguments that no module returned: residual streams, and vectors of linear layers after all maps."""
        last = max((leaf.finished for leaf in self.noted.values() if math.prod(leaf.shape[2:]) > 1), default=0)
        heads = {key: leaf for key, leaf in self._vectors.items() if leaf.started > last}
        return self._readings.of_streams() | heads

    def added(self) -> frozenset[InnerKey]:
        """The outputs that a function added to a tensor they were computed from."""
        return frozenset(self._numbers[number] for number in self.attending.added)

    def _source(self, value: object) -> InnerKey | None:
        """The last call that returned a tensor, or a tensor of as many values of which it is a view."""
        if not isinstance(value, torch.Tensor):
            return None
        base = value._base if value._base is not None and value._base.numel() == value.numel() else value
        return self._last.get(value) or self._last.get(base)

    def _note(self, name: str, call: int, began: int, reads: InnerKey | None, args: Any, output: Any) -> None:
        """Note the tensors that a call returned."""
        for path, tensor in _leaves_of(output):
            key, first = (name, call, path), self._first.get(tensor)
            if first is None:
                self._first.put(tensor, key)
            self._numbers[self.attending.returned(tensor, args)] = key
            self._last.put(tensor, key)
            self.noted[key] = self._leaf(tensor, began, first, reads)

    def _leaf(self, tensor: torch.Tensor, began: int, same_as: InnerKey | None, reads: InnerKey | None) -> InnerLeaf:
        return InnerLeaf(
            shape=tuple(tensor.shape),
            dtype=tensor.dtype,
            started=began,
            finished=self._events,
            same_as=same_as,
            reads=reads,
            version=times_written(tensor),
            contiguous=tensor.is_contiguous(),
            grid=self._followed.grid(tensor),
            joined=self._followed.class_tokens.of(tensor),
        )

    def maker(self, tensor: torch.Tensor) -> InnerKey | None:
        """The last call that returned a tensor, unless it was written to after that."""
        key = self._last.get(tensor)
        return key if key is not None and self.noted[key].version == times_written(tensor) else None


class _Shapes(Watcher):
    """Notes shapes alone: which calls read what, and which of them add or attend, an earlier run told."""

    def __init__(self, followed: CentresFollowed, known: Mapping[InnerKey, InnerLeaf]) -> None:
        super().__init__(followed)
        self._known = known
        self._reading = {name for name, _, path in known if path == READ}
        self._begun = Counter[str]()

    def begin(self, name: str, args: Any, *, holds: bool, linear: bool) -> None:
        if name not in self._reading:
            return
        key = (name, self._begun[name], READ)
        self._begun[name] += 1
        with torch._C.DisableTorchFunction():
            if key in self._known and args and self._is_like(args[0], self._known[key]):
                self.noted[key] = self._leaf(args[0], 0, None, None)

    def end(self, name: str, args: Any, output: Any) -> None:
        call = self._calls[name] = self._calls.get(name, -1) + 1
        with torch._C.DisableTorchFunction():
            for path, tensor in _leaves_of(output):
                self.noted[name, call, path] = self._leaf(tensor, 0, None, None)

    def _is_like(self, value: object, known: InnerLeaf) -> bool:
        """Whether this is a tensor with the axes of another one, and of one cell where that has one."""
        if not isinstance(value, torch.Tensor) or kind_of(value) or value.dim() != len(known.shape):
            return False
        return math.prod(known.shape[2:]) > 1 or _is_vector(value)


def _leaves_of(output: object) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of an output that a tap can return, with their paths: those that an adapter's layers take."""
    try:
        tree, tensors = (None, [output]) if isinstance(output, torch.Tensor) else flatten(output)
    except SignatureError:  # a tensor that no path names cannot be tapped
        return
    for path, tensor in zip(["output"] if tree is None else path_texts(tree), tensors, strict=True):
        if not kind_of(tensor) and path != READ and _is_found(output, path, tensor):
            yield path, tensor


def _is_found(output: object, path: str, tensor: torch.Tensor) -> bool:
    """Whether a path leads back to a tensor, as it may not where keys have equal texts or contain dots."""
    try:
        return leaf(output, path) is tensor
    except (AttributeError, KeyError, TypeError, ValueError):
        return False


def _is_vector(tensor: torch.Tensor) -> bool:
    """Whether it holds one vector for each sample: `[B, C]`, `[B, C, 1, 1]`."""
    return tensor.dim() > 1 and math.prod(tensor.shape[2:]) == 1


def kind_of(tensor: torch.Tensor) -> str:
    """How a tensor is stored: nested, sparse, quantized ...; empty for plain strided ones."""
    if tensor.is_nested:
        return "nested"
    if isinstance(tensor, MaskedTensor):
        return "masked"
    if type(tensor).__name__ == "FakeTensor":
        return "fake"
    if tensor.layout is not torch.strided:
        return str(tensor.layout).removeprefix("torch.")
    return "quantized" if tensor.is_quantized else ""


def times_written(tensor: torch.Tensor) -> int:
    """How often a tensor was written to in place; 0 for inference tensors, which do not count."""
    return 0 if tensor.is_inference() else tensor._version
