"""Functions that hold parts of a module, as hooks and a `forward` on the instance: those of a copy run on the copy."""

import copy
import functools
import threading
import types

import pytest
import torch
from torch import nn

import autoadapt as aa
from autoadapt.contracts.views import view


class Two(nn.Module):
    """Two layers with a norm between them; what is set up holds parts of it."""

    def __init__(self, width):
        super().__init__()
        self.first, self.norm = nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width)
        self.second, self.kept = nn.Conv2d(width, width, 3, 2, 1), {}
        self.set_up()

    def set_up(self):
        """Nothing of its own."""

    def both(self, x):
        return self.second(self.norm(self.first(x)))

    def forward(self, x):
        self.both(x)
        return [self.kept[0], self.kept[1]]

    def hook(self, make):
        for number, part in enumerate((self.first, self.second)):
            part.register_forward_hook(make(number))


class HookOfSelf(Two):
    """A lambda that names self, in a list of maps."""

    def set_up(self):
        self.maps = []
        self.hook(lambda _: lambda module, args, made: self.maps.append(made))

    def forward(self, x):
        self.maps.clear()
        self.both(x)
        return list(self.maps)


class HookOfDict(Two):
    """Its dict stands in a default argument."""

    def set_up(self):
        self.hook(lambda n: lambda module, args, made, kept=self.kept: kept.update({n: made}))


class HookInPartial(Two):
    """One function for all, within functools.partial."""

    def set_up(self):
        def keep(number, module, args, made):
            self.kept[number] = made

        self.hook(lambda n: functools.partial(keep, n))


class Store:
    """What a library keeps maps in; its lock cannot be copied."""

    def __init__(self):
        self.kept, self.lock = {}, threading.Lock()


class HookOfStore(Two):
    """An object that the module holds as well."""

    def set_up(self):
        self.store = store = Store()
        self.hook(lambda n: lambda module, args, made: store.kept.update({n: made}))

    def forward(self, x):
        self.both(x)
        return [self.store.kept[0], self.store.kept[1]]


class LocalList(Two):
    """Hooks fill a list that only the new forward holds."""

    def set_up(self):
        maps = []
        self.hook(lambda _: lambda module, args, made: maps.append(made))

        def forward(x):
            maps.clear()
            self.both(x)
            return list(maps)

        self.forward = forward


class NonLocal(Two):
    """A hook sets a name that forward reads."""

    def set_up(self):
        kept = None

        def keep(module, args, made):
            nonlocal kept
            kept = made

        def forward(x):
            y = self.both(x)
            return [kept, y]

        self.first.register_forward_hook(keep)
        self.forward = forward


class Wrapped(Two):
    """A forward around the method of its class, as mixed precision puts it there."""

    def set_up(self):
        inner = self.forward

        @functools.wraps(inner)
        def forward(*args):
            return inner(*args)

        self.forward = forward

    def forward(self, x):
        y = self.first(x)
        return [y, self.second(self.norm(y))]


class OwnMethod(Two):
    """A function bound to it, that holds a bound method."""

    def set_up(self):
        inner = self.both
        self.forward = types.MethodType(lambda module, x: [module.first(x), inner(x)], self)


class Recursive(Two):
    """A function that holds itself and a list of parts."""

    def set_up(self):
        parts = [self.first, self.norm, self.second]

        def run(x, number):
            return x if number == len(parts) else run(parts[number](x), number + 1)

        self.forward = lambda x: [self.first(x), run(x, 0)]


class LayerOverTensors(Two):
    """The forward of a part holds its weight and bias."""

    def set_up(self):
        weight, bias = self.second.weight, self.second.bias
        self.second.forward = lambda x: nn.functional.conv2d(x, weight, bias, 2, 1)

    def forward(self, x):
        y = self.first(x)
        return [y, self.second(self.norm(y))]


HOLDING = (
    HookOfSelf,
    HookOfDict,
    HookInPartial,
    HookOfStore,
    LocalList,
    NonLocal,
    Wrapped,
    OwnMethod,
    Recursive,
    LayerOverTensors,
)


def state(*modules):
    return [tensor.clone() for module in modules for tensor in module.state_dict().values()]


def equal(left, right):
    return len(left) == len(right) and all(map(torch.equal, left, right))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", HOLDING, ids=lambda kind: kind.__name__)
def test_an_adapted_module_runs_its_own_parts_and_leaves_those_of_the_given_alone(kind):
    old, new, x = kind(8), kind(4), torch.rand(2, 3, 32, 32)
    before = state(old, new)
    net = aa.adapt(new, like=old, inputs=x)
    assert equal(state(old, new), before)
    assert not new.kept
    assert not getattr(new, "maps", ())
    assert [tuple(y.shape) for y in net.eval()(x)] == [tuple(y.shape) for y in old.eval()(x)]
    with torch.no_grad():
        assert equal(net.backbone(x), new.eval()(x))


def test_verify_and_deep_copies_of_an_adapted_module_run_its_own_parts_too():
    old, new, x = LocalList(8), LocalList(4), torch.rand(2, 3, 32, 32)
    net, before = aa.adapt(new, like=old, inputs=x), state(old, new)
    report = net.verify(x, sizes=[{"H": 32, "W": 32}])
    assert report.passed, report
    assert equal(state(old, new), before)
    twin = copy.deepcopy(net).eval()
    twin.backbone.first.weight.data.zero_()
    assert not torch.equal(twin(x)[0], net.eval()(x)[0])


def test_a_function_that_holds_what_is_the_callers_is_handed_on_as_it_is():
    log, model = [], nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    model[0].register_forward_hook(lambda module, args, made: log.append(made.shape))
    view(model)(torch.rand(1, 3, 8, 8))
    assert log == [(1, 4, 6, 6)]


def test_hooks_of_a_part_hold_the_whole_that_is_copied_with_it():
    model = nn.Module()
    model.part, model.seen = nn.Conv2d(3, 4, 3), []
    model.part.register_forward_hook(lambda module, args, made: model.seen.append(made))
    other = view(model.part)
    other(torch.rand(1, 3, 8, 8))
    assert not model.seen
