"""Costs: multiply-adds, memory and time of one forward pass of a module."""

from __future__ import annotations

import contextlib
import statistics
import time
import weakref
from collections.abc import Callable, Collection, Iterator, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from autoadapt.contracts.caches import OutsideCaches, apart
from autoadapt.contracts.capturing import Arguments, bind
from autoadapt.contracts.facts import MadeByHand
from autoadapt.contracts.meta_device import on_the_meta_device
from autoadapt.contracts.trees import flatten, rebuild
from autoadapt.contracts.views import aliased, copy_module, eval_copy, on_meta

LONGEST = 3.0
"""Seconds after which a pass is not timed again."""


class Cost(MadeByHand):
    """The cost of one forward pass without gradients."""

    multiply_adds: int
    """Of convolutions, linear layers, matrix products and attention."""
    weight_bytes: int
    """Of parameters and buffers."""
    peak_bytes: int
    """Peak memory of tensors besides weights and inputs; workspace of operations does not count."""
    seconds: float
    """Median of a few runs."""


def cost_of(module: nn.Module, inputs: object, *, repeats: int = 5) -> Cost:
    """Run a copy of a module in eval mode and measure its cost.

    Args:
        module: The module; only copies of it run.
        inputs: An example call, as for `capture`; values are invented for tensors on the meta device.
        repeats: How often it is timed; less often where a pass takes seconds.

    Raises:
        CaptureError: The inputs do not fit the module's `forward`.

    Example:
        >>> found = cost_of(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 10, 10))
        >>> found.multiply_adds, found.peak_bytes, found.weight_bytes
        (21600, 3200, 896)
    """
    copied = eval_copy(module)
    arguments = with_values(bind(copied, inputs))
    weights = [*copied.parameters(), *copied.buffers()]
    with torch.no_grad():
        with _LiveBytes([*weights, *flatten(arguments.values)[1]]) as live:
            arguments.call(copied)
        seconds = _timed(copied, arguments, repeats)
        multiply_adds = multiply_adds_of(copied, arguments)
    return Cost(
        multiply_adds=multiply_adds,
        weight_bytes=sum(tensor.numel() * tensor.element_size() for tensor in weights),
        peak_bytes=live.peak,
        seconds=seconds,
    )


def cost_without_values(module: nn.Module, inputs: object) -> Cost:
    """The cost of one forward pass as far as it is known without a real run: the time is zero.

    Args:
        module: The module, which may stand on the meta device.
        inputs: An example call, as for `capture`.

    Example:
        >>> found = cost_without_values(nn.Conv2d(3, 8, 3, padding=1, device="meta"), torch.zeros(1, 3, 10, 10))
        >>> found.multiply_adds, found.peak_bytes, found.weight_bytes, found.seconds
        (21600, 3200, 896, 0.0)
    """
    weights = [*module.parameters(), *module.buffers()]
    return Cost(
        multiply_adds=multiply_adds_of(eval_copy(module, on_meta), bind(module, inputs)),
        weight_bytes=sum(tensor.numel() * tensor.element_size() for tensor in weights),
        peak_bytes=peak_without_values(module, inputs),
        seconds=0.0,
    )


def peak_without_values(module: nn.Module, inputs: object) -> int:
    """The peak memory of a pass besides weights and inputs, from a run on the meta device.

    Args:
        module: The module; only a copy of it runs.
        inputs: An example call, as for `capture`.

    Returns:
        Bytes; zero where the module does not run on the meta device.

    Example:
        >>> peak_without_values(nn.Conv2d(3, 8, 3, padding=1), torch.zeros(1, 3, 10, 10, device="meta"))
        3200
    """
    copied = eval_copy(module, on_meta)
    given = bind(copied, inputs)
    tree, tensors = flatten(given.values)
    tensors = [tensor.to("meta") for tensor in tensors]
    arguments = Arguments(rebuild(tree, tensors), given.positional)
    live = _LiveBytes([*copied.parameters(), *copied.buffers(), *tensors])
    try:
        with torch.no_grad(), on_the_meta_device(module, OutsideCaches(copied)), live:
            apart(arguments.call, copied)
    except Exception:  # the model reads values, which tensors on the meta device do not have
        return 0
    return live.peak


