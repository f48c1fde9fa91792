"""Randomness: running a module that draws random numbers without advancing the caller's generators."""

from __future__ import annotations

import contextlib
import functools
import itertools
import operator
import random
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode


class OwnNumbers(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch annotates it in part
    """While it is active, what this thread draws from torch comes from generators of this mode.

    Restoring the state of the global generator afterwards is not enough: another thread that draws meanwhile would get
    the same numbers twice.

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

    @property
    def drew(self) -> bool:
        """Whether anything was drawn."""
        return bool(self._generators)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        given = kwargs or {}
        args, given = _with_the_generator_by_name(func, args, given)
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
        """Dropout as GPUs run it in one kernel, which takes no generator."""
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


def _with_the_generator_by_name(func: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
    """The arguments with a generator that was passed by position moved to the keywords."""
    place = _place_of_the_generator(func)
    return (args[:place], {**given, "generator": args[place]}) if place and len(args) == place + 1 else (args, given)


@functools.cache
def _place_of_the_generator(func: Any) -> int:
    """The index of the argument `generator`; 0 where there is none."""
    names = [argument.name for argument in func._schema.arguments]
    return names.index("generator") if "generator" in names else 0


def _device(args: tuple[Any, ...], kwargs: dict[str, Any]) -> torch.device:
    """The device on which an operation draws: that of its first tensor, or of the tensor that it makes."""
    tensors = (value for value in args if isinstance(value, torch.Tensor))
    return torch.device(kwargs.get("device") or next((tensor.device for tensor in tensors), "cpu"))


@functools.cache
def _taking_a_generator(func: Any) -> Any | None:
    """The operation, or its overload with the same arguments, that takes a generator; None where none does."""
    names = [argument.name for argument in func._schema.arguments]
    if "generator" in names:
        return func
    packet = func.overloadpacket
    for overload in (getattr(packet, name) for name in packet.overloads()):  # those that torch keeps: it frees no other
        others = [argument.name for argument in overload._schema.arguments]
        if "generator" in others and [name for name in others if name != "generator"] == names:
            return overload
    return None


class Numbers:
    """Whether random numbers were drawn while a block ran; known when it ends."""

    def __init__(self) -> None:
        self.drawn = False
        """Whether any were, by this thread or by another."""
        self.own = False
        """Whether this thread certainly drew some."""


@contextlib.contextmanager
def undisturbed(seed: int | None = 0, *, put_back: bool = True) -> Iterator[Numbers]:
    """Run modules without gradients, warnings, or any of the caller's random numbers, also when something raises.

    Process-wide settings of torch that a module changes are restored. So are the generators of Python and numpy, which
    cannot be replaced for a block, if they were drawn from and no other thread ran meanwhile: that thread would get the
    same numbers twice.

    Args:
        seed: For what is drawn from torch. None on the meta device, where nothing is drawn unless a module asks for the
            CPU: torch's generator is then restored like the others.
        put_back: Whether generators are restored. Without it, a later run draws other numbers, within an outer block
            that restores them.
    """
    before = other_threads()
    given = [one.get() for one in _GENERATORS]
    settings = [(put, get()) for get, put in _SETTINGS]
    own, numbers = OwnNumbers(seed or 0), Numbers()
    try:
        with warnings.catch_warnings(), torch.no_grad(), contextlib.nullcontext() if seed is None else own:
            warnings.simplefilter("ignore")
            yield numbers
    finally:
        for (get, _), (put, setting) in zip(_SETTINGS, settings, strict=True):
            if get() != setting:
                put(setting)
        drawn = [not one.same(one.get(), state) for one, state in zip(_GENERATORS, given, strict=True)]
        numbers.drawn = own.drew or any(drawn)
        alone = any(drawn) and before is not None and before == _threads_after_their_turn()
        numbers.own = own.drew or alone
        if put_back and alone:
            for one, state in itertools.compress(zip(_GENERATORS, given, strict=True), drawn):
                one.put(state)


class _Generator(NamedTuple):
    """One of the global random generators."""

    get: Callable[[], Any]
    put: Callable[[Any], object]
    same: Callable[[Any, Any], bool]


def _same_numpy(left: Any, right: Any) -> bool:
    if not (isinstance(left, tuple) and isinstance(right, tuple)):  # another generator than numpy comes with
        return bool(str(left) == str(right))
    return left[2:] == right[2:] and np.array_equal(left[1], right[1])


def _same_torch(left: torch.Tensor, right: torch.Tensor) -> bool:
    with contextlib.suppress(Exception):  # modes of the caller may keep tensors from being compared
        return torch.equal(left, right)
    return False


_GENERATORS = (
    _Generator(random.getstate, random.setstate, operator.eq),
    _Generator(np.random.get_state, np.random.set_state, _same_numpy),
    _Generator(torch.get_rng_state, torch.set_rng_state, _same_torch),
)


_SETTINGS: tuple[tuple[Callable[[], Any], Callable[[Any], object]], ...] = (
    (torch.get_default_dtype, torch.set_default_dtype),
    (torch.are_deterministic_algorithms_enabled, torch.use_deterministic_algorithms),
)
"""Process-wide settings of torch: how to get each, and how to set it."""


def _threads_after_their_turn() -> dict[int, int] | None:
    """`other_threads` once those that wait for the interpreter lock have run.

    A waiting thread uses no processor time, and would run between the look at its clock and the decision after it.
    """
    if threading.active_count() > 1:
        time.sleep(0.0002)
    return other_threads()


def other_threads() -> dict[int, int] | None:
    """Processor time of each other thread in nanoseconds, by native id; None where the system does not tell it.

    Two equal answers mean that none has run in between. The threads of notebooks, progress bars and test runners sleep
    nearly always.
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
    """Linux's clock id of a thread, as `pthread_getcpuclockid` computes it; that function crashes for ended threads."""
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
