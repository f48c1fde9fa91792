"""Wrappers: the adapted module inside what training puts around it."""

from __future__ import annotations

from torch import nn

from autoadapt.adapting.building import AdaptedModule
from autoadapt.contracts.instances import check_module
from autoadapt.contracts.views import uncompiled
from autoadapt.errors import Mismatch, SavingError


def unwrapped(net: nn.Module) -> nn.Module:
    """A module without `torch.compile`, parallel wrappers and those that average weights.

    Raises:
        SavingError: It is no module.
    """
    check_module(net, "net", SavingError)
    inner = uncompiled(net)
    while _is_wrapper(inner):
        inner = uncompiled(inner.get_submodule("module"))
    return inner


def _is_wrapper(net: nn.Module) -> bool:
    """Whether a module is of a class, or of one below it, that runs its `module` and does nothing else."""
    return isinstance(getattr(net, "module", None), nn.Module) and any(
        kind.__name__ in names and kind.__module__.partition(".")[0] == package
        for kind in type(net).__mro__
        for package, names in _WRAPPERS.items()
    )


_WRAPPERS = {
    "torch": ("DataParallel", "DistributedDataParallel", "AveragedModel"),
    "timm": ("ModelEmaV2", "ModelEmaV3"),
    "mmengine": ("BaseAveragedModel",),
}
"""Classes that training puts around a model, which they call `module`, by package."""


def adapted_inside(net: nn.Module, verb: str) -> AdaptedModule:
    """The adapted module itself, without `torch.compile`, parallel wrappers and those that average weights.

    Args:
        net: What the caller gave.
        verb: What is to be done with it, for the text of the error.

    Raises:
        SavingError: There is none.
    """
    inner = unwrapped(net)
    if isinstance(inner, AdaptedModule):
        return inner.alone()
    found = [path for path, part in inner.named_modules() if isinstance(part, AdaptedModule)]
    remedy = "\n".join(f'{verb}(model.get_submodule("{path}"), ...)' for path in found[:3])
    fault = Mismatch(
        "net",
        "a module that aa.adapt or aa.build made",
        f"a {type(inner).__name__}",
        remedy or _OTHERS.get(verb.removeprefix("aa."), _MADE),
    )
    raise SavingError("only an adapted module has a plan", [fault])


_MADE = "net = aa.adapt(new, like=old, inputs=inputs)"
_OTHERS = {
    "save": f"{_MADE}\nsafetensors.torch.save_model(model, file)  # for any other module",
    "export": f"{_MADE}\ntorch.export.export(model, (inputs,))  # for any other module",
    "dynamic_shapes": _MADE,
    "to_source": f"{_MADE}  # of any other module the source is at hand",
}
"""What to do with a module that holds no adapted one, by the verb."""
