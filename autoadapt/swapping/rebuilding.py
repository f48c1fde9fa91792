"""Rebuilding: the rest of a model after a swap without adapters between, and what each state of it costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from torch import nn

from autoadapt.adapting.building import AdaptedModule
from autoadapt.adapting.verification import Check
from autoadapt.contracts.capturing import bind
from autoadapt.contracts.capturing.arguments import told_example
from autoadapt.contracts.modes import in_eval_mode
from autoadapt.errors import Mismatch, SwapError
from autoadapt.swapping.cost_lines import FITTED, CostLine, Folded, cost_lines, merged, narrowed
from autoadapt.swapping.folding.narrowing import Narrowing
from autoadapt.swapping.folding.refits import Refit, Refitting, refitting
from autoadapt.swapping.successors import Successor
from autoadapt.swapping.watching import Example


@dataclass(frozen=True)
class Made:
    """What was made and tried, to be set in the model."""

    modules: Sequence[nn.Module]
    checks: tuple[Check, ...]
    put_in: Callable[[nn.Module], None]
    members: Sequence[str]
    """Paths of what is replaced."""
    tried: Callable[[], nn.Module]
    """Makes a copy of the whole, over the same weights, with copies of them in it."""


def rebuilt(
    model: nn.Module, example: Example, inputs: object, planned: Successor, made: Made
) -> tuple[Refitting | Narrowing | None, tuple[CostLine, ...]]:
    """What is rebuilt of the rest of a model, if that is asked for; and what it costs, for refits and dry runs.

    Args:
        model: The model as it is.
        example: How it is run.
        inputs: What the caller gave to run it.
        planned: What takes the first place.
        made: What takes all.

    Raises:
        SwapError: It cannot be rebuilt.
    """
    refit, is_alone = planned.refit, len(made.modules) == 1 and isinstance(made.modules[0], AdaptedModule)
    if refit and (example.is_step or not is_alone):
        found = "a function as inputs" if example.is_step else f"{len(made.modules)} places or a generated layer"
        fault = Mismatch("refit", "a module in one place, and an example call", found, "swap(...) without refit")
        raise SwapError("what reads these modules cannot be rebuilt", [fault])
    if example.is_step or not is_alone or not (refit or planned.is_dry_run):
        return None, ()
    call = bind(model, told_example(model) if inputs is None else inputs)
    path, swapped, keeps = planned.part.path, made.tried(), planned.stands_itself
    refits = None
    if refit:  # dropout does not matter to layers that start anew
        trial = swapped if keeps else in_eval_mode(made.tried())
        refits = refitting(trial, path, call, how=refit, is_untrained=not keeps)
    others = [Folded(_NAMES[False], lambda: merged(swapped, path, call))]
    others.append(Folded(FITTED, lambda: merged(swapped, path, call, is_fitted=True)))
    others.append(Folded(_NAMES["shrink"], lambda: narrowed(swapped, path, call)))
    return refits, cost_lines(model, made.members, swapped, path, call, others)


_NAMES: dict[Refit, str] = {False: "readers rebuilt", "shrink": "as by hand"}
