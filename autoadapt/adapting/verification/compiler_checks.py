"""The checks `compile` and `export`, which take seconds to minutes."""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from autoadapt.adapting.verification.findings import Findings
from autoadapt.adapting.verification.sessions import NotApplicableError, Session
from autoadapt.errors import Mismatch


def compiled(session: Session) -> Findings:
    """Compile without graph breaks and with dynamic sizes, and run at three sizes."""
    _refuse_untraced(session)

    def run(one: Session, sizes: Sequence[Mapping[str, int]]) -> list[Mismatch]:
        torch._dynamo.reset()
        module: Any = torch.compile(one.copy(), fullgraph=True, dynamic=True, backend="eager")
        faults = []
        try:
            for full in sizes:
                arguments = one.arguments(full)
                faults += session.compare(arguments, arguments.call(module), full) if one is session else []
        finally:
            torch._dynamo.reset()
        return faults

    try:
        faults = run(session, [session.at(**sizes, B=3) for sizes in session.sizes[:3]])
    except Exception:
        session.excuse(lambda bare: run(bare, [bare.at()]), "to compile")
        raise
    return Findings(faults, "fullgraph, dynamic, backend eager")


def exported(session: Session) -> Findings:
    """Export with dynamic axes and run the program at two other sizes."""
    _refuse_untraced(session)
    if session.signature.filled:
        raise NotApplicableError("torch.export allows no argument to be filled in")
    try:
        program = any_size_program(session)
    except Exception:
        session.excuse(any_size_program, "to export")
        raise
    faults = []
    steps = session.plan.coarse_steps if session.plan else {}
    for sizes in [sizes for sizes in session.sizes if _several_cells(session, sizes)][-2:]:
        full = session.at(**_within(session, steps, sizes), B=3)
        arguments = session.arguments(full)
        found = session.compare(arguments, arguments.call(program), full)
        faults += [fault for fault in found if "itself" not in fault.expected]  # a program copies inputs it returns
    within = f" within a step of {', '.join(map(str, sorted(set(steps.values()))))}" if steps else ""
    return Findings(faults, f"dynamic dims, run at other sizes{within}")


def _refuse_untraced(session: Session) -> None:
    """Raise `NotApplicableError` for a module whose tracing by torch would not end, as its plan says."""
    if session.plan is not None and session.plan.untraced:
        raise NotApplicableError(session.plan.untraced)


def _several_cells(session: Session, sizes: Mapping[str, int]) -> bool:
    """Whether no varying axis of an output has size 1: torch.export takes such an axis for fixed."""
    full = session.at(**sizes, B=3)
    dims = [dim for spec in session.signature.outputs.leaves for dim in spec.dims if dim.constant is None]
    return all(dim.evaluate(full) > 1 for dim in dims)


def _within(session: Session, steps: Mapping[str, int], sizes: Mapping[str, int]) -> dict[str, int]:
    """Sizes to run a program at; along axes that are resized in coarse steps, one within the example's own step.

    Args:
        session: The verification.
        steps: The coarse step of such axes, in cells of the input; a program holds for one step alone.
        sizes: The sizes that would be run at otherwise.
    """
    found = dict(sizes)
    for name, step in steps.items():
        middle = (session.at()[name] - 1) // step * step + step // 2
        found[name] = session.signature.axes[name].near(middle + sizes.get(name, 0) % (step // 4))
    return found


def any_size_program(session: Session) -> nn.Module:
    """The program that `torch.export` makes, dynamic along every axis that torch does not find to be fixed."""
    arguments = session.arguments(session.at(B=2))
    values = arguments.values
    positional = tuple(list(values.values())[: arguments.positional])
    keywords = dict(list(values.items())[arguments.positional :])
    module = session.copy()
    taken = inspect.signature(module.forward).bind(*positional, **keywords).arguments  # by its own argument names
    shapes = {name: torch.utils._pytree.tree_map(_auto_dims, value) for name, value in taken.items()}
    program = torch.export.export(module, positional, keywords, dynamic_shapes=shapes, strict=False)
    return program.module()


def _auto_dims(value: object) -> object:
    if not isinstance(value, torch.Tensor):
        return None
    return dict.fromkeys(range(value.dim()), torch.export.Dim.AUTO)
