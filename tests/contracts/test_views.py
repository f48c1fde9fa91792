"""A view shares storage and nothing else: what happens to it never reaches the original."""

import copy
import functools
import threading

import pytest
import timm
import torch
from small_models import Pyramid, image
from torch import nn

from autoadapt.contracts.tapping import tap
from autoadapt.contracts.views import clone_buffers, copy_module, cut, on_meta, view
from autoadapt.errors import CaptureError


def storages(module):
    return {name: tensor.data_ptr() for name, tensor in module.state_dict().items()}


def test_a_view_has_its_own_objects_over_the_same_storage():
    model = timm.create_model("resnet18")
    other = view(model)
    assert storages(other) == storages(model)
    mine, theirs = set(map(id, model.modules())), set(map(id, other.modules()))
    assert not mine & theirs
    assert not set(map(id, model.parameters())) & set(map(id, other.parameters()))


def test_casts_moves_gradients_hooks_and_surgery_stay_on_the_view():
    model = Pyramid(4, 8)
    other = view(model)
    other(image())[1].sum().backward()
    other.half().to("meta")
    other.register_forward_hook(print)
    other.stages[0] = nn.Identity()
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert {p.device.type for p in model.parameters()} == {"cpu"}
    assert all(p.grad is None for p in model.parameters())
    assert not model._forward_hooks
    assert isinstance(model.stages[0], nn.Sequential)


def test_training_in_place_reaches_the_original():
    model = Pyramid(4)
    with torch.no_grad():
        next(view(model).parameters()).fill_(7.0)
    assert torch.all(next(model.parameters()) == 7.0)


def test_tied_parameters_stay_tied_and_frozen_ones_frozen():
    model = nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3))
    model[1].weight = model[0].weight
    model[0].bias.requires_grad_(False)
    other = view(model)
    assert other[1].weight is other[0].weight
    assert [p.requires_grad for p in other.parameters()] == [p.requires_grad for p in model.parameters()]


