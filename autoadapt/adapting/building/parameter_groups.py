"""Parameter groups: the parameters of a model that are pretrained, those of generated layers, and the rest."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypedDict, overload

from torch import nn

from autoadapt.adapting.building.modules import AdaptedModule
from autoadapt.contracts.instances import check_module
from autoadapt.errors import BuildError, Mismatch

_CAREFUL = ("backbone", "calibrated_adapters", "adapters", "rebuilt", "rest")
"""The groups; a parameter that belongs to several is put into the first of them."""

_CALIBRATED = "calibrated"
_REBUILT = "rebuilt"


class ParameterGroup(TypedDict):
    """A parameter group as torch's optimisers take it; schedulers and monitors read its name."""

    name: str
    params: list[nn.Parameter]
    lr: float


@overload
def param_groups(model: nn.Module) -> dict[str, list[nn.Parameter]]: ...
@overload
def param_groups(
    model: nn.Module, lr: float, *, fresh: float = 10.0, calibrated: float = 1.0
) -> list[ParameterGroup]: ...


def param_groups(
    model: nn.Module, lr: float | None = None, *, fresh: float = 10.0, calibrated: float = 1.0
) -> dict[str, list[nn.Parameter]] | list[ParameterGroup]:
    """All parameters of a model, each once, in groups: those of backbones, of generated adapters, and the rest.

    Adapted modules are found at any depth, several of them too, and inside wrappers (`DistributedDataParallel`,
    `torch.compile`, a `LightningModule`). Adapters start from random weights and by default have ten times the learning
    rate of the backbone; those that `calibrate` has fitted are no longer random and have the backbone's. Frozen
    parameters are included, so that they train once they are no longer frozen. A parameter that a backbone shares with
    another part is in `backbone`. Layers that `swap(refit=)` has given new weights are a group `rebuilt` with the rate
    of fresh adapters; layers that adapters were merged into are in the rest.

    Args:
        model: An adapted module, or a bigger model with adapted modules in it; it is not changed.
        lr: Learning rate of the backbones and of the rest.
        fresh: Factor on `lr` for adapters that were not calibrated, and for layers with new weights.
        calibrated: Factor on `lr` for adapters that were calibrated.

    Returns:
        With `lr` a list for an optimiser: `{"name", "params", "lr"}` for each of `backbone`, `adapters`, `rebuilt`,
        `rest` that has parameters. Calibrated adapters are `calibrated_adapters` beside others that are not. Without
        `lr` the lists by name, with all adapters in one, and `rebuilt` where there are such layers.

    Raises:
        BuildError: There is no adapted module in the model, FSDP keeps the parameters of several groups in one
            tensor, or a rate is no number.

    Example:
        >>> import torch
        >>> from autoadapt.adapting import adapt
        >>> old, new = nn.Conv2d(3, 4, 2, stride=2), nn.Conv2d(3, 12, 2, stride=2)
        >>> net = adapt(new, like=old, inputs=torch.zeros(1, 3, 8, 8))
        >>> model = nn.Sequential(net, nn.Conv2d(4, 2, 1))
        >>> optimiser = torch.optim.AdamW(param_groups(model, lr=1e-4))
        >>> [(group["name"], group["lr"]) for group in optimiser.param_groups]
        [('backbone', 0.0001), ('adapters', 0.001), ('rest', 0.0001)]
    """
    check_module(model, "model", BuildError)
    if not any(isinstance(part, AdaptedModule) for part in model.modules()):
        name = type(model).__name__
        fault = Mismatch(name, "an adapted module in it", "none", 'aa.swap(model, "backbone", new, inputs=x)')
        raise BuildError("there are no adapters whose parameters could be told apart", [fault])
    found = _grouped(model)
    if lr is None:
        adapters = {*map(id, found["adapters"]), *map(id, found["calibrated_adapters"])}
        in_order = [parameter for parameter in model.parameters() if id(parameter) in adapters]
        rebuilt = {_REBUILT: found[_REBUILT]} if found[_REBUILT] else {}
        return {"backbone": found["backbone"], "adapters": in_order, **rebuilt, "rest": found["rest"]}
    _check_rates(lr=lr, fresh=fresh, calibrated=calibrated)
    rates = {"backbone": 1.0, "adapters": fresh, "calibrated_adapters": calibrated, _REBUILT: fresh, "rest": 1.0}
    names = {"calibrated_adapters": "calibrated_adapters" if found["adapters"] else "adapters"}
    return [
        ParameterGroup(name=names.get(kind, kind), params=found[kind], lr=lr * rate)
        for kind, rate in rates.items()
        if found[kind]
    ]


