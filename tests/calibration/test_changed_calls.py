"""Hooks and functions of a caller by which an adapted module returns something else than its plan says."""

from __future__ import annotations

import pytest
import torch
from calibration_models import pictures
from torch import nn

import autoadapt as aa

OLD = nn.Conv2d(3, 8, 2, 2).eval()
DATA = pictures(32, size=8).split(16)


def made():
    torch.manual_seed(1)
    return aa.adapt(nn.Conv2d(3, 5, 2, 2), like=OLD, inputs=DATA[0][:2])


def hooked(net):
    net.register_forward_hook(lambda _module, _args, output: output * 2)


def hooked_layer(net):
    net.adapters.output.project.register_forward_hook(lambda _module, _args, output: output.relu())


def replaced(net):
    forward = net.forward
    net.forward = lambda x: forward(x) + 1


def replaced_in_a_layer(net):
    layer = net.adapters.output.project
    layer.forward = lambda x: type(layer).forward(layer, x) * 2


@pytest.mark.parametrize("change", [hooked, hooked_layer, replaced, replaced_in_a_layer])
def test_what_is_not_returned_is_not_fitted(change):
    net = made()
    change(net)
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with pytest.raises(aa.CalibrationError, match="something else than its plan says") as caught:
        aa.calibrate(net, like=OLD, data=DATA)
    (fault,) = caught.value.mismatches
    assert fault.where == ("adapters.output.project" if "layer" in change.__name__ else "net")
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())


def looking(net):
    seen = []
    net.register_forward_hook(lambda _module, _args, output: seen.append(output))
    net.adapters.output.project.register_forward_hook(lambda _module, _args, output: seen.append(output))


def wrapped(net):
    forward = net.forward
    net.forward = lambda *args, **kwargs: forward(*args, **kwargs)


def changed_inside(net):
    net.backbone.register_forward_hook(lambda _module, _args, output: output * 2)


def changed_before(net):
    net.register_forward_pre_hook(lambda _module, args: (args[0] * 2,))


@pytest.mark.parametrize("change", [looking, wrapped, changed_inside, changed_before])
def test_what_changes_nothing_behind_the_features_is_fitted_and_said_as_it_is(change):
    net = made().eval()
    change(net)
    found = aa.calibrate(net, like=OLD, data=DATA, augment=0)
    assert found.written
    fresh = pictures(64, size=8, seed=5)
    with torch.no_grad():
        wanted, got = OLD(fresh), net(fresh)
    variance = ((wanted - wanted.mean((0, 2, 3), keepdim=True)) ** 2).sum()
    assert found.outputs[0].r2 == pytest.approx(1 - float(((got - wanted) ** 2).sum() / variance), abs=0.05)
