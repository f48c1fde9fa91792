"""Modules that a model keeps in plain lists beside its submodules, or instead of them."""

import copy
import functools

import pytest
import torch
from small_models import Pyramid, image
from torch import nn

import autoadapt as aa


class Listed(nn.Module):
    """Registered layers that `forward` runs out of a plain container; `past` runs them by name."""

    def __init__(self, keep):
        super().__init__()
        self.a, self.b, self.c = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(8, 2, 1)
        self.kept = keep(self.a, self.b)

    def layers(self):
        return self.kept.values() if isinstance(self.kept, dict) else self.kept

    def forward(self, x, by_name=True):
        for layer in (self.a, self.b) if by_name else self.layers():
            x = (layer[0] if isinstance(layer, tuple) else layer)(x).relu()
        return self.c(x)


KEEPS = {
    "list": lambda a, b: [a, b],
    "tuple": lambda a, b: (a, b),
    "dict": lambda a, b: {"first": a, "second": b},
    "pairs in a list": lambda a, b: [(a, "first"), (b, "second")],
}


@pytest.mark.sampled(1)
@pytest.mark.parametrize("by_name", [True, False])
@pytest.mark.parametrize("keep", KEEPS)
def test_modules_that_a_plain_container_holds_too_are_replaced_there(keep, by_name):
    torch.manual_seed(0)
    model = Listed(KEEPS[keep])
    aa.swap(model, "a:b", Pyramid(6, 12), inputs={"x": image(), "by_name": by_name}).eval()
    x = image(2, 48, 40)
    with torch.no_grad():
        expected = model.c(model.a.alone()(x)["b"].relu())
        assert torch.equal(model(x), expected)
        assert torch.equal(model(x, by_name=False), expected)
        assert torch.equal(copy.deepcopy(model)(x, by_name=False), expected)


def test_a_submodule_that_a_plain_list_holds_too_is_replaced_there():
    torch.manual_seed(0)
    model = Listed(KEEPS["list"])
    aa.swap(model, "b", nn.Conv2d(8, 12, 3, 2, 1), inputs=image()).eval()
    assert model.kept == [model.a, model.b]
    with torch.no_grad():
        assert torch.equal(model(image()), model(image(), by_name=False))


def test_a_refused_swap_leaves_plain_lists_as_they_were():
    model = Listed(KEEPS["list"])
    before = list(model.kept)
    aa.swap(model, "a:b", Pyramid(6, 12), inputs=image(), dry_run=True)
    with pytest.raises(aa.SwapError):
        aa.swap(model, "a:b", Pyramid(6, 12), inputs=image(), outputs=["nope"])
    assert model.kept == before


def test_a_module_that_a_function_holds_is_named_since_the_model_would_go_on_running_it():
    model = Listed(lambda a, b: [functools.partial(a), functools.partial(b)])
    with pytest.raises(aa.SwapError, match="does not return what it did") as raised:
        aa.swap(model, "a:b", Pyramid(6, 12), inputs={"x": image(), "by_name": False})
    text = str(raised.value)
    assert "a module that is called once" in text
    assert "the model holds another reference to the old module: replace that as well" in text


class Hidden(nn.Module):
    """A layer that no `named_modules` knows, between two others."""

    def __init__(self):
        super().__init__()
        self.conv1, self.layer1 = nn.Conv2d(3, 8, 3, 2, 1), nn.Conv2d(8, 12, 3, 2, 1)
        self.between = [nn.Conv2d(8, 8, 3, 1, 1)]
        self.head = nn.Conv2d(12, 2, 1)

    def forward(self, x):
        x = self.conv1(x)
        for layer in self.between:
            x = layer(x)
        return self.head(self.layer1(x))


@pytest.mark.parametrize("region", [["between"], "between.0", "between.0:layer1", ["conv1", "between[0]", "layer1"]])
def test_a_path_into_a_plain_list_is_refused_with_the_code_that_registers_it(region):
    with pytest.raises(aa.SwapError) as raised:
        aa.swap(Hidden(), region, Pyramid(6, 12), inputs=image())
    assert str(raised.value).splitlines()[-3:] == [
        "  expected  a registered module",
        "  found     one in a plain attribute, which PyTorch does not see",
        "  try       model.between = torch.nn.ModuleList(model.between)",
    ]


def test_an_unregistered_layer_between_the_modules_of_a_region_is_named_and_once_registered_belongs_to_it():
    torch.manual_seed(0)
    model = Hidden()
    with pytest.raises(aa.SwapError) as raised:
        aa.swap(model, "conv1:layer1", Pyramid(6, 12), inputs=image())
    assert str(raised.value).splitlines()[1:] == [
        "between[0]",
        "  expected  registered modules",
        "  found     weights of between[0], in a plain attribute, which PyTorch does not see, enter at conv2d",
        "  try       model.between = torch.nn.ModuleList(model.between)",
    ]
    model.between = nn.ModuleList(model.between)
    aa.swap(model, "conv1:layer1", Pyramid(6, 12), inputs=image()).eval()
    with torch.no_grad():
        assert torch.equal(model(image()), model.head(model.conv1.alone()(image())))


@pytest.mark.parametrize("path", ["part", ["part", "b"]])
def test_parts_of_old_modules_that_a_plain_list_goes_on_holding_are_remarked(path):
    model = nn.Sequential()
    model.part, model.b = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1)), nn.Conv2d(8, 8, 3, 2, 1)
    model.frozen = [model.part[0]]
    report = aa.swap(model, path, Pyramid(6), inputs=image(), dry_run=True)
    assert any(remark.startswith("`frozen` of the model goes on holding parts") for remark in report.parts[0].remarks)