def mark_calibrated(net: AdaptedModule, layers: Iterable[str]) -> None:
    """Mark adapters as calibrated, also in copies of the module and in what is saved and restored.

    Args:
        net: The adapted module.
        layers: Paths of their layers, `adapters.<output>.<step>`.
    """
    named = {path.split(".")[1] for path in layers}
    net.__dict__[_CALIBRATED] = tuple(sorted(named | set(calibrated_adapters(net))))


def mark_rebuilt(layer: nn.Module) -> None:
    """Mark a layer as having new weights for other channels, also in copies of it."""
    layer.__dict__[_REBUILT] = True


def calibrated_adapters(net: AdaptedModule) -> tuple[str, ...]:
    """Names of the adapters that are calibrated."""
    noted = vars(net).get(_CALIBRATED, ())
    return tuple(one for one in noted if isinstance(one, str)) if isinstance(noted, (tuple, list)) else ()


def _grouped(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Every parameter in one group of `_CAREFUL`, in the order of `model.parameters()`."""
    kinds = dict[int, set[str]]()
    seen = set[tuple[int, str]]()
    waiting = [(model, "rest")]
    while waiting:
        module, kind = waiting.pop()
        if (id(module), kind) in seen:
            continue
        seen.add((id(module), kind))
        for parameter in module.parameters(recurse=False):
            _refuse_mixed(module, parameter)
            kinds.setdefault(id(parameter), set()).add(kind)
        waiting += _parts(module, kind)
    found: dict[str, list[nn.Parameter]] = {kind: [] for kind in _CAREFUL}
    for parameter in model.parameters():
        found[next(kind for kind in _CAREFUL if kind in kinds[id(parameter)])].append(parameter)
    return found


def _parts(module: nn.Module, kind: str) -> list[tuple[nn.Module, str]]:
    """The children of a module, each with the group of its parameters, given that of the module."""
    if not isinstance(module, AdaptedModule):
        return [
            (child, _REBUILT if kind == "rest" and vars(child).get(_REBUILT) else kind) for child in module.children()
        ]
    own = {"backbone": "backbone", "adapters": "adapters"}
    parts = [(child, own.get(name, kind)) for name, child in module.named_children() if name != "adapters"]
    fitted = calibrated_adapters(module)
    adapters = module.get_submodule("adapters").named_children()
    return parts + [(one, "calibrated_adapters" if name in fitted else "adapters") for name, one in adapters]


def _refuse_mixed(module: nn.Module, parameter: nn.Parameter) -> None:
    """Refuse a flat parameter of FSDP, in which the parameters of an adapted module are concatenated.

    Raises:
        BuildError: It is one.
    """
    if not getattr(parameter, "_is_flat_param", False):
        return
    if not any(isinstance(part, AdaptedModule) for part in module.modules()):
        return
    fault = Mismatch(
        type(module).__name__,
        "each parameter by itself",
        "one flat parameter of FSDP that holds them all",
        "FullyShardedDataParallel(model, use_orig_params=True)  # or fully_shard(model)",
    )
    raise BuildError("a flat parameter cannot be taken apart into groups", [fault])


def _check_rates(**rates: object) -> None:
    """Refuse rates that are not finite numbers of at least 0.

    Raises:
        BuildError: There are such.
    """
    faults = [
        Mismatch(f"`{name}`", "a number from 0", repr(rate)[:60], f"{name}={1e-4 if name == 'lr' else 1.0:g}")
        for name, rate in rates.items()
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < math.inf
    ]
    if faults:
        raise BuildError("param_groups does not take these rates", faults)
