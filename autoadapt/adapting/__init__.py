"""Adapting: from two signatures to one module; `steps` has the order in which the parts are called."""

from autoadapt.adapting.given_contracts import as_signature
from autoadapt.adapting.steps import adapt

__all__ = ["adapt", "as_signature"]
