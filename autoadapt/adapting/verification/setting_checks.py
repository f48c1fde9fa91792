"""Settings of the process: whether a call leaves torch's global settings and random seeds as they were."""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Mapping
from types import FrameType
from typing import Any

import numpy as np
import torch

from autoadapt.contracts.unfit import default_device
from autoadapt.errors import Mismatch


def changed_settings(call: Callable[[], object]) -> list[Mismatch]:
    """Settings that a call changes: grad mode, default dtype and device, determinism, and seeds of random generators.

    Setting a seed is found even if the generator had that seed before. All settings but seeds and the default device
    are restored.
    """
    np.random.random_sample()  # else setting a seed that an earlier call has set would change nothing
    before, drawn_from = _of_the_process(), np.random.get_state()
    with _SeedsWatched() as seeds:
        call()
    after = _of_the_process()
    for name, put_back in _PUT_BACK.items():
        if before[name] != after[name]:
            put_back(before[name])
    named = [(name, str(before[name]), str(after[name])) for name in before if before[name] != after[name]]
    faults = [
        Mismatch(f"torch's {name}", f"{old} after the call", f"{new}, set by the module") for name, old, new in named
    ]
    seeded = seeds.left | ({"numpy"} if _is_seeded(drawn_from, np.random.get_state()) else set())
    reported = {"torch"} if any(name == "seed" for name, _, _ in named) else set[str]()
    return faults + [
        Mismatch(f"{owner}'s seed", "left alone by the call", "set by the module")
        for owner in sorted(seeded - reported)
    ]


_MOST_TWISTS = 400
"""How many times 624 numbers of numpy's generator one call may draw without being taken to set its seed."""


def _is_seeded(before: Any, after: Any) -> bool:
    """Whether numpy's generator was seeded: drawing numbers from the first state does not lead to the second."""
    if not (isinstance(before, tuple) and isinstance(after, tuple)):  # not numpy's default kind of generator
        return False
    generator, (_, words, place, *_) = np.random.RandomState(), before
    if np.array_equal(words, after[1]):
        return bool(after[2] < place)
    generator.set_state(before)
    for _ in range(_MOST_TWISTS):
        generator.bytes(4 * 624)
        if np.array_equal(generator.get_state(legacy=False)["state"]["key"], after[1]):
            return False
    return True


def _of_the_process() -> dict[str, Any]:
    return {
        "seed": torch.initial_seed(),
        "gradients": torch.is_grad_enabled(),
        "default dtype": torch.get_default_dtype(),
        "default device": default_device(),
        "deterministic algorithms": torch.are_deterministic_algorithms_enabled(),
    }


_PUT_BACK: Mapping[str, Callable[[Any], object]] = {
    "gradients": torch.set_grad_enabled,
    "default dtype": torch.set_default_dtype,
    "deterministic algorithms": torch.use_deterministic_algorithms,
}


class _SeedsWatched:
    """While active, notes which global generators, of torch or Python, this thread seeds and does not restore.

    It uses the interpreter's profiling hook, unless that is in use. Comparing states would miss a seed that was set to
    what it was, and setting a seed of our own would change the random numbers of other threads.
    """

    def __init__(self) -> None:
        self.left: set[str] = set()
        """Packages whose generator was seeded and not restored since."""

    def __enter__(self) -> _SeedsWatched:
        self._is_free = sys.getprofile() is None
        if self._is_free:
            sys.setprofile(self._note)
        return self

    def __exit__(self, *exc: object) -> None:
        if self._is_free:
            sys.setprofile(None)

    def _note(self, frame: FrameType, event: str, called: Any) -> None:
        if event != "c_call":
            return
        name = getattr(called, "__name__", "")
        if name in _SEEDING or name in _PUTTING_BACK:
            owner = next((one for one, found in _owners() if getattr(called, "__self__", None) is found), "")
            if owner and name in _SEEDING:
                self.left.add(owner)
            elif owner:
                self.left.discard(owner)


_SEEDING = ("manual_seed", "seed")
_PUTTING_BACK = ("set_state", "setstate")


def _owners() -> list[tuple[str, object]]:
    return [
        ("torch", torch.default_generator),
        ("Python", getattr(random, "_inst", None)),
    ]
