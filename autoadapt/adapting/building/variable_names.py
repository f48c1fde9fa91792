"""Variable names: names for outputs in generated code."""

from __future__ import annotations

from collections import Counter

from autoadapt.adapting.building.forward_arguments import is_allowed
from autoadapt.adapting.planning import Plan


def variable_names(plan: Plan) -> dict[str, str]:
    """The variable name of each output, by path: its own name, or its number, such as `level_0` or `output_1`.

    Outputs that would have the same name get their whole path instead.
    """
    specs = dict(plan.target.outputs.items())
    levels = all(spec.is_floating and len(spec.dims) > 3 for spec in specs.values())
    names = {path: _short_name(path, "level" if levels else "output") for path in specs}
    counts = Counter(names.values())
    return {path: name if counts[name] == 1 else f"output_{as_identifier(path)}" for path, name in names.items()}


def _short_name(path: str, kind: str) -> str:
    parts = path.split(".")
    texts = [i for i, part in enumerate(parts) if not part.isdigit()]
    name = as_identifier("_".join(parts[texts[-1] :] if texts else [kind, *parts]))
    return name if is_allowed(name) else f"{kind}_{name}"


def as_identifier(text: str) -> str:
    """A text with underscores in place of characters that no identifier may have."""
    return "".join(char if char.isalnum() or char == "_" else "_" for char in text) or "_"