def with_values(arguments: Arguments, seed: int = 0) -> Arguments:
    """The call with values for tensors on the meta device: noise for floating ones, zeros for others."""
    generator = torch.Generator().manual_seed(seed)
    tree, tensors = flatten(arguments.values)
    return Arguments(rebuild(tree, [_filled(tensor, generator) for tensor in tensors]), arguments.positional)


def _filled(tensor: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    if not tensor.is_meta:
        return tensor
    if tensor.is_floating_point():
        return torch.randn(tensor.shape, generator=generator).to(tensor.dtype)
    return torch.zeros(tensor.shape, dtype=tensor.dtype)


def multiply_adds_of(module: nn.Module, arguments: Arguments) -> int:
    """Multiply-adds of one pass, on the meta device where the module runs there.

    Args:
        module: The module, in the mode to run it in; a copy runs, for real where it reads values.
        arguments: The example call.
    """
    return multiply_adds_by_part(module, arguments, ())[""]


def multiply_adds_by_part(module: nn.Module, arguments: Arguments, paths: Collection[str]) -> dict[str, int]:
    """Multiply-adds of one pass, by path of submodule; the empty path is the whole.

    Args:
        module: The module, in the mode to run it in; a copy runs, for real where it reads values.
        arguments: The example call.
        paths: Paths of submodules; one may be inside of another.
    """
    from torch.utils.flop_counter import FlopCounterMode  # imports triton, which takes 0.5 s

    tree, tensors = flatten(arguments.values)
    given = [tensor.detach() for tensor in tensors]  # the counter's hooks fail at leaves, and at views of parameters
    try:
        copied = copy_module(module, on_meta).requires_grad_(False)
        call = Arguments(rebuild(tree, [tensor.to("meta") for tensor in given]), arguments.positional).call
        with on_the_meta_device(module, OutsideCaches(copied)), FlopCounterMode(display=False) as flops:
            found = _counted(copied, paths, flops, lambda: apart(call, copied))
    except Exception:  # the model reads values: run for real
        copied = copy_module(module, aliased).requires_grad_(False)
        call = Arguments(rebuild(tree, given), arguments.positional).call
        with _plain_attention(), FlopCounterMode(display=False) as flops:
            found = _counted(copied, paths, flops, lambda: call(copied))
    return found


@contextlib.contextmanager
def _plain_attention() -> Iterator[None]:
    """Compute attention as matrix products, and encoder layers without PyTorch's fast path, which is not counted."""
    was_fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)
    try:
        with sdpa_kernel(SDPBackend.MATH):
            yield
    finally:
        torch.backends.mha.set_fastpath_enabled(was_fast)


def _counted(module: nn.Module, paths: Collection[str], flops: Any, run: Callable[[], object]) -> dict[str, int]:
    """Half the flops of a run, in all and by submodule."""
    found = dict.fromkeys(paths, 0)

    def count(path: str, sign: int) -> Callable[..., None]:
        def hook(*_: object) -> None:
            found[path] += sign * int(flops.get_total_flops())

        return hook

    handles = []
    for path in paths:
        part = module.get_submodule(path)
        handles.append(part.register_forward_pre_hook(count(path, -1), prepend=True))
        handles.append(part.register_forward_hook(count(path, 1)))
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    return {path: flop // 2 for path, flop in found.items()} | {"": int(flops.get_total_flops()) // 2}


def _timed(module: nn.Module, arguments: Arguments, repeats: int) -> float:
    """Median seconds of a pass, of a module that has run before."""
    times: list[float] = []
    while len(times) < repeats and sum(times) < LONGEST:
        start = time.perf_counter()
        arguments.call(module)
        times.append(time.perf_counter() - start)
    return statistics.median(times)


class _LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's class is untyped
    """Counts the bytes of all storages that operations allocate and that are still alive."""

    def __init__(self, present: Sequence[torch.Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.now = 0
        self.peak = 0
        self._known = {tensor.untyped_storage()._cdata for tensor in present}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        returned = func(*args, **(kwargs or {}))
        for tensor in tree_leaves(returned):
            if isinstance(tensor, torch.Tensor):
                self._note(tensor.untyped_storage())
        return returned

    def _note(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            size = storage.nbytes()
            self.now += size
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self._forget, key, size)

    def _forget(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size
