"""Asked builds: `build`, for a plan and a module from the caller, which need not belong together."""

from __future__ import annotations

from torch import nn

from autoadapt.adapting.building.modules import AdaptedModule, built
from autoadapt.adapting.planning import Plan, source_as_built
from autoadapt.adapting.verification.sessions import Session
from autoadapt.contracts.capturing.probing import Probe, ProbeError
from autoadapt.contracts.randomness import undisturbed
from autoadapt.contracts.unfit import off_the_meta_device
from autoadapt.errors import AdaptError, BuildError, Mismatch
from autoadapt.errors.given import check_type
from autoadapt.sources import as_module


def build(new: nn.Module | str, plan: Plan, *, like: nn.Module | None = None, share: bool = True) -> AdaptedModule:
    """Make a plan into a module.

    Backbone parameters that affect none of the outputs that are read have `requires_grad` False in the result, so that
    distributed training does not wait for their gradients. The shapes that the backbone returns are compared with the
    plan's source in one run on the meta device.

    Args:
        new: The module that the plan's source signature was captured from, which is not changed; or its name.
        plan: What to build.
        like: The old module, whose attributes that consumers read (`out_channels`, `strides`, ...) are copied.
        share: Share the storage of `new`'s weights; otherwise copy them.

    Returns:
        A torch.fx module on the device of `new`. Each part of the backbone is in the mode that it has in `new`, the
        generated layers in the mode of `new` itself. Each of these layers has the dtype of its input.

    Raises:
        BuildError: The plan needs a container class that is not imported, two outputs have one name, its layers
            would hold more than 134 million values, or the module returns other outputs than the plan was made for.
    """
    new = as_module(new, "new")
    check_type(plan, Plan, "plan", "aa.build(new, aa.plan(new_signature, old_signature))", BuildError)
    net = built(new, plan, like=like, share=share)
    faults = _other_outputs(net.get_submodule("backbone"), plan)
    if faults:
        raise BuildError(f"{type(new).__name__} is another module than the plan was made for", faults)
    return net


def _other_outputs(backbone: nn.Module, plan: Plan) -> list[Mismatch]:
    """Outputs of a backbone whose shapes are not those of the plan; none where it does not run on the meta device."""
    remedy = "aa.adapt(new, like=old)  # which plans anew"
    try:
        with off_the_meta_device(), undisturbed(0):
            session = Session(backbone, source_as_built(plan))
            seen = Probe(backbone, session.arguments(session.at()), real=False, inner=False).run()
    except (AdaptError, ProbeError):
        return []
    if not plan.taps:
        found = session.compare_shapes(seen.tree, seen.shapes, session.at())
        return [Mismatch(one.where, one.expected, one.found, remedy) for one in found]
    shapes = dict(zip(plan.taps, seen.shapes, strict=False))
    return [
        Mismatch(route.source, str(list(expected)), str(list(shapes[route.source])), remedy)
        for route in plan.routes
        if route.source in shapes
        and (expected := route.specs[0].shape(session.at())) != tuple(shapes[route.source])
        and not route.same_as
    ]
