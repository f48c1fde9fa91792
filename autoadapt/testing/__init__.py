"""Testing: assertions, mutants and strategies for people who test their own adapters.

The assertions need neither pytest nor hypothesis. The plugin of pytest (`autoadapt.pytest_plugin`) is found by itself;
`-p no:autoadapt` switches it off. Strategies need hypothesis, which is imported when one of them is first used.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from autoadapt.testing.assertions import (
    assert_adapts,
    assert_equals,
    assert_exports,
    assert_gradients_flow,
    assert_same_signature,
    assert_signature_locked,
)
from autoadapt.testing.mutants import Caught, Mutant, caught_by, mutants

if TYPE_CHECKING:
    from autoadapt.testing.strategies import backbones, inputs_of, signatures

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
    if name not in ("backbones", "inputs_of", "signatures"):
        raise AttributeError(f"module 'autoadapt.testing' has no attribute {name!r}")
    from autoadapt.testing import strategies

    return getattr(strategies, name)
