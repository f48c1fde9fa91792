"""Offsets: projections without bias, so that zeros stay zeros where a reader pads with zeros."""

from __future__ import annotations

from autoadapt.adapting.operations import Project
from autoadapt.adapting.planning.plans import Plan, Route


def without_offsets(plan: Plan) -> Plan:
    """The plan with projections without bias."""
    return plan.model_copy(update={"routes": tuple(map(_bare, plan.routes))})


def _bare(route: Route) -> Route:
    steps = [one.model_copy(update={"bias": False}) if isinstance(one, Project) else one for one in route.steps]
    return route.model_copy(update={"steps": tuple(steps), "parameters": sum(step.parameters for step in steps)})
