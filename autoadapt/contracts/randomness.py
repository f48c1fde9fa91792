"""Randomness: running a module that draws numbers without drawing any of the caller's."""

from __future__ import annotations

import contextlib
import functools
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode

__all__ = ["OwnNumbers", "quiet", "undisturbed"]


class OwnNumbers(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch annotates it in part
    """While it is active, what this thread draws from torch comes from generators of its own.

    Putting the state of the global generator back afterwards would not do: another thread that draws meanwhile would
    get the same numbers twice.

    Args:
        seed: For the generators.

    Example:
        >>> before = torch.get_rng_state()
        >>> with OwnNumbers(0):
        ...     first = torch.rand(2), torch.nn.functional.dropout(torch.ones(9))
        >>> with OwnNumbers(0):
        ...     second = torch.rand(2), torch.nn.functional.dropout(torch.ones(9))
        >>> all(map(torch.equal, first, second)), torch.equal(before, torch.get_rng_state())
        (True, True)
    """

    def __init__(self, seed: int = 0) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or given.get("generator") is not None:
            return func(*args, **given)
        if func is torch.ops.aten.native_dropout.default:
            return self._dropout(*args, **given)
        taking = _taking_a_generator(func)
        if taking is not None:
            return taking(*args, **given, generator=self._generator(_device(args, given)))
        with self:  # in inference mode an operation made of others comes here whole
            made = func.decompose(*args, **given)
        return func(*args, **given) if made is NotImplemented else made

    def _dropout(self, values: torch.Tensor, p: float, train: bool | None) -> tuple[torch.Tensor, torch.Tensor]:
        """What graphics processors run in one kernel, which takes no generator."""
        if train is False or p == 0:
            return values.clone(), torch.ones_like(values, dtype=torch.bool)
        chances = torch.rand(values.shape, generator=self._generator(values.device), device=values.device)
        kept = chances >= p
        return values * kept * (1 / (1 - p) if p < 1 else 0.0), kept

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator("cpu" if device.type == "meta" else device)
            self._generators[device].manual_seed(self._seed)
        return self._generators[device]


def _device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device:
    """Where an operation draws: where its tensors are, or where it makes some."""
    tensors = (value for value in args if isinstance(value, torch.Tensor))
    return torch.device(kwargs.get("device") or next((tensor.device for tensor in tensors), "cpu"))


@functools.cache
def _taking_a_generator(func: Any) -> Any | None:
    """The same operation, or that of its overloads with the same arguments, that takes a generator."""
    names = [argument.name for argument in func._schema.arguments]
    if "generator" in names:
        return func
    packet = func.overloadpacket
    for overload in (getattr(packet, name) for name in packet.overloads()):  # those that torch keeps: it frees no other
        others = [argument.name for argument in overload._schema.arguments]
        if "generator" in others and [name for name in others if name != "generator"] == names:
            return overload
    return None


@contextlib.contextmanager
def undisturbed(seed: int | None = 0, *, alone_since: Mapping[int, int] | None = None) -> Iterator[None]:
    """Run modules with no gradients, no warnings and none of the caller's random numbers, also when something raises.

    The generators of Python and numpy cannot be stood in for. They are put back unless another thread has run
    meanwhile, which may have drawn from them.

    Args:
        seed: For what is drawn from torch. None where all runs on the meta device, where nothing is drawn, unless a
            module asks for the processor: then torch's generator is put back on the same terms as the others.
        alone_since: What `other_threads` said some time ago. Python and numpy get the seed too if none has run since.
    """
    before = other_threads()
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    own = contextlib.nullcontext() if seed is None else OwnNumbers(seed)
    sown = before is not None and before == alone_since == _threads_after_their_turn()
    try:
        with warnings.catch_warnings(), torch.no_grad(), own:
            warnings.simplefilter("ignore")
            if sown:
                random.seed(seed)
                np.random.seed(seed)
            yield
    finally:
        drawn = _drawn_since(states)
        if sown or (any(drawn) and before is not None and before == _threads_after_their_turn()):
            for put_back, state, moved in zip(_PUT_BACK, states, drawn, strict=True):
                if moved:
                    put_back(state)


_PUT_BACK: tuple[Callable[[Any], None], ...] = (random.setstate, np.random.set_state, torch.set_rng_state)


def _drawn_since(states: tuple[Any, Any, torch.Tensor]) -> tuple[bool, bool, bool]:
    """Of which generators somebody drew: Python's, numpy's, torch's."""
    kind, keys, *rest = np.random.get_state()
    moved = (kind, *rest) != (states[1][0], *states[1][2:]) or not np.array_equal(keys, states[1][1])
    return random.getstate() != states[0], moved, not torch.equal(torch.get_rng_state(), states[2])


def _threads_after_their_turn() -> dict[int, int] | None:
    """What `other_threads` says once those that wait for the interpreter have had their turn.

    One that waits uses no processor time, and would get its turn between that look and what is then decided.
    """
    if threading.active_count() > 1:
        time.sleep(0.0002)
    return other_threads()


def other_threads() -> dict[int, int] | None:
    """How long each of the other threads has run, in nanoseconds of processor time, by its number in the system.

    Two equal answers mean that none has run in between. Monitors and receivers sleep nearly always, as those of
    notebooks, progress bars and test runners do. None where there are others and the system does not tell.
    """
    current = threading.current_thread()
    others = [thread.native_id or 0 for thread in threading.enumerate() if thread is not current]
    if others and sys.platform != "linux":
        return None
    try:
        return {number: time.clock_gettime_ns(_processor_clock(number)) for number in others}
    except OSError:  # it has just ended
        return None


def _processor_clock(thread: int) -> int:
    """Linux's clock of one thread, as `pthread_getcpuclockid` makes it, which must not be asked for one that ended."""
    return (~thread << 3) | 6


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """No gradients, no warnings, and every random generator as it was, also when something raises."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    on_device = torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None  # type: ignore[no-untyped-call]
    try:
        with warnings.catch_warnings(), torch.inference_mode(False), torch.no_grad():
            warnings.simplefilter("ignore")
            yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])
        if on_device is not None:
            torch.cuda.set_rng_state_all(on_device)
