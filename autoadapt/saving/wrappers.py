"""Wrappers: the adapted module inside what training puts around it."""

from __future__ import annotations

from torch import nn

from autoadapt.adapting.building import AdaptedModule
from autoadapt.contracts.instances import check_module
from autoadapt.contracts.views import uncompiled
from autoadapt.errors import Mismatch, SavingError


def unwrapped(net: nn.Module) -> nn.Module:
    """A module without `torch.compile` and parallel wrappers.

    Raises:
        SavingError: It is no module.
    """
    check_module(net, "net", SavingError)
    inner = uncompiled(net)
    while isinstance(inner, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
        inner = uncompiled(inner.module)
    return inner


def adapted_inside(net: nn.Module, verb: str) -> AdaptedModule:
    """The adapted module itself, without `torch.compile` and parallel wrappers.

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
