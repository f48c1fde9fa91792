"""Testing: assertions, mutants and strategies for people who test their own adapters.

The assertions need neither pytest nor hypothesis. The plugin of pytest (`autoadapt.testing.pytest_plugin`) is found by
itself; `-p no:autoadapt` switches it off. The names below are imported when they are first used (PEP 562), so that the
plugin costs suites without a locked signature nothing, and the strategies alone need hypothesis.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from autoadapt.testing.assertions import (
        assert_adapts,
        assert_exports,
        assert_gradients_flow,
        assert_same_signature,
        assert_signature_locked,
    )
    from autoadapt.testing.equality import assert_equals
    from autoadapt.testing.mutations import Caught, Mutant, caught_by, mutants
    from autoadapt.testing.strategies import backbones, inputs_of, signatures

_PLACES = {
    "Caught": "mutations",
    "Mutant": "mutations",
    "assert_adapts": "assertions",
    "assert_equals": "equality",
    "assert_exports": "assertions",
    "assert_gradients_flow": "assertions",
    "assert_same_signature": "assertions",
    "assert_signature_locked": "assertions",
    "backbones": "strategies",
    "caught_by": "mutations",
    "inputs_of": "strategies",
    "mutants": "mutations",
    "signatures": "strategies",
}
"""Which file each name comes from."""

__all__ = [
    "Caught",
    "Mutant",
    "assert_adapts",
    "assert_equals",
    "assert_exports",
    "assert_gradients_flow",
    "assert_same_signature",
    "assert_signature_locked",
    "backbones",
    "caught_by",
    "inputs_of",
    "mutants",
    "signatures",
]


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module 'autoadapt.testing' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(f"autoadapt.testing.{_PLACES[name]}"), name)
    return found
