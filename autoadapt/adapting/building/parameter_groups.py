"""Parameter groups: which parameters of a model are pretrained, which were generated, and what else there is."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import TypedDict, overload

from torch import nn

from autoadapt.adapting.building.modules import AdaptedModule
from autoadapt.contracts.instances import check_module
from autoadapt.errors import BuildError, Mismatch

__all__ = ["ParameterGroup", "mark_calibrated", "mark_rebuilt", "param_groups"]

_CAREFUL = ("backbone", "calibrated_adapters", "adapters", "rebuilt", "rest")
"""A parameter that several parts share is in the first of these that it belongs to."""

_CALIBRATED = "calibrated"
_REBUILT = "rebuilt"


class ParameterGroup(TypedDict):
    """One group, as the optimisers of torch take it; schedulers and monitors read its name."""

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
    """All parameters of a model, once each, by what they are: a backbone's, generated adapters', or the rest.

    Adapted modules are found at any depth, several of them too, and inside wrappers (`DistributedDataParallel`,
    `torch.compile`, a `LightningModule`). Adapters start from random weights and learn ten times as fast as the
    backbone by default; those that `calibrate` has fitted are no longer random and learn as fast as it. A parameter
    that takes no gradient is in its group too, so that it trains once it is no longer frozen. One that a backbone
    shares with another part is in `backbone`. Layers that `swap(refit=)` has given new weights are a group `rebuilt`,
    as fast as fresh adapters; those that adapters were merged into are in the rest.

    Args:
        model: An adapted module, or a bigger model with adapted modules in it; it is not changed.
        lr: Learning rate of the backbones and of the rest.
        fresh: Times `lr` is the rate of adapters that were not calibrated, and of layers with new weights.
        calibrated: Times `lr` is the rate of those that were.

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
    """Note that these layers hold a fit; copies and what is saved and restored know it too.

    Args:
        net: The adapted module.
        layers: Their paths in it, `adapters.<output>.<step>`.
    """
    named = {path.split(".")[1] for path in layers}
    net.__dict__[_CALIBRATED] = tuple(sorted(named | set(_calibrated(net))))


def mark_rebuilt(layer: nn.Module) -> None:
    """Note that a layer was given new weights for other channels; copies know it too."""
    layer.__dict__[_REBUILT] = True


def _calibrated(net: AdaptedModule) -> tuple[str, ...]:
    """Names of the adapters that hold a fit."""
    noted = vars(net).get(_CALIBRATED, ())
    return tuple(one for one in noted if isinstance(one, str)) if isinstance(noted, (tuple, list)) else ()


def _grouped(model: nn.Module) -> dict[str, list[nn.Parameter]]:
    """Every parameter in one group, in the order in which the model names them."""
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
    """The children of a module, and what their parameters are."""
    if not isinstance(module, AdaptedModule):
        return [
            (child, _REBUILT if kind == "rest" and vars(child).get(_REBUILT) else kind) for child in module.children()
        ]
    own = {"backbone": "backbone", "adapters": "adapters"}
    parts = [(child, own.get(name, kind)) for name, child in module.named_children() if name != "adapters"]
    fitted = _calibrated(module)
    adapters = module.get_submodule("adapters").named_children()
    return parts + [(one, "calibrated_adapters" if name in fitted else "adapters") for name, one in adapters]


def _refuse_mixed(module: nn.Module, parameter: nn.Parameter) -> None:
    """Refuse a flat parameter of FSDP that holds those of an adapted module and has no gradient of each."""
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
    """Refuse what is no number from zero."""
    faults = [
        Mismatch(f"`{name}`", "a number from 0", repr(rate)[:60], f"{name}={1e-4 if name == 'lr' else 1.0:g}")
        for name, rate in rates.items()
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < math.inf
    ]
    if faults:
        raise BuildError("param_groups does not take these rates", faults)
