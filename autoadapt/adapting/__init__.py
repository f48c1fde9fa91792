"""Adapting: from two contracts to one module; `steps` has the order in which the parts are called."""

from autoadapt.adapting.steps import adapt, as_signature

__all__ = ["adapt", "as_signature"]
