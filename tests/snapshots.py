"""Everything of a model that a refused swap must leave alone."""

from __future__ import annotations

from typing import Any

from torch import nn


def snapshot(model: nn.Module) -> dict[str, Any]:
    """Weights with their versions, objects, attributes, hooks and modes, so that two snapshots compare equal."""
    modules = dict(model.named_modules(remove_duplicate=False))
    return {
        "weights": {
            name: (t.data_ptr(), t._version, float(t.double().sum())) for name, t in model.state_dict().items()
        },
        "parameters": {name: (id(p), p.requires_grad, id(p.grad)) for name, p in model.named_parameters()},
        "modules": {name: id(module) for name, module in modules.items()},
        "classes": {name: type(module) for name, module in modules.items()},
        "attributes": {name: sorted(vars(module)) for name, module in modules.items()},
        "hooks": {name: (list(m._forward_hooks), list(m._forward_pre_hooks)) for name, m in modules.items()},
        "modes": {name: module.training for name, module in modules.items()},
    }