class Caching(nn.Module):
    """Keeps tensors in plain attributes, as modules with a bias cache do, and a bound method."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.cache = {"ones": torch.ones(3)}
        self.table = [torch.zeros(2)]
        self.forward_again = self.forward

    def forward(self, x):
        self.cache[x.shape] = x * self.weight
        return self.cache[x.shape]


def test_tensors_in_plain_attributes_and_bound_methods_are_the_views_own():
    model = Caching()
    other = copy_module(model, on_meta)
    assert other.cache["ones"].device.type == other.table[0].device.type == "meta"
    assert other.forward_again.__self__ is other
    other(torch.ones(3, device="meta"))
    assert list(model.cache) == ["ones"]
    assert model.cache["ones"].device.type == "cpu"


def test_a_copy_for_a_real_run_writes_to_its_own_buffers():
    model = Pyramid(4).train()
    before = copy.deepcopy(model.state_dict())
    other = copy_module(model, clone_buffers)
    other(image())
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert next(other.parameters()).data_ptr() == next(model.parameters()).data_ptr()


def test_a_compiled_model_is_taken_out_of_its_wrapper():
    model = Pyramid(4)
    assert type(view(torch.compile(model, backend="eager"))) is Pyramid


def test_weight_norm_survives():
    model = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4))
    x = torch.randn(2, 3)
    assert torch.equal(view(model)(x), model(x))


class Connection:
    def __init__(self, lock):
        self.lock, self.scale = lock, torch.ones(2)


def test_what_cannot_be_copied_is_shared_and_everything_around_it_is_copied():
    model, lock = Pyramid(4), threading.Lock()
    model.numbers = (number for number in range(3))
    model.held = {"connections": [Connection(lock)], "functions": functools.partial(print, lock, end=torch)}
    found = view(model)
    connection, before = found.held["connections"][0], model.held["connections"][0]
    assert found.numbers is model.numbers
    assert connection.lock is lock
    assert connection is not before
    assert connection.scale is not before.scale
    assert connection.scale.data_ptr() == before.scale.data_ptr()
    assert found.held["functions"].keywords["end"] is torch


def test_a_generator_of_random_numbers_is_not_shared():
    model = Pyramid(4)
    model.random = torch.Generator().manual_seed(3)
    copied = copy_module(model, on_meta)
    torch.rand(5, generator=copied.random)
    assert torch.equal(torch.rand(2, generator=model.random), torch.rand(2, generator=torch.Generator().manual_seed(3)))


class Owner:
    def __deepcopy__(self, memo):
        raise RuntimeError("it owns a connection")


def test_an_attribute_that_cannot_even_be_shared_is_refused_by_name():
    model = Pyramid(4)
    model.stages[0].owner = Owner()
    with pytest.raises(CaptureError) as caught:
        view(model)
    assert "Pyramid cannot be copied for a view\nstages.0.owner\n" in str(caught.value)
    assert "it owns a connection" in str(caught.value)
    assert "remove the attribute from the module, or give it a __deepcopy__" in str(caught.value)


def test_parameters_without_a_shape_are_refused_with_what_to_do():
    with pytest.raises(CaptureError) as caught:
        view(nn.Sequential(nn.ReLU(), nn.LazyLinear(3)))
    assert "model(inputs)  # run the model once first" in str(caught.value)
    assert "found     LazyLinear, which has not run yet" in str(caught.value)


def test_a_view_costs_no_memory_for_weights():
    model = timm.create_model("resnet26")
    unique = {tensor.data_ptr() for tensor in [*model.parameters(), *view(model).parameters()]}
    assert len(unique) == len(list(model.parameters()))


def test_taps_return_inner_outputs_bit_for_bit():
    model = timm.create_model("resnet18").eval()
    seen = {}
    handles = [
        model.get_submodule(path).register_forward_hook(lambda m, a, out, path=path: seen.update({path: out}))
        for path in ("layer2", "layer4.0")
    ]
    other = view(model)
    x = torch.randn(1, 3, 64, 64)
    model(x)
    for handle in handles:
        handle.remove()
    tap(other, [("layer4.0", 0, "output"), ("layer2", 0, "output")])
    assert all(map(torch.equal, other(x), (seen["layer4.0"], seen["layer2"])))
    assert not model.layer2._forward_hooks


def test_a_tap_that_does_not_exist_is_refused_with_the_nearest_name():
    with pytest.raises(CaptureError, match="a tap does not exist") as caught:
        tap(view(timm.create_model("resnet18")), [("layer5", 0, "output")])
    assert "layer5" in str(caught.value)
    assert '"layer' in str(caught.value)


def test_what_is_cut_does_nothing_only_where_the_rest_still_runs():
    other = view(timm.create_model("resnet18"))
    x = torch.randn(1, 3, 64, 64)

    def runs(module):
        try:
            module(x)
        except RuntimeError:
            return False
        return True

    assert cut(other, ["layer1", "fc"], runs) == ["layer1", "fc"]
    assert isinstance(other.layer1, nn.Sequential)
    assert not list(other.layer1)
    assert isinstance(other.fc, nn.Identity)
    assert cut(other, ["layer3"], runs) == []
    assert isinstance(other.layer3, nn.Sequential)


class Seeded:
    """Any object that holds a generator."""

    def __init__(self):
        self.generator = torch.Generator().manual_seed(5)


@pytest.mark.parametrize(
    ("held", "inside"),
    [
        (torch.Generator(), lambda one: one),
        ({"one": [torch.Generator()]}, lambda one: one["one"][0]),
        (Seeded(), lambda one: one.generator),
        ([threading.Lock(), torch.Generator()], lambda one: one[1]),
    ],
)
def test_torch_generators_are_copied_with_their_state_wherever_a_module_keeps_them(held, inside):
    module = nn.Conv2d(3, 4, 3)
    module.held = held
    copied = copy_module(module, on_meta)
    assert copied.weight.is_meta
    assert inside(copied.held) is not inside(held)
    assert torch.equal(inside(copied.held).get_state(), inside(held).get_state())


def test_a_state_for_generators_keeps_its_values_on_the_meta_device():
    module = nn.Conv2d(3, 4, 3)
    module.start = torch.Generator().manual_seed(3).get_state()
    copied = copy_module(module, on_meta)
    assert torch.equal(copied.start, module.start)
    assert copied.start is not module.start
