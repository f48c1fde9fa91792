"""Randomness: running a module that draws numbers without drawing any of the caller's."""

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


def _with_the_generator_by_name(func: Any, args: tuple[Any, ...], given: dict[str, Any]) -> Any:
    """Arguments of which the generator, which some operations are given by its place, is the last and has its name."""
    place = _place_of_the_generator(func)
    return (args[:place], {**given, "generator": args[place]}) if place and len(args) == place + 1 else (args, given)


@functools.cache
def _place_of_the_generator(func: Any) -> int:
    """Which argument it is, counted from 0; 0 where there is none."""
    names = [argument.name for argument in func._schema.arguments]
    return names.index("generator") if "generator" in names else 0


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


class Numbers:
    """What was drawn while a block ran."""

    def __init__(self) -> None:
        self.drawn = False
        """Whether any were, by this thread or by another; told when the block ends."""
        self.own = False
        """Whether this thread drew some for certain."""


@contextlib.contextmanager
def undisturbed(seed: int | None = 0, *, put_back: bool = True) -> Iterator[Numbers]:
    """Run modules with no gradients, no warnings and none of the caller's random numbers, also when something raises.

    Settings of torch that a module changes for the whole process are put back.

    The generators of Python and numpy cannot be stood in for. They are put back if they were drawn from, unless another
    thread has run meanwhile, whose numbers must not come again.

    Args:
        seed: For what is drawn from torch. None where all runs on the meta device, where nothing is drawn, unless a
            module asks for the processor: then torch's generator is put back on the same terms as the others.
        put_back: Whether they are; a later run in a block that puts them back draws other numbers if not.
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
"""What torch keeps for the whole process: how to ask for it, and how to set it."""


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
